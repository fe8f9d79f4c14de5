"""What the stage `conversations` tells the report; the keys are described in `generate.py`."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from danlu.conversations.lexicon import RUNS, Vocabulary
from danlu.conversations.records import Conversation
from danlu.conversations.skills.arithmetic import held_out_sums

EXAMPLES_PER_SKILL = 2


def conversation_figures(sets: dict[str, list[Conversation]], vocabularies: dict[str, Vocabulary]) -> dict[str, Any]:
    """Counts, words and examples of the three files."""
    train = sets["train"]
    characters = sum(len(message.content) for item in train for message in item.messages)
    return {
        "counts": {name: _by_skill(items) for name, items in sets.items()},
        "words": {name: _words(words, sets) for name, words in vocabularies.items()},
        "multi_turn": sum(sum(m.role == "user" for m in item.messages) > 1 for item in train),
        "with_system": sum(item.messages[0].role == "system" for item in train),
        "characters_per_conversation": round(characters / len(train), 1),
        "held_out_sums": sorted(f"{a}+{b}" for a, b in held_out_sums()),
        "examples": _examples([*sets["test"], *sets["unseen"]]),
    }


def _by_skill(items: Iterable[Conversation]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for item in items:
        by_language = counts.setdefault(item.skill or "", {})
        by_language[item.language or ""] = by_language.get(item.language or "", 0) + 1
    return {skill: counts[skill] for skill in sorted(counts)}


def _words(vocabulary: Vocabulary, sets: dict[str, list[Conversation]]) -> dict[str, Any]:
    return {
        "seen": len(vocabulary.seen),
        "unseen": len(vocabulary.unseen),
        "examples_seen": list(vocabulary.seen[:: max(len(vocabulary.seen) // 12, 1)][:12]),
        "examples_unseen": list(vocabulary.unseen[:: max(len(vocabulary.unseen) // 12, 1)][:12]),
        # Frequency ranks of the copied words: the two medians should be near each other.
        "median_rank": {name: _median_rank(sets[name], vocabulary) for name in ("test", "unseen")},
    }


def _median_rank(items: list[Conversation], vocabulary: Vocabulary) -> float | None:
    ranks = [
        vocabulary.ranks[word]
        for item in items
        if item.check and item.check["kind"] == "copy" and item.language == vocabulary.language
        for word in RUNS.findall(item.check["text"])
        if word in vocabulary.ranks
    ]
    return median(ranks) if ranks else None


def _examples(items: Iterable[Conversation]) -> dict[str, list[dict[str, Any]]]:
    examples: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        shown = examples.setdefault(item.skill or "", [])
        if len(shown) < EXAMPLES_PER_SKILL and all(other["language"] != item.language for other in shown):
            shown.append(item.to_json())
    return examples

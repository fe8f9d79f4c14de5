"""What the stage `comparisons` tells the report; the keys are described in `compare.py`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from danlu.conversations.comparisons import Comparison
from danlu.conversations.preference_baselines import length_bias
from danlu.conversations.records import Conversation
from danlu.conversations.responses import JudgedResponses, count_verdicts

EXAMPLES_PER_SOURCE = 4


def comparison_figures(
    sets: dict[str, list[Comparison]],
    prompts: Sequence[Conversation],
    judged: Sequence[JudgedResponses],
    dropped: Mapping[str, int],
    num_turned: int,
) -> dict[str, Any]:
    """Counts, biases and examples of the files."""
    return {
        "counts": {name: _counts(pairs) for name, pairs in sets.items()},
        "prompts": dict(sorted(Counter(item.skill or "" for item in prompts).items())),
        "length_bias": {name: length_bias(pairs) for name, pairs in sets.items()},
        "turned_pairs": num_turned,
        "responses": count_verdicts(judged),
        "dropped": dict(sorted(dropped.items())),
        "examples": _examples(sets["test"]),
    }


def _counts(pairs: Sequence[Comparison]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for pair in pairs:
        by_language = counts.setdefault(pair.source or "", {})
        by_language[pair.language or ""] = by_language.get(pair.language or "", 0) + 1
    return {source: counts[source] for source in sorted(counts)}


def _examples(pairs: Sequence[Comparison]) -> dict[str, list[dict[str, Any]]]:
    """The first pairs of each source, each of another skill."""
    examples: dict[str, list[dict[str, Any]]] = {}
    for pair in pairs:
        shown = examples.setdefault(pair.source or "", [])
        if len(shown) < EXAMPLES_PER_SOURCE and all(other["skill"] != pair.skill for other in shown):
            shown.append(pair.to_json())
    return examples

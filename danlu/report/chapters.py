"""The chapters on data: raw material, corpus, tokenizer, conversations.

In: the run's folder and its summary. Out: what `templates/` shows of each stage, as plain values; a figure that a stage
did not save is None or an empty list, and its place on the page stays empty.
"""

import json
import math
from pathlib import Path
from typing import Any

from danlu.report.formatting import is_number
from danlu.report.labels import LANGUAGES, REASONS, SCORES, SKILLS, STEPS, in_order, label
from danlu.run.errors import UserError

Figures = dict[str, Any]

TOKEN_SAMPLES = (
    "今天北京天气很好，人民代表在会上发言。",
    "The following example shows how to use a model.",
    "def read(self, path):\n    return open(path, encoding='utf-8')",
)
"""Sentences whose cutting is shown. Our choice: both languages and code, in the manner of the demo's corpus."""


def read_json(path: Path) -> Any:
    """What a JSON file holds; an empty object when it is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def share(part: Any, whole: Any) -> float | None:
    """`part` of `whole`; None where one is missing or the whole is nothing."""
    return part / whole if is_number(part) and is_number(whole) and whole else None


def total(counts: Figures) -> float:
    """Sum of the numbers in an object."""
    return sum(value for value in counts.values() if is_number(value))


def raw_material(run: Path, summary: Figures) -> Figures:
    """Sources as they were fetched."""
    sources = summary["fetch"].get("sources", {})
    rows = [{"name": name, **values} for name, values in sources.items()]
    sizes = [row.get("bytes", 0) for row in rows]
    return {
        "rows": [row | {"share": share(row.get("bytes"), max(sizes))} for row in rows],
        "files": sum(row.get("files", 0) for row in rows),
        "bytes": sum(sizes),
    }


def corpus(run: Path, summary: Figures) -> Figures:
    """The funnel, what each rule dropped, sources, languages and examples."""
    figures = summary["corpus"]
    documents_in, kept = figures.get("documents_in"), figures.get("documents_kept")
    dropped = dict(sorted(figures.get("dropped", {}).items(), key=lambda item: -item[1]))
    most = max(dropped.values(), default=0)
    steps = [
        {**step, "label": label(STEPS, step["step"]), "share": share(step.get("documents"), documents_in)}
        | {"lost": share(step.get("dropped"), documents_in)}
        for step in figures.get("steps", [])
    ]
    return {
        "figures": figures,
        "dropped_total": total(dropped),
        "adds_up": documents_in is not None and documents_in == (kept or 0) + total(dropped),
        "kept_share": share(kept, documents_in),
        "steps": steps,
        "reasons": [
            {"name": name, "why": REASONS.get(name, ""), "count": number, "share": share(number, most)}
            for name, number in dropped.items()
        ],
        "sources": _sources(figures.get("sources", {})),
        "languages": languages(figures),
        "funnel": _funnel(figures.get("steps", [])),
        "histograms": _histograms(figures.get("histograms", {}), figures.get("thresholds", {})),
        "clusters": read_json(run / "corpus" / "examples.json").get("clusters", []),
        "examples": _examples(read_json(run / "corpus" / "examples.json")),
    }


def _funnel(steps: list[Figures]) -> list[Figures]:
    """For each source and language, what was read, and what was left after each step: documents, bytes, tokens."""
    rows = []
    for kind in ("sources", "languages"):
        names = steps[0].get(kind, {}) if steps else {}
        for name in names:
            lefts = [step[kind].get(name, {}) for step in steps]
            first, last = lefts[0], lefts[-1]
            bars = [share(left.get("bytes"), first.get("bytes")) for left in lefts]
            rows.append({"kind": kind, "name": name, "first": first, "last": last, "bars": bars})
    return rows


def _histograms(histograms: Figures, thresholds: Figures) -> list[Figures]:
    """The spread of each score by language: heights of its bars, and where its threshold stands, 0 to 1."""
    drawn = []
    for score in in_order(SCORES, set(histograms)):
        for language in in_order(LANGUAGES, set(histograms[score])):
            counts = histograms[score][language]
            bounds = thresholds.get(score, {})
            bound = bounds.get(language, bounds.get("*"))
            if score == "perplexity" and bound is not None:
                bound = math.log10(max(bound, 1)) / 5
            heights = [share(count, max(counts)) or 0 for count in counts]
            names = {"label": label(SCORES, score), "language": label(LANGUAGES, language), "style": language}
            drawn.append({**names, "heights": heights, "bound": bound, "documents": sum(counts)})
    return drawn


def _sources(sources: Figures) -> list[Figures]:
    rows = []
    for name, values in sources.items():
        dropped = values.get("dropped", {})
        whole = values.get("kept", 0) + total(dropped)
        worst = sorted(dropped.items(), key=lambda item: -item[1])[:3]
        rows.append(
            {"name": name, "kept": values.get("kept"), "dropped": total(dropped), "worst": worst}
            | {"share": share(values.get("kept"), whole)}
        )
    return rows


def languages(figures: Figures) -> list[Figures]:
    """Documents and bytes of each language in both splits, the largest first, with its share of the training bytes."""
    sizes = {split: figures.get(split, {}).get("bytes", {}) for split in ("train", "validation")}
    counts = {split: figures.get(split, {}).get("documents", {}) for split in ("train", "validation")}
    whole = total(sizes["train"])
    names = sorted(sizes["train"] | sizes["validation"], key=lambda name: -sizes["train"].get(name, 0))
    return [
        {
            "name": name,
            "label": label(LANGUAGES, name),
            "share": share(sizes["train"].get(name, 0), whole),
            **{f"{split}_bytes": sizes[split].get(name) for split in sizes},
            **{f"{split}_documents": counts[split].get(name) for split in counts},
        }
        for name in names
    ]


def _examples(examples: Figures) -> Figures:
    """Kept examples by language, dropped ones by reason."""
    kept, dropped = examples.get("kept", {}), examples.get("dropped", {})
    return {
        "kept": [(label(LANGUAGES, name), kept[name]) for name in in_order(LANGUAGES, set(kept))],
        "dropped": [(name, REASONS.get(name, ""), dropped[name]) for name in in_order(REASONS, set(dropped))],  # type: ignore[arg-type]
    }


def tokenizer(run: Path, summary: Figures) -> Figures:
    """Compression by language, tokens of each split, and how sentences are cut."""
    figures, tokens = summary["tokenizer"], summary.get("tokens", {})
    measured = figures.get("validation", {})
    longest = max((values.get("bytes_per_token", 0) for values in measured.values()), default=0)
    rows = [
        {
            **measured[name],
            "name": name,
            "label": label(LANGUAGES, name),
            "share": share(measured[name].get("bytes_per_token"), longest),
            "character_share": share(measured[name].get("bytes_per_character"), longest),
            "train_tokens": tokens.get("train", {}).get(name, {}).get("tokens"),
            "validation_tokens": tokens.get("validation", {}).get(name, {}).get("tokens"),
        }
        for name in in_order(LANGUAGES, set(measured))
    ]
    mixing = tokens.get("sources", {})
    return {
        "figures": figures,
        "rows": rows,
        "mixing": mixing,
        "samples": _cut_samples(run / "tokenizer" / "tokenizer"),
    }


def _cut_samples(folder: Path) -> list[list[Figures]]:
    """The pieces of each sample sentence; none where the tokenizer cannot be opened."""
    from danlu.tokenizer.bpe import Tokenizer

    try:
        opened = Tokenizer.load(folder)
    except UserError:
        return []
    return [[piece(opened.decode_bytes([token])) for token in opened.encode(text)] for text in TOKEN_SAMPLES]


def piece(token: bytes) -> Figures:
    """A token as text, or as its bytes where it is a part of a character."""
    try:
        return {"text": token.decode("utf-8").replace("\n", "↵"), "whole": True}
    except UnicodeDecodeError:
        return {"text": token.hex(" ").upper(), "whole": False}


def conversations(run: Path, summary: Figures) -> Figures:
    """How many conversations of each skill, one or two of each, and the words they are made of."""
    figures = summary["conversations"]
    counts = figures.get("counts", {})
    examples = figures.get("examples", {})
    skills = in_order(SKILLS, {name for split in counts.values() for name in split})
    most = max((total(values) for values in counts.get("train", {}).values()), default=0)
    rows = [
        {
            "name": name,
            "label": label(SKILLS, name),
            "unseen": name.endswith("_unseen"),
            "languages": counts.get("train", {}).get(name, {}),
            "train": total(counts.get("train", {}).get(name, {})) or None,
            "test": sum(total(counts.get(split, {}).get(name, {})) for split in ("test", "unseen")) or None,
            "share": share(total(counts.get("train", {}).get(name, {})), most),
            "examples": examples.get(name, []),
        }
        for name in skills
    ]
    return {
        "figures": figures,
        "rows": rows,
        "total": sum(row["train"] or 0 for row in rows),
        "alignment": sum(total(values) for values in counts.get("alignment", {}).values()),
        "languages": in_order(LANGUAGES, {name for row in rows for name in row["languages"]}),
        "words": [(label(LANGUAGES, name), values) for name, values in figures.get("words", {}).items()],
    }

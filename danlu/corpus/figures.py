"""What the corpus build measured: counts at every step, per source, language and encoding, and a few examples.

Every record that was read is seen once, so documents in = kept + dropped by each reason, exactly.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from danlu.corpus.clean import EXCERPT_CHARACTERS, STEPS

EXAMPLES_EACH = 3
"""Examples kept for each reason and each language. Our choice: a reader looks at two or three."""


@dataclass
class Tally:
    """Counts rows as they pass; `figures()` and `examples` are written to JSON."""

    files: int
    files_passed_over: int
    documents_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_by_step: Counter[str] = field(default_factory=Counter)
    bytes_dropped_by_step: Counter[str] = field(default_factory=Counter)
    reasons_by_source: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    kept_by_source: Counter[str] = field(default_factory=Counter)
    encodings: Counter[str] = field(default_factory=Counter)
    size: dict[str, Counter[str]] = field(default_factory=lambda: {"train": Counter(), "validation": Counter()})
    count: dict[str, Counter[str]] = field(default_factory=lambda: {"train": Counter(), "validation": Counter()})
    clusters: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    examples: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=lambda: {"kept": {}, "dropped": {}})
    bytes_extracted: int = 0

    def see(self, row: dict[str, Any]) -> None:
        """Count a record, kept or dropped."""
        self.documents_in += 1
        self.bytes_extracted += row["size"]
        if row["encoding"]:
            self.encodings[row["encoding"]] += 1
        if row["reason"] is None:
            return
        self.dropped[row["reason"]] += 1
        self.dropped_by_step[row["step"]] += 1
        self.bytes_dropped_by_step[row["step"]] += row["size"]
        self.reasons_by_source[row["source"]][row["reason"]] += 1
        if "similarity" in row:
            self.clusters[row["keeper"]].append(row["similarity"])
        self.show("dropped", row["reason"], row)

    def keep(self, row: dict[str, Any], split: str) -> None:
        """Count a document of the result."""
        self.kept_by_source[row["source"]] += 1
        self.size[split][row["language"]] += row["size"]
        self.count[split][row["language"]] += 1
        self.show("kept", row["language"], row)

    def show(self, fate: str, name: str, row: dict[str, Any]) -> None:
        """Hold the examples of smallest id, which no order of the input changes."""
        shown = self.examples[fate].setdefault(name, [])
        example = {key: row[key] for key in ("id", "source", "url", "language")}
        example["excerpt"] = row["text"][:EXCERPT_CHARACTERS]
        example |= {key: row[key] for key in ("keeper", "similarity") if key in row}
        shown.append(example)
        shown.sort(key=lambda item: (item["id"], item["source"], item["url"]))
        del shown[EXAMPLES_EACH:]

    def end(self) -> None:
        """Check that nothing was lost on the way."""
        kept = sum(self.kept_by_source.values())
        assert self.documents_in == kept + self.dropped.total(), (self.documents_in, kept, self.dropped)

    def figures(self, warn_loss: float) -> dict[str, Any]:
        """The object written to `figures.json`; sizes are bytes of UTF-8."""
        left, size_left, steps = self.documents_in, self.bytes_extracted, []
        for step in STEPS:
            left -= self.dropped_by_step[step]
            size_left -= self.bytes_dropped_by_step[step]
            steps.append({"step": step, "documents": left, "dropped": self.dropped_by_step[step], "bytes": size_left})
        return {
            "files": self.files,
            "files_passed_over": self.files_passed_over,
            "documents_in": self.documents_in,
            "documents_kept": sum(self.kept_by_source.values()),
            "dropped": dict(sorted(self.dropped.items())),
            "steps": steps,
            "sources": {
                name: {
                    "kept": self.kept_by_source[name],
                    "dropped": dict(sorted(self.reasons_by_source[name].items())),
                }
                for name in self.source_names()
            },
            "train": {
                "documents": dict(sorted(self.count["train"].items())),
                "bytes": dict(sorted(self.size["train"].items())),
            },
            "validation": {
                "documents": dict(sorted(self.count["validation"].items())),
                "bytes": dict(sorted(self.size["validation"].items())),
            },
            "encodings": dict(sorted(self.encodings.items())),
            "near_duplicates": self.near_duplicates(),
            "warnings": self.warnings(warn_loss),
        }

    def near_duplicates(self) -> dict[str, Any]:
        """Clusters found, the largest one's size and its lowest similarity to the document that stays."""
        if not self.clusters:
            return {"clusters": 0, "largest": 0, "lowest_similarity": None}
        largest = max(self.clusters.values(), key=len)
        lowest = round(min(largest), 4)
        return {"clusters": len(self.clusters), "largest": len(largest) + 1, "lowest_similarity": lowest}

    def source_names(self) -> list[str]:
        return sorted(self.kept_by_source.keys() | self.reasons_by_source.keys())

    def warnings(self, warn_loss: float) -> list[str]:
        """Sources that are gone altogether, and those of which the near-duplicate step took a large share."""
        told = []
        for name in self.source_names():
            reasons = self.reasons_by_source[name]
            total = self.kept_by_source[name] + reasons.total()
            if not self.kept_by_source[name]:
                why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(3))
                told.append(f"all {total} documents of the source `{name}` were dropped ({why})")
            elif reasons["near_duplicate"] > warn_loss * total:
                told.append(f"near-duplicates took {reasons['near_duplicate']} of {total} documents of `{name}`")
        return told

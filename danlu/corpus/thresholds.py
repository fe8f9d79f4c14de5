"""Which scored documents the recipe's thresholds let through: reasons for columns of many, nothing is scored here.

In: columns of the scored table. Out: for each row the reason to drop it, "" for none, and the step of that reason.
"""

from collections.abc import Mapping

import numpy as np

from danlu.corpus.config import CODE, CorpusConfig
from danlu.corpus.scores.rules import broken_rules
from danlu.corpus.scores.safety import CLASSES

STEPS = (
    "read", "extract", "language", "quality", "safety", "decontamination", "exact_duplicates", "near_duplicates",
    "paragraphs",
)  # fmt: skip
"""The steps that can drop a document, in order. Quality comes before duplicates, so that a bad copy cannot take a good
one's place."""
MIXED_SHARE = 0.2
"""Share of a document in another language from which it counts as mixed. Our choice."""
Columns = Mapping[str, np.ndarray]


def reasons(columns: Columns, config: CorpusConfig) -> tuple[np.ndarray, np.ndarray]:
    """Step and reason for every row, both "" where no threshold drops it."""
    steps, found = columns["step"].astype(object), columns["reason"].astype(object)
    for step, rules in (
        ("language", language_rules(columns, config)),
        ("quality", quality_rules(columns, config)),
        ("safety", safety_rules(columns, config)),
        ("decontamination", [("contaminated", columns["contamination"] >= config.decontamination.threshold)]),
    ):
        for reason, is_broken in rules:
            chosen = is_broken & (found == "")
            steps[chosen], found[chosen] = step, reason
    return steps, found


def judged_language(columns: Columns, config: CorpusConfig) -> np.ndarray:
    """The language of each row; `unknown` where there are few letters or the verdict is doubtful."""
    is_code = columns["language"] == CODE
    is_sure = columns["language_confidence"] >= config.min_language_confidence
    has_letters = columns["letters"] >= config.min_language_letters
    return np.where(is_code | (is_sure & has_letters), columns["language"], "unknown")


def language_rules(columns: Columns, config: CorpusConfig) -> list[tuple[str, np.ndarray]]:
    """The allow-lists: of the whole corpus, and a source's own."""
    language = judged_language(columns, config)
    allowed = np.isin(language, list(config.languages))
    for name, source in config.sources.items():
        if source.languages:
            mine = columns["source"] == name
            allowed[mine] = np.isin(language[mine], list(source.languages))
    mixed = (columns["other_language"] >= MIXED_SHARE) & (not config.keep_mixed)
    return [("language_unknown", (language == "unknown") & ~allowed), ("other_language", ~allowed), ("mixed", mixed)]


def quality_rules(columns: Columns, config: CorpusConfig) -> list[tuple[str, np.ndarray]]:
    """The rules, and the bounds of what models say; a comparison with NaN, where there is no model, drops nothing."""
    language = judged_language(columns, config)
    kind = columns["kind"]
    rules = list(broken_rules(columns, language, kind == "web", kind == "books", config.quality))
    for name, bound in config.quality.max_perplexity.items():
        rules.append(("perplexity", (language == name) & (columns["perplexity"] > bound)))
    for name, bound in config.quality.min_classifier.items():
        rules.append(("classifier", (language == name) & (columns["quality"] < bound)))
    return rules


def safety_rules(columns: Columns, config: CorpusConfig) -> list[tuple[str, np.ndarray]]:
    """Offensive text, and personal data where documents that hold some are to go."""
    rules = [(name, columns[name] > getattr(config.safety, f"max_{name}")) for name in CLASSES]
    if config.safety.personal_data == "drop":
        rules.append(("personal_data", columns["personal_data"] > 0))
    return rules

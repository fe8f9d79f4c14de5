"""Every reason for which the corpus room drops a document has a label."""

import re
from pathlib import Path

from danlu.corpus.scores.safety import CLASSES
from danlu.report.labels import REASONS

CORPUS = Path(__file__).parents[2] / "danlu" / "corpus"
GIVEN = (
    r'problem = "(\w+)"', r'problem="(\w+)"', r'"(too_large)" if', r'"reason": "(\w+)"', r'"(extractor_died)"',
    r'SIG\w+: "(\w+)"', r'^        \(\s*"(\w+)", (?:\(?scores|np\.any)', r'\["?\(?"(\w+)", \(language', r'\("(mixed)"',
    r'\("(contaminated)"', r'"(other_language)", ~', r'append\(\("(\w+)", ', r'drop\(.*"(\w+)"\)$',
)  # fmt: skip


def test_every_reason_has_a_label() -> None:
    source = "\n".join(path.read_text() for path in sorted(CORPUS.rglob("*.py")))
    given = {reason for pattern in GIVEN for reason in re.findall(pattern, source, re.MULTILINE)}
    assert {
        "too_large", "broken_file", "not_a_page", "too_short", "near_duplicate", "empty", "too_slow", "contaminated",
        "mixed", "perplexity", "classifier", "personal_data", "exact_duplicate", "repeated_paragraphs", "lorem_ipsum",
    } <= given  # fmt: skip
    given |= set(CLASSES)
    assert given <= REASONS.keys(), given - REASONS.keys()

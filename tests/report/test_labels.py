"""Every reason for which the corpus room drops a document has a label."""

import re
from pathlib import Path

from danlu.report.labels import REASONS

CORPUS = Path(__file__).parents[2] / "danlu" / "corpus"
GIVEN = (
    r'problem = "(\w+)"', r'problem="(\w+)"', r'"(too_large)" if', r'dropped\("\w+", "(\w+)"',
    r'else "(other_language)"', r'^        \(\s*"(\w+)",', r'"reason": "(\w+)"',
)  # fmt: skip


def test_every_reason_has_a_label() -> None:
    source = "\n".join(path.read_text() for path in sorted(CORPUS.glob("*.py")))
    given = {reason for pattern in GIVEN for reason in re.findall(pattern, source, re.MULTILINE)}
    assert {"too_large", "broken_file", "not_a_page", "too_short", "near_duplicate", "empty"} <= given
    assert given <= REASONS.keys(), given - REASONS.keys()

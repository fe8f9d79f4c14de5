"""Quality rules: Gopher's and C4's, with counterparts for Chinese; source code has lenient rules of its own.

In: a text and its language. Out: scores (every share lies between 0 and 1, both sides of it counted in the same
units) and a verdict: None to keep, or the reason to drop.
"""

import re

import numpy as np

from danlu.corpus.config import CODE, QualityConfig

Scores = dict[str, float]

STOP_WORDS_EN = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
"""Gopher, appendix A."""
STOP_WORDS_ZH = frozenset("的是了在和有不这为与以之也而于其就都着被把等将从到对由及或一曰")
"""Our counterpart: the commonest function characters of modern Chinese, and those of the old language."""
STOP_WORDS = {"en": STOP_WORDS_EN, "zh": STOP_WORDS_ZH}
UNSPACED = frozenset(["zh", "ja", "th", "lo", "km", "my", "bo"])
"""Languages written without spaces between words: their rules count characters."""
BULLETS = ("-", "*", "•", "●", "·", "■", "◆", "○", "▪")
ELLIPSES = ("...", "…", "。。。")
SENTENCE_ENDS = re.compile(r"[。！？!?]+|\.(?=\s|$)")
LONG_NGRAMS = range(5, 11)
MEASURED_UNITS = 300_000
"""Words or characters whose n-grams are counted: longer documents are too long by default, and memory stays small."""
CHARACTERS_A_WORD = 2
"""An n-gram of words in Chinese is taken as one of twice as many characters: most Chinese words have two."""


def measure(text: str, language: str) -> Scores:
    """Scores of a text; the rules for words see characters in Chinese."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    by_characters = language in UNSPACED
    units = [c for c in text if not c.isspace()] if by_characters else text.split()
    scores = {
        "words": float(sum(map(str.isalpha, units)) if by_characters else len(units)),
        "mean_word_length": sum(map(len, units)) / max(len(units), 1),
        "symbols": share(sum("#" in unit or unit.endswith(ELLIPSES) for unit in units), len(units)),
        "bullet_lines": share(sum(line.startswith(BULLETS) for line in lines), len(lines)),
        "ellipsis_lines": share(sum(line.endswith(ELLIPSES) for line in lines), len(lines)),
        "alphabetic": share(sum(any(map(str.isalpha, unit)) for unit in units), len(units)),
        "alphanumeric": share(sum(map(str.isalnum, text)), len(text)),
        "stop_words": float(len(set(map(str.lower, units)) & STOP_WORDS.get(language, frozenset()))),
        "sentences": float(len(SENTENCE_ENDS.findall(text))),
        "braces": share(text.count("{") + text.count("}"), len(text)),
        "longest_line": float(max(map(len, lines), default=0)),
    }
    return scores | repetition(lines, units[:MEASURED_UNITS], CHARACTERS_A_WORD if by_characters else 1)


def share(part: float, whole: float) -> float:
    """`part` of `whole`, 0 for nothing of nothing."""
    return part / whole if whole else 0.0


def repetition(lines: list[str], units: list[str], scale: int) -> Scores:
    """Gopher's repetition scores. Blank lines are no lines; the first occurrence of anything is no repetition."""
    firsts = set(lines)
    total = sum(map(len, lines))
    scores = {
        "duplicate_lines": share(len(lines) - len(firsts), len(lines)),
        "duplicate_line_characters": share(total - sum(map(len, firsts)), total),
    }
    numbers: dict[str, int] = {}
    tokens = np.array([numbers.setdefault(unit, len(numbers)) for unit in units], dtype=np.uint64)
    lengths = np.array([len(unit) for unit in units], dtype=np.int64)
    for n in (2, 3, 4):
        scores[f"top_{n}gram"] = covered(tokens, lengths, n * scale, only_top=True)
    for n in LONG_NGRAMS:
        scores[f"duplicate_{n}grams"] = covered(tokens, lengths, n * scale, only_top=False)
    return scores


def covered(tokens: np.ndarray, lengths: np.ndarray, n: int, *, only_top: bool) -> float:
    """Share of characters inside the most frequent n-gram, or inside n-grams seen before; each counted once."""
    count = len(tokens) - n + 1
    if count < 2:
        return 0.0
    grams = np.zeros(count, dtype=np.uint64)
    for offset in range(n):
        # A polynomial hash; the odd multiplier is 2^64 over the golden ratio, which spreads neighbouring numbers.
        grams = grams * np.uint64(0x9E3779B97F4A7C15) + tokens[offset : offset + count] + np.uint64(1)
    _, first, inverse, counts = np.unique(grams, return_index=True, return_inverse=True, return_counts=True)
    if counts.max() < 2:
        return 0.0
    if only_top:
        # The earliest of the most frequent ones, so that the order of hashes does not matter.
        top = min(np.flatnonzero(counts == counts.max()), key=lambda i: first[i])
        starts = np.flatnonzero(inverse == top)
    else:
        starts = np.flatnonzero(first[inverse] != np.arange(count))
    change = np.zeros(len(tokens) + 1, dtype=np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, starts + n, -1)
    inside = np.cumsum(change[:-1]) > 0
    return float(lengths[inside].sum() / lengths.sum())


def verdict(scores: Scores, text: str, language: str, is_page: bool, config: QualityConfig) -> str | None:
    """None to keep a document, or the first rule it breaks."""
    if language == CODE:
        rules = code_rules(scores, config)
    else:
        script = unspaced_rules if language in UNSPACED else spaced_rules
        rules = (*script(scores, config), *shared_rules(scores, language, config))
        rules = (*rules, *page_rules(scores, text, is_page, config))
    return next((reason for reason, is_broken in rules if is_broken), None)


Rules = tuple[tuple[str, bool], ...]


def code_rules(scores: Scores, config: QualityConfig) -> Rules:
    return (
        ("code_long_lines", scores["longest_line"] > config.max_code_line),
        ("code_few_letters", scores["alphanumeric"] < config.min_code_alphanumeric),
    )


def unspaced_rules(scores: Scores, config: QualityConfig) -> Rules:
    return (
        ("too_short", scores["words"] < config.min_characters_zh),
        ("too_long", scores["words"] > config.max_characters_zh),
        ("few_letters", scores["alphabetic"] < config.min_alphabetic_zh),
    )


def spaced_rules(scores: Scores, config: QualityConfig) -> Rules:
    return (
        ("too_short", scores["words"] < config.min_words),
        ("too_long", scores["words"] > config.max_words),
        ("short_words", scores["mean_word_length"] < config.min_mean_word_length),
        ("long_words", scores["mean_word_length"] > config.max_mean_word_length),
        ("few_letters", scores["alphabetic"] < config.min_alphabetic_words),
    )


def shared_rules(scores: Scores, language: str, config: QualityConfig) -> Rules:
    tops, longs = config.max_top_ngram, config.max_duplicate_ngrams
    return (
        ("many_symbols", scores["symbols"] > config.max_symbol_ratio),
        ("bullet_lines", scores["bullet_lines"] > config.max_bullet_lines),
        ("ellipsis_lines", scores["ellipsis_lines"] > config.max_ellipsis_lines),
        ("few_stop_words", language in STOP_WORDS and scores["stop_words"] < config.min_stop_words),
        ("repeated_lines", scores["duplicate_lines"] > config.max_duplicate_lines),
        ("repeated_lines", scores["duplicate_line_characters"] > config.max_duplicate_line_characters),
        ("repeated_words", any(scores[f"top_{n}gram"] > top for n, top in zip((2, 3, 4), tops, strict=True))),
        (
            "repeated_passages",
            any(scores[f"duplicate_{n}grams"] > limit for n, limit in zip(LONG_NGRAMS, longs, strict=True)),
        ),
    )


def page_rules(scores: Scores, text: str, is_page: bool, config: QualityConfig) -> Rules:
    """C4's rules for a whole page."""
    if not is_page:
        return ()
    return (
        ("few_sentences", scores["sentences"] < config.min_sentences),
        ("braces", scores["braces"] > config.max_curly_ratio),
        ("lorem_ipsum", "lorem ipsum" in text.lower()),
    )

"""Text as the steps that compare documents see it: tokens without case, width and punctuation, and numbers for them.

A token is a word in spaced scripts, a character in Chinese and Japanese.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

HAN_KANA = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
RUN = re.compile(f"[{HAN_KANA}]+|[^\\W_{HAN_KANA}]+")
"""Chinese or Japanese characters, or a run of other letters and digits."""
STARTS_HAN = re.compile(f"[{HAN_KANA}]")
ASCII_WORDS = bytes(
    ord(chr(byte).lower()) if chr(byte).isascii() and chr(byte).isalnum() else 32 for byte in range(256)
)
"""Letters to lower case, digits as they are, all else to blanks."""
FULL_WIDTH = "，！？；：（）\u3000…"
"""The commonest signs that NFKC would change into others that are no part of a token either: taken out first, since
Python needs 0.1 ms for a page that has one and hardly any for one that is in that form already."""
MULTIPLIER = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, odd: it spreads neighbouring numbers."""
INVERSE = pow(MULTIPLIER, -1, 1 << 64)
POWERS_AT_FIRST = 1 << 16


def content_hash(text: str) -> str:
    """The document's id: sha256 of its text, 32 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def number_of(text: str) -> int:
    """A 64-bit number for a text, for comparisons among many: two of 10 million differ but share it with probability
    3 in a million."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def tokens(text: str) -> list[str]:
    """Words in spaced scripts, characters in Chinese; case, width and punctuation do not count."""
    if text.isascii():
        return text.encode().translate(ASCII_WORDS).decode().split()
    for sign in FULL_WIDTH:
        text = text.replace(sign, " ")
    found: list[str] = []
    for run in RUN.findall(unicodedata.normalize("NFKC", text).casefold()):
        if run[0] >= "\u3040" and STARTS_HAN.match(run):
            found.extend(run)
        else:
            found.append(run)
    return found


def comparable(text: str) -> list[str]:
    """The tokens, or for a text of mere symbols its pieces between blanks."""
    return tokens(text) or text.split()


@cache
def powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `size` powers of the multiplier and of its inverse, modulo 2^64."""
    both = []
    for base in (MULTIPLIER, INVERSE):
        values = np.full(size, base, dtype=np.uint64)
        values[0] = 1
        both.append(np.cumprod(values, dtype=np.uint64))
    return both[0], both[1]


def token_numbers(words: Sequence[str]) -> np.ndarray:
    """A 64-bit number for each word (without blanks inside), by a polynomial of its bytes: all words at once."""
    if not words:
        return np.empty(0, dtype=np.uint64)
    joined = np.frombuffer(" ".join(words).encode("utf-8", "replace"), dtype=np.uint8)
    up, down = powers(max(POWERS_AT_FIRST, 1 << (len(joined)).bit_length()))
    sums = np.cumsum(joined.astype(np.uint64) * up[: len(joined)], dtype=np.uint64)
    ends = np.flatnonzero(joined == 32)
    starts = np.concatenate(([0], ends + 1))
    ends = np.append(ends, len(joined))
    before = np.where(starts > 0, sums[starts - 1], np.uint64(0))
    return mixed((sums[ends - 1] - before) * down[starts])


def mixed(numbers: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the input moves every bit of the output."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: np.ndarray = numbers ^ (numbers >> np.uint64(31))
    return result


def gram_numbers(numbers: np.ndarray, ngram: int) -> np.ndarray:
    """A number for each run of `ngram` tokens; a text shorter than that is one run itself."""
    if not len(numbers):
        return numbers
    n = min(ngram, len(numbers))
    grams = np.full(len(numbers) - n + 1, n, dtype=np.uint64)
    for offset in range(n):
        grams = grams * np.uint64(MULTIPLIER) + numbers[offset : offset + len(grams)]
    return grams


def shingles(words: Sequence[str], ngram: int) -> np.ndarray:
    """The set of n-grams of a text's tokens, as sorted numbers."""
    return np.unique(gram_numbers(token_numbers(words), ngram))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Shared shingles over all shingles of two sorted sets; empty sets are like nothing."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared) if shared else 0.0


def load_daft() -> Any:
    """Daft with its usage reports switched off, which must happen before the first import."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import daft

    return daft

"""Words mined from running text, most frequent first.

In: texts. Out: English words (lower case, 3 to 10 letters) by frequency; Chinese strings of 2 to 4 characters that
hold together (each split of the string is far rarer than chance would have it) and stand free on both sides (what
comes before and after varies), which is how words are found without a dictionary.
"""

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

ENGLISH_WORD = re.compile(r"(?<![\w'’-])[a-z]{3,10}(?![\w'’-])")

MAX_CHARACTERS = 20_000_000
"""Text read in each language. Our choice: seconds of work and 1 GB at most; the demo has a third of it."""

BITS = 12
"""Bits of a character: the 4,095 most frequent ones have numbers, 0 is all else; five fill 60 bits of a key."""

MIN_COHESION = 20.0
"""How much more often than by chance the parts of a word meet, in its weakest split. Our choice, by eye."""

MIN_FREEDOM = 1.2
"""Entropy (nats) of what stands before, and of what stands after a word; the smaller one. Our choice, by eye."""

FREE_CHARACTERS = frozenset("的了是在和与或也都就不这那有我你他她它们其此之而且但被把将对从以为于所则若并上下中里个一")
"""Characters that mined strings may not begin or end with: frequent words by themselves, which glue to their
neighbours and pass the other measures."""


def limited(texts: Iterable[str]) -> list[str]:
    """The texts up to `MAX_CHARACTERS` together."""
    kept, total = [], 0
    for text in texts:
        kept.append(text)
        total += len(text)
        if total > MAX_CHARACTERS:
            break
    return kept


def mine_english(texts: Iterable[str], limit: int, min_count: int) -> list[str]:
    """At most `limit` lower-case words."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(ENGLISH_WORD.findall(text))
    found = [(word, count) for word, count in counts.items() if count >= min_count]
    found.sort(key=lambda item: (-item[1], item[0]))
    return [word for word, _ in found[:limit]]


def frequent_characters(texts: Iterable[str], limit: int = (1 << BITS) - 1) -> list[str]:
    """The Chinese characters of the texts, most frequent first."""
    points = _points(texts)
    values, counts = np.unique(points[_is_han(points)], return_counts=True)
    order = np.lexsort((values, -counts))[:limit]
    return [chr(value) for value in values[order]]


def mine_chinese(texts: Iterable[str], limit: int, min_count: int) -> list[str]:
    """At most `limit` strings of two to four characters."""
    texts = list(texts)
    characters = frequent_characters(texts)
    if not characters:
        return []
    numbers = _numbered(_points(texts), characters)
    tables = {length: _counted(_grams(numbers, length)) for length in range(1, 5)}
    found: list[tuple[int, str]] = []
    for length in (2, 3, 4):
        grams, counts = tables[length]
        frequent = counts >= min_count
        grams, counts = grams[frequent], counts[frequent]
        good = _cohesion(grams, counts, length, tables) >= MIN_COHESION
        grams, counts = grams[good], counts[good]
        good = _freedom(numbers, grams, length) >= MIN_FREEDOM
        words = (_spelled(int(gram), length, characters) for gram in grams[good])
        found += zip(counts[good].tolist(), words, strict=True)
    kept = [(count, word) for count, word in found if not FREE_CHARACTERS & {word[0], word[-1]}]
    kept.sort(key=lambda item: (-item[0], item[1]))
    return [word for _, word in kept[:limit]]


def _points(texts: Iterable[str]) -> NDArray[np.uint32]:
    """All code points, the texts apart by line breaks."""
    return np.frombuffer("\n".join(texts).encode("utf-32-le", "replace"), dtype=np.uint32)


def _is_han(points: NDArray[np.uint32]) -> NDArray[np.bool_]:
    return (points >= 0x4E00) & (points <= 0x9FFF)


def _numbered(points: NDArray[np.uint32], characters: list[str]) -> Keys:
    """The number of each character, 0 for what is not among `characters`; four zeros at each end."""
    number_of = np.zeros(0xA000 - 0x4E00, dtype=np.uint64)
    for number, character in enumerate(characters, start=1):
        number_of[ord(character) - 0x4E00] = number
    han = _is_han(points)
    numbers = np.zeros(len(points) + 8, dtype=np.uint64)
    numbers[4:-4][han] = number_of[points[han] - 0x4E00]
    return numbers


def _grams(numbers: Keys, length: int) -> Keys:
    """Every run of `length` numbered characters as one key, the first character highest."""
    count = len(numbers) - length + 1
    keys, whole = np.zeros(count, dtype=np.uint64), np.ones(count, dtype=bool)
    for offset in range(length):
        part = numbers[offset : offset + count]
        keys = (keys << np.uint64(BITS)) | part
        whole &= part != 0
    return keys[whole]


def _counted(keys: Keys) -> tuple[Keys, NDArray[np.int64]]:
    values, counts = np.unique(keys, return_counts=True)
    return values, counts


def _cohesion(
    grams: Keys, counts: NDArray[np.int64], length: int, tables: dict[int, tuple[Keys, NDArray[np.int64]]]
) -> NDArray[np.float64]:
    """The smallest ratio of a string's count to the count expected of its two parts, over all its splits."""
    total = tables[1][1].sum()
    weakest = np.full(len(grams), np.inf)
    for right_length in range(1, length):
        left = _lookup(tables[length - right_length], grams >> np.uint64(BITS * right_length))
        right = _lookup(tables[right_length], grams & np.uint64((1 << (BITS * right_length)) - 1))
        weakest = np.minimum(weakest, counts * total / (left * right))
    return weakest


def _lookup(table: tuple[Keys, NDArray[np.int64]], keys: Keys) -> NDArray[np.float64]:
    values, counts = table
    return counts[np.searchsorted(values, keys)].astype(np.float64)


def _freedom(numbers: Keys, grams: Keys, length: int) -> NDArray[np.float64]:
    """The smaller of the two neighbour entropies; text that is no numbered character counts as ever different."""
    if not len(grams):
        return np.zeros(0)
    count = len(numbers) - length - 1
    keys = np.zeros(count, dtype=np.uint64)
    for offset in range(1, length + 1):
        keys = (keys << np.uint64(BITS)) | numbers[offset : offset + count]
    places = np.minimum(np.searchsorted(grams, keys), len(grams) - 1)
    here = grams[places] == keys
    sides = (numbers[:count][here], numbers[length + 1 : length + 1 + count][here])
    return np.minimum(*(_entropies(places[here], side, len(grams)) for side in sides))


def _entropies(places: NDArray[np.int64], neighbours: Keys, num_words: int) -> NDArray[np.float64]:
    """The entropy of `neighbours` for each of the words that `places` points to."""
    pairs, counts = _counted((places.astype(np.uint64) << np.uint64(BITS)) | neighbours)
    words = (pairs >> np.uint64(BITS)).astype(np.int64)
    totals = np.bincount(words, weights=counts, minlength=num_words)
    share = counts / totals[words]
    open_end = (pairs & np.uint64((1 << BITS) - 1)) == 0
    surprise = np.where(open_end, np.log(totals[words]), -np.log(share))
    return np.bincount(words, weights=share * surprise, minlength=num_words).astype(np.float64)


def _spelled(gram: int, length: int, characters: list[str]) -> str:
    mask = (1 << BITS) - 1
    numbers = [(gram >> (BITS * place)) & mask for place in reversed(range(length))]
    return "".join(characters[number - 1] for number in numbers)

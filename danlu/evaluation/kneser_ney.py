"""A byte-level Kneser-Ney model: the line that a trained model's bits per byte is held against.

In: training and held-out documents as bytes. Out: bits per held-out byte for each order (issue 3,
"Measures"; the definition is the one of the golden file `kn5.json`, repeated here):

- each document stands behind `order - 1` NUL bytes, so that no scored context reaches into another
  document; the n-grams of the joined training stream are counted, those that end in a NUL too, but NUL
  targets are not scored;
- the highest order uses counts, each lower order n the number of distinct bytes (NUL included) seen to
  the left of an n-gram;
- one discount an order, D = n1 / (n1 + 2 n2), n1 and n2 the number of n-grams counted once and twice
  (`NO_SINGLES` where none is counted once);
- p_n(w | h) = (max(c(hw) - D, 0) + D * types(h) * p_{n-1}(w | h')) / total(h), h' being h without its
  oldest byte; p_{n-1}(w | h') alone where h was never seen; p_0 = 1 / 256.

A model's figure also pays for the end token of every document while this one does not, so a comparison
of the two is conservative: it favours Kneser-Ney.

An n-gram of at most eight bytes is one uint64 with the oldest byte in the highest place: the n-grams of a
context are neighbours in a sorted array, and a lookup is a binary search.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]

MAX_ORDER = 8
"""Eight bytes fill a uint64."""

NO_SINGLES = 0.5
"""The discount of an order without n-grams counted once (bytes, often): the value of the golden file. The
formula would give 0, and with it probability 0 to a byte never seen."""

POSITIONS_AT_A_TIME = 1 << 22
"""Held-out positions scored together. Our choice: the temporary arrays stay below 0.5 GB."""


@dataclass(frozen=True, kw_only=True)
class OrderTable:
    """What one order knows: its n-grams, and the sums over each context."""

    ngrams: Keys
    """Sorted and distinct."""
    counts: NDArray[np.int64]
    """Occurrences at the highest order, distinct left extensions below it."""
    contexts: Keys
    """Sorted and distinct: the n-grams without their last byte."""
    totals: NDArray[np.int64]
    """Sum of `counts` over a context."""
    types: NDArray[np.int64]
    """Number of distinct n-grams of a context."""
    discount: float


class ByteKneserNey:
    """Interpolated Kneser-Ney over bytes: `probabilities` of n-grams, `distribution` after a context."""

    def __init__(self, train_documents: Iterable[bytes], order: int = 5) -> None:
        if not 1 <= order <= MAX_ORDER:
            raise ValueError(f"order must lie between 1 and {MAX_ORDER}, not {order}")
        self.order = order
        stream = _padded(train_documents, order)
        if not stream.any():
            raise ValueError("no bytes to count: the training documents are empty")
        keys = _ngram_keys(stream, order)
        keys.sort()
        ngrams, counts = _run_lengths(keys)
        del keys
        self.tables = [_table(ngrams, counts)]
        for length in range(order - 1, 0, -1):
            # Without its oldest byte each distinct n-gram is one left extension of the shorter one.
            shorter = np.sort(ngrams & _mask(length))
            ngrams, counts = _run_lengths(shorter)
            self.tables.insert(0, _table(ngrams, counts))

    @property
    def discounts(self) -> list[float]:
        """The discount of each order, the lowest first."""
        return [table.discount for table in self.tables]

    def probabilities(self, keys: Keys) -> list[Floats]:
        """p_1 to p_order of the n-grams `keys` (`order` bytes each, the target last), one array an order."""
        lower = np.full(len(keys), 1 / 256)
        by_order = []
        for length, table in enumerate(self.tables, start=1):
            lower = _interpolate(table, keys & _mask(length), lower)
            by_order.append(lower)
        return by_order

    def distribution(self, context: bytes) -> Floats:
        """The probability of each of the 256 bytes after `context`; a document starts behind NUL bytes."""
        padded = (b"\0" * self.order + context)[len(context) + 1 :]
        start = int.from_bytes(padded, "big") << 8
        return self.probabilities(np.arange(start, start + 256, dtype=np.uint64))[-1]


def byte_ngram_bits_per_byte(
    train_documents: Iterable[bytes], validation_documents: Iterable[bytes], order: int = 5
) -> list[float]:
    """Mean of -log2 p over the bytes of the validation documents, for the orders 1 to `order`.

    The orders below the highest are those of the same model (continuation counts), as in the golden file.
    """
    model = ByteKneserNey(train_documents, order)
    keys = _ngram_keys(_padded(validation_documents, order), order)
    keys = keys[(keys & _mask(1)) != 0]
    if not len(keys):
        raise ValueError("no bytes to score: the validation documents are empty")
    bits = np.zeros(order)
    for start in range(0, len(keys), POSITIONS_AT_A_TIME):
        for index, values in enumerate(model.probabilities(keys[start : start + POSITIONS_AT_A_TIME])):
            bits[index] -= np.log2(values).sum()
    return [float(value) for value in bits / len(keys)]


def _mask(length: int) -> np.uint64:
    return np.uint64((1 << (8 * length)) - 1)


def _padded(documents: Iterable[bytes], order: int) -> NDArray[np.uint8]:
    """All documents in one array, each behind `order - 1` NUL bytes."""
    padding = b"\0" * (order - 1)
    return np.frombuffer(b"".join(padding + document for document in documents), dtype=np.uint8)


def _ngram_keys(stream: NDArray[np.uint8], order: int) -> Keys:
    """The n-gram that ends at each byte from the first document's first on, as one number a byte."""
    keys: Keys = np.zeros(max(len(stream) - order + 1, 0), dtype=np.uint64)
    for offset in range(order):
        keys <<= np.uint64(8)
        keys |= stream[offset : offset + len(keys)]
    return keys


def _run_lengths(ordered: Keys) -> tuple[Keys, NDArray[np.int64]]:
    """The distinct values of a sorted array and how often each occurs."""
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return ordered[starts], np.diff(np.append(starts, len(ordered)))


def _table(ngrams: Keys, counts: NDArray[np.int64]) -> OrderTable:
    contexts, types = _run_lengths(ngrams >> np.uint64(8))
    starts = np.concatenate(([0], np.cumsum(types)[:-1]))
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return OrderTable(
        ngrams=ngrams,
        counts=counts,
        contexts=contexts,
        totals=np.add.reduceat(counts, starts),
        types=types,
        discount=once / (once + 2 * twice) if once else NO_SINGLES,
    )


def _find(ordered: Keys, wanted: Keys) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each wanted value stands in a sorted array, and whether it is there at all."""
    places = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return places, ordered[places] == wanted


def _interpolate(table: OrderTable, keys: Keys, lower: Floats) -> Floats:
    """One order of the formula above for the n-grams `keys`, whose next lower order gave `lower`."""
    places, found = _find(table.ngrams, keys)
    kept = np.where(found, np.maximum(table.counts[places] - table.discount, 0.0), 0.0)
    contexts, seen = _find(table.contexts, keys >> np.uint64(8))
    held_back = table.discount * table.types[contexts] * lower
    return np.where(seen, (kept + held_back) / table.totals[contexts], lower)

"""From shared bands to the documents that stay, out of core: one band is in memory at once, texts a budget's worth.

Documents are numbered in the order of preference (the best is 0), so that the smaller of two numbers is the one that
stays. In: an array of numbers a band, and a way to read the shingles of some documents. Out: for each document that
goes, the one that stays and their similarity. A document goes only if it is itself similar enough to one that stays;
similarity is not passed on along a chain.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from danlu.corpus.tokens import jaccard

Pairs = np.ndarray
"""Candidates as one uint64 each: the better document's number in the upper half, the other's in the lower; sorted."""
ReadShingles = Callable[[np.ndarray], Iterator[tuple[int, np.ndarray]]]
"""Numbers of documents, ascending; each with its set of shingles, in any order."""
LOWER = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def candidate_pairs(bands: Iterable[np.ndarray], largest_bucket: int) -> Pairs:
    """Every pair that shares a band. `bands` gives one array a band: the number of each document's, documents in the
    order of preference. Members of a bucket beyond the best `largest_bucket` are paired with those alone."""
    found = np.empty(0, dtype=np.uint64)
    for numbers in bands:
        assert len(numbers) <= 1 << 32, "documents are counted in 32 bits"
        pairs = list(pairs_of_band(numbers, largest_bucket))
        if pairs:
            found = np.unique(np.concatenate([found, *pairs]))
    return found


def pairs_of_band(numbers: np.ndarray, largest_bucket: int) -> Iterator[Pairs]:
    """Pairs within the buckets of one band, buckets of like size together."""
    # A stable sort leaves the members of a bucket in the order of preference.
    order = np.argsort(numbers, kind="stable").astype(np.uint64)
    ordered = numbers[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    sizes = np.diff(np.append(starts, len(ordered)))
    del ordered
    starts, sizes = starts[sizes > 1], sizes[sizes > 1]
    for first in range(min(int(sizes.max(initial=0)), largest_bucket)):
        # The member `first` of every bucket that has one, with all that come after it.
        has = sizes > first + 1
        starts, sizes = starts[has], sizes[has]
        counts = sizes - first - 1
        better = np.repeat(order[starts + first], counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        others = order[np.repeat(starts + first + 1, counts) + within]
        yield better << HALF | others


def resolve(
    pairs: Pairs, sizes: np.ndarray, read: ReadShingles, threshold: float, budget: float
) -> dict[int, tuple[int, float]]:
    """Which documents go: by number, the one that stays and the similarity.

    `sizes` are the bytes that each document's shingles take in memory, about; `budget` bytes of them are held at once.
    The order of preference decides: each document in turn, if it has not gone, stays and takes with it those behind it
    that are similar to it. A block of documents is decided at a time, with what lies behind it read in a stream.
    """
    better, other = (pairs >> HALF).astype(np.int64), (pairs & LOWER).astype(np.int64)
    documents = np.unique(np.concatenate([better, other]))
    backwards = np.lexsort((better, other))
    other_in_order, better_in_order = other[backwards], better[backwards]
    gone: dict[int, tuple[int, float]] = {}
    place = 0
    while place < len(documents):
        block, place = next_block(documents, place, gone, sizes, budget)
        if not len(block):
            break
        sets = dict(read(block))
        for document in block.tolist():
            if document not in gone:
                for follower in followers(document, better, other):
                    if follower in sets and follower not in gone:
                        similarity = at_least(sets[document], sets[follower], threshold)
                        if similarity is not None:
                            gone[follower] = (document, similarity)
        stay = np.array([document for document in block.tolist() if document not in gone], dtype=np.int64)
        touches = np.isin(better, stay) & (other > block[-1])
        behind = [document for document in np.unique(other[touches]).tolist() if document not in gone]
        for document, shingles in read(np.array(behind, dtype=np.int64)) if behind else ():
            for keeper in followers(document, other_in_order, better_in_order):
                if keeper in sets and keeper not in gone:
                    similarity = at_least(sets[keeper], shingles, threshold)
                    if similarity is not None:
                        gone[document] = (keeper, similarity)
                        break
    return gone


def next_block(
    documents: np.ndarray, place: int, gone: dict[int, tuple[int, float]], sizes: np.ndarray, budget: float
) -> tuple[np.ndarray, int]:
    """The next documents that have not gone, as many as the budget holds (one at least), and where they end."""
    block: list[int] = []
    total = 0.0
    while place < len(documents):
        document = int(documents[place])
        if document not in gone:
            if block and total + sizes[document] > budget:
                break
            block.append(document)
            total += sizes[document]
        place += 1
    return np.array(block, dtype=np.int64), place


def followers(document: int, ordered: np.ndarray, values: np.ndarray) -> list[int]:
    """`values` where the sorted array `ordered` is `document`."""
    start, end = np.searchsorted(ordered, [document, document + 1])
    found: list[int] = values[start:end].tolist()
    return found


def at_least(a: np.ndarray, b: np.ndarray, threshold: float) -> float | None:
    """The similarity of two sets of shingles where it reaches the threshold."""
    if min(len(a), len(b)) < threshold * max(len(a), len(b)):
        return None
    similarity = jaccard(a, b)
    return similarity if similarity >= threshold else None


def largest_component(pairs: Pairs) -> int:
    """Documents in the largest group that candidates join, chains and all: what a clustering by chains would merge."""
    if not len(pairs):
        return 0
    better, other = pairs >> HALF, pairs & LOWER
    documents, places = np.unique(np.concatenate([better, other]), return_inverse=True)
    a, b = places[: len(pairs)], places[len(pairs) :]
    labels = np.arange(len(documents))
    while True:
        smaller = np.minimum(labels[a], labels[b])
        before = labels.copy()
        np.minimum.at(labels, labels[a], smaller)
        np.minimum.at(labels, labels[b], smaller)
        labels = labels[labels]
        if np.array_equal(labels, before):
            return int(np.bincount(labels).max())

"""Exact and near duplicates.

Exact: equal after normalisation (Unicode NFKC, case, white space, punctuation). Near: MinHash and locality-sensitive
hashing propose pairs, the Jaccard similarity of their shingle sets decides, and of each group one document is kept to
which every removed one is itself similar; similarity is not passed on along a chain.
"""

import hashlib
import heapq
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from danlu.corpus.config import CODE, MinHashConfig

TOKEN = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]|[^\\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
"""A Chinese or Japanese character, or a run of other letters and digits."""
Pair = tuple[str, str]


def content_hash(text: str) -> str:
    """The document's id: sha256 of its text, 32 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def tokens(text: str) -> list[str]:
    """Words in spaced scripts, characters in Chinese; case, width and punctuation do not count."""
    return TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


def exact_key(text: str, language: str) -> str:
    """Equal for texts that are the same after normalisation; in code and in mere symbols, punctuation counts."""
    words = text.split() if language == CODE else tokens(text) or text.split()
    return content_hash(" ".join(words))


def shingle_text(text: str) -> str:
    """The text as its tokens with single spaces between them, as Daft's MinHash reads it."""
    return " ".join(tokens(text) or text.split())


def shingles(text: str, ngram: int) -> np.ndarray:
    """The set of n-grams of a text as sorted 64-bit hashes; a text shorter than one n-gram is one shingle itself."""
    words = shingle_text(text).split()
    if not words:
        return np.empty(0, dtype=np.uint64)
    values = {
        word: int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little")
        for word in set(words)
    }
    numbers = np.array([values[word] for word in words], dtype=np.uint64)
    n = min(ngram, len(words))
    grams = np.full(len(words) - n + 1, n, dtype=np.uint64)
    for offset in range(n):
        grams = grams * np.uint64(0x9E3779B97F4A7C15) + numbers[offset : offset + len(grams)]
    return np.unique(grams)


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Shared shingles over all shingles of two sorted sets; empty sets are like nothing."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared) if shared else 0.0


def load_daft() -> Any:
    """Daft with its usage reports switched off, which must happen before the first import."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    import daft

    return daft


def candidate_buckets(frame: Any, config: MinHashConfig) -> Iterator[list[str]]:
    """Groups of ids that share a band; `frame` is a Daft frame of `id` and `shingle_text`. Only hashes are grouped."""
    daft = load_daft()

    @daft.func.batch(return_dtype=daft.DataType.list(daft.DataType.string()), batch_size=1024)
    def bands(signatures: Any) -> Any:
        return [band_keys(signature, config) for signature in signatures.to_pylist()]

    col = daft.col
    signature = col("shingle_text").minhash(num_hashes=config.num_hashes, ngram_size=config.ngram, seed=config.seed)
    keys = frame.select(col("id"), bands(signature).alias("band")).explode("band")
    groups = keys.groupby("band").agg(col("id").list_agg().alias("ids"))
    for row in groups.where(col("ids").list_count() > 1).select("ids").iter_rows():
        yield sorted(set(row["ids"]))


def band_keys(signature: Sequence[int], config: MinHashConfig) -> list[str]:
    """One key a band: its number and the hash of its rows."""
    rows = np.asarray(signature, dtype=np.uint32).reshape(config.bands, config.rows)
    return [f"{i}:{hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest()}" for i, row in enumerate(rows)]


def candidate_pairs(buckets: Iterable[list[str]], largest_bucket: int) -> set[Pair]:
    """Pairs of ids to compare, smaller id first; a large bucket is compared with its smallest members only."""
    pairs: set[Pair] = set()
    for bucket in buckets:
        if len(bucket) <= largest_bucket:
            pairs.update(combinations(bucket, 2))
        else:
            pairs.update((a, b) for a in bucket[:largest_bucket] for b in bucket if a < b)
    return pairs


def verified(pairs: Iterable[Pair], sets: dict[str, np.ndarray], threshold: float) -> dict[Pair, float]:
    """The pairs whose exact similarity reaches the threshold."""
    similar = {(a, b): jaccard(sets[a], sets[b]) for a, b in pairs}
    return {pair: value for pair, value in similar.items() if value >= threshold}


def keepers(pairs: Iterable[Pair]) -> dict[str, str]:
    """Which document each one gives way to, itself for a kept one; only documents that occur in `pairs` are named.

    Kept first is the one with the most similar documents not yet decided, ties by smallest id, so that neither the
    order of the input nor that of the pairs matters; every removed document is in a pair with its keeper.
    """
    near: dict[str, set[str]] = {}
    for a, b in pairs:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    kept: dict[str, str] = {}
    undecided = {name: set(others) for name, others in near.items()}
    heap = [(-len(others), name) for name, others in undecided.items()]
    heapq.heapify(heap)
    while heap:
        size, name = heapq.heappop(heap)
        if name not in undecided:
            continue
        if -size != len(undecided[name]):
            heapq.heappush(heap, (-len(undecided[name]), name))
            continue
        group = undecided.pop(name)
        kept[name] = name
        kept.update(dict.fromkeys(group, name))
        for member in group:
            undecided.pop(member)
        for gone in group:
            for other in near[gone] & undecided.keys():
                undecided[other].discard(gone)
    return kept


def tuned(threshold: float) -> MinHashConfig:
    """Bands for a threshold: the longest rows with which a pair just at it is found 9,999 times in 10,000."""
    for rows in range(16, 0, -1):
        bands = 112 // rows
        if 1 - (1 - threshold**rows) ** bands >= 0.9999:
            return MinHashConfig(threshold=threshold, rows=rows, bands=bands)
    return MinHashConfig(threshold=threshold, rows=1, bands=112)


def near_duplicates(texts: Sequence[str], threshold: float = 0.8) -> tuple[list[int], list[int]]:
    """Clusters of near-duplicates: a cluster number for each text, and for each cluster the index of the kept text.

    So `kept[clusters[i]]` is the text that stays for text i. Every other member reaches `threshold` with it; ties
    go to the smallest content hash; clusters are numbered in the order of the texts. Empty texts have no
    shingles: they are alike to nothing, each is a cluster of its own, and dropping them is not this step's work.
    """
    config = tuned(threshold)
    ids = [content_hash(text) for text in texts]
    keys = [exact_key(text, "") if text.split() else f"empty {index}" for index, text in enumerate(texts)]
    smallest: dict[str, int] = {}
    for index in sorted(range(len(texts)), key=lambda index: (ids[index], index)):
        smallest.setdefault(keys[index], index)
    stands_for = [smallest[key] for key in keys]
    distinct = sorted(set(stands_for))
    by_id = {ids[i]: i for i in distinct if texts[i].split()}
    keeper = keepers(similar_pairs({name: texts[i] for name, i in by_id.items()}, config))
    index_of = {i: by_id[keeper.get(name, name)] for name, i in by_id.items()}
    numbers: dict[int, int] = {}
    clusters = [numbers.setdefault(index_of.get(i, i), len(numbers)) for i in stands_for]
    return clusters, list(numbers)


def similar_pairs(texts: dict[str, str], config: MinHashConfig) -> dict[Pair, float]:
    """Verified pairs among texts in memory, by id."""
    if len(texts) < 2:
        return {}
    daft = load_daft()
    frame = daft.from_pydict({"id": list(texts), "shingle_text": [shingle_text(text) for text in texts.values()]})
    pairs = candidate_pairs(candidate_buckets(frame, config), config.largest_bucket)
    sets = {name: shingles(texts[name], config.ngram) for name in {name for pair in pairs for name in pair}}
    return verified(pairs, sets, config.threshold)

"""Near-duplicates among texts in memory: the door `danlu.corpus.near_duplicates`."""

from collections.abc import Iterator, Sequence

import numpy as np

from danlu.corpus.config import CODE, MinHashConfig
from danlu.corpus.duplicates.clusters import candidate_pairs, resolve
from danlu.corpus.duplicates.minhash import band_numbers, tuned
from danlu.corpus.tokens import comparable, content_hash, number_of, shingles

SHINGLE_BYTES = 8


def exact_number(text: str, words: list[str], language: str) -> int:
    """Equal for texts that are the same after normalisation (NFKC, case, white space, punctuation); in code and in
    mere symbols, punctuation counts. `words` are the text's comparable tokens."""
    return number_of(" ".join(text.split() if language == CODE else words))


def near_duplicates(texts: Sequence[str], threshold: float = 0.8) -> tuple[list[int], list[int]]:
    """Clusters of near-duplicates: a cluster number for each text, and for each cluster the index of the kept text.

    So `kept[clusters[i]]` is the text that stays for text i. Every other member reaches `threshold` with it (Jaccard
    similarity of 5-grams). Of two similar texts the longer stays, then the one of smallest content hash; clusters are
    numbered in the order of the texts. Empty texts have no shingles: they are alike to nothing, each is a cluster of
    its own, and dropping them is not this step's work.
    """
    words = [comparable(text) for text in texts]
    keys = [exact_number(text, own, "") for text, own in zip(texts, words, strict=True)]
    order = sorted(range(len(texts)), key=lambda index: (-len(words[index]), content_hash(texts[index]), index))
    stands_for = list(range(len(texts)))
    first: dict[int, int] = {}
    for index in order:
        if words[index]:
            stands_for[index] = first.setdefault(keys[index], index)
    distinct = [index for index in order if stands_for[index] == index and words[index]]
    gone = similar([words[index] for index in distinct], tuned(threshold))
    keeper = {distinct[member]: distinct[stays] for member, (stays, _) in gone.items()}
    numbers: dict[int, int] = {}
    clusters = [numbers.setdefault(keeper.get(index, index), len(numbers)) for index in stands_for]
    return clusters, list(numbers)


def similar(words: list[list[str]], config: MinHashConfig) -> dict[int, tuple[int, float]]:
    """Texts, given as tokens in the order of preference, that go: which one stays, and the similarity."""
    if len(words) < 2:
        return {}
    bands = band_numbers([" ".join(text) for text in words], config)

    def read(wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for index in wanted.tolist():
            yield index, shingles(words[index], config.ngram)

    sizes = np.array([SHINGLE_BYTES * len(text) for text in words])
    pairs = candidate_pairs(bands.T, config.largest_bucket)
    return resolve(pairs, sizes, read, config.threshold, config.memory_megabytes * 1e6)

"""MinHash signatures, cut into bands: two documents that share a whole band are candidates.

In: token texts. Out: one 64-bit number a band; a pair of Jaccard similarity s shares at least one of b bands of r
rows with probability 1 - (1 - s^r)^b (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, section 3.4).
"""

from collections.abc import Sequence

import numpy as np

from danlu.corpus.config import MinHashConfig
from danlu.corpus.tokens import MULTIPLIER, load_daft, mixed


def band_numbers(token_texts: Sequence[str], config: MinHashConfig) -> np.ndarray:
    """The bands of texts given as their tokens with single blanks between them: (texts, bands) uint64.

    A text shorter than the n-gram is one shingle itself. A text without tokens has no meaning here: its bands are
    those of the empty text, and the caller leaves it out.
    """
    if not token_texts:
        return np.empty((0, config.bands), dtype=np.uint64)
    series = load_daft().Series.from_pylist(list(token_texts))
    hashed = series.minhash(num_hashes=config.num_hashes, ngram_size=config.ngram, seed=config.seed).to_arrow()
    flat = np.asarray(hashed.flatten(), dtype=np.uint64).reshape(len(token_texts), config.bands, config.rows)
    numbers = np.zeros((len(token_texts), config.bands), dtype=np.uint64)
    for row in range(config.rows):
        numbers = numbers * np.uint64(MULTIPLIER) + flat[:, :, row] + np.uint64(1)
    return mixed(numbers)


def found_share(similarity: float, config: MinHashConfig) -> float:
    """Probability that a pair of this similarity becomes a candidate."""
    return float(1 - (1 - similarity**config.rows) ** config.bands)


def tuned(threshold: float) -> MinHashConfig:
    """Bands for a threshold: the longest rows with which a pair just at it is found 9,999 times in 10,000."""
    for rows in range(16, 0, -1):
        config = MinHashConfig(threshold=threshold, rows=rows, bands=112 // rows)
        if found_share(threshold, config) >= 0.9999:
            return config
    return MinHashConfig(threshold=threshold, rows=1, bands=112)

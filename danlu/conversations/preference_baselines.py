"""What a reward model must beat: the bias of comparisons towards length, and simple models that read no prompt.

In: comparisons. Out: statistics of lengths; and simple rules learnt from comparisons, which say for each pair of a test
whether they prefer the chosen reply: 1 or 0, and 0.5 where the rule sees no difference, since it would then guess. The
caller has the values of all pairs and can resample them.
"""

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from danlu.conversations.comparisons import Comparison

Numbers = NDArray[np.float64]

TOKEN = re.compile(r"[\u4e00-\u9fff]+|[^\W\d_\u4e00-\u9fff]+|\d|[^\w\s]|_")
"""A run of Chinese characters, a word of another script, a digit, or a mark."""

HASH_BITS = 20
"""Tokens are numbered by so many bits of their hash. Our choice: of 30,000 tokens 3 in 100 share a number."""

WEIGHT_DECAY = 1.0
"""Penalty on half the squared weights beside the summed loss. The usual default of logistic regression."""

NEWTON_STEPS = 30
"""Most steps; five to ten are needed."""

CONJUGATE_STEPS = 60
"""Most inner steps of each. A step that is not solved to the end is still one downwards."""

TOLERANCE = 1e-5
"""The fit ends when the gradient is this small beside the first one."""


def length_bias(comparisons: Iterable[Comparison]) -> dict[str, dict[str, float]]:
    """By source, and for `all`: `pairs`, the shares in which the chosen reply is `longer`, `equal` or `shorter` in
    characters, and the mean lengths `chosen` and `rejected`."""
    lengths: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for pair in comparisons:
        for source in ("all", pair.source or "unnamed"):
            lengths[source].append((len(pair.chosen), len(pair.rejected)))
    return {source: _length_bias(lengths[source]) for source in sorted(lengths)}


def _length_bias(lengths: list[tuple[int, int]]) -> dict[str, float]:
    count = len(lengths)
    return {
        "pairs": count,
        "longer": sum(chosen > rejected for chosen, rejected in lengths) / count,
        "equal": sum(chosen == rejected for chosen, rejected in lengths) / count,
        "shorter": sum(chosen < rejected for chosen, rejected in lengths) / count,
        "chosen": sum(chosen for chosen, _ in lengths) / count,
        "rejected": sum(rejected for _, rejected in lengths) / count,
    }


Rule = Callable[[Sequence[Comparison]], Numbers]
"""How right a rule is for each pair."""


def length_baseline(train: Sequence[Comparison]) -> Rule:
    """The rule "the longer one", or "the shorter one" where this wins in training."""
    sign = 1.0 if _length_differences(train).sum() >= 0 else -1.0
    return lambda test: _correctness(sign * _length_differences(test))


def _length_differences(pairs: Sequence[Comparison]) -> Numbers:
    """1 where the chosen reply is longer, -1 where the rejected one is, 0 where neither."""
    return np.sign(np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs], dtype=np.float64))


def bag_of_words_baseline(train: Sequence[Comparison]) -> Rule:
    """A logistic regression on the words of the replies.

    It sees how often each word, Chinese character and pair of Chinese characters occurs in either reply, and nothing of
    the prompt. Its optimum is unique, so nothing is drawn.
    """
    weights = _fit(_differences(train))
    return lambda test: _correctness(_differences(test).times(weights))


def _correctness(scores: Numbers) -> Numbers:
    """1 for a pair whose chosen reply scores higher, 0 for lower, and 0.5 for an exact tie."""
    return (np.sign(scores) + 1) / 2


@dataclass(frozen=True)
class SparseMatrix:
    """Pairs by hashed tokens: how much more often the chosen reply holds a token than the rejected one."""

    num_rows: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: Numbers

    def times(self, weights: Numbers) -> Numbers:
        """One number for each pair."""
        return _sums(self.rows, self.values * weights[self.columns], self.num_rows)

    def transposed_times(self, factors: Numbers) -> Numbers:
        """One number for each token."""
        return _sums(self.columns, self.values * factors[self.rows], 1 << HASH_BITS)


def _sums(places: NDArray[np.int64], values: Numbers, count: int) -> Numbers:
    return np.bincount(places, weights=values, minlength=count).astype(np.float64, copy=False)


def _differences(pairs: Sequence[Comparison]) -> SparseMatrix:
    rows, columns, values = [], [], []
    for row, pair in enumerate(pairs):
        counts = Counter(_hashed_tokens(pair.chosen))
        counts.subtract(_hashed_tokens(pair.rejected))
        for column, value in counts.items():
            if value:
                rows.append(row)
                columns.append(column)
                values.append(value)
    return SparseMatrix(len(pairs), np.array(rows, np.int64), np.array(columns, np.int64), np.array(values, np.float64))


def _hashed_tokens(text: str) -> Iterator[int]:
    return (_hashed(token) for token in tokens(text))


@lru_cache(maxsize=1 << 18)
def _hashed(token: str) -> int:
    return zlib.crc32(token.encode()) & ((1 << HASH_BITS) - 1)


def tokens(text: str) -> Iterator[str]:
    """Words, digits and marks; of Chinese, the characters and the pairs of neighbours."""
    for run in TOKEN.findall(text.casefold()):
        if "\u4e00" <= run[0] <= "\u9fff":
            yield from run
            yield from (run[start : start + 2] for start in range(len(run) - 1))
        else:
            yield run


def _fit(pairs: SparseMatrix) -> Numbers:
    """The weights that minimise sum log(1 + exp(-score)) + WEIGHT_DECAY/2 |weights|^2, by Newton's method.

    Each step solves the Hessian by conjugate gradients and is halved until the loss falls.
    """
    weights = np.zeros(1 << HASH_BITS)
    loss, gradient, curvature = _loss(pairs, weights)
    smallest = TOLERANCE * float(np.linalg.norm(gradient))
    for _ in range(NEWTON_STEPS):
        if np.linalg.norm(gradient) <= smallest:
            break
        step = _newton_step(pairs, gradient, curvature)
        size = 1.0
        while (following := _loss(pairs, weights + size * step))[0] > loss and size > 1e-6:
            size /= 2
        weights += size * step
        loss, gradient, curvature = following
    return weights


def _loss(pairs: SparseMatrix, weights: Numbers) -> tuple[float, Numbers, Numbers]:
    """The loss, its gradient, and the second derivative of each pair's loss by its score."""
    scores = pairs.times(weights)
    loss = float(np.logaddexp(0.0, -scores).sum() + WEIGHT_DECAY / 2 * weights @ weights)
    # The probability that the rejected reply is preferred, without overflow.
    wrong = np.exp(-np.logaddexp(0.0, scores))
    return loss, WEIGHT_DECAY * weights - pairs.transposed_times(wrong), wrong * (1 - wrong)


def _newton_step(pairs: SparseMatrix, gradient: Numbers, curvature: Numbers) -> Numbers:
    """The solution of Hessian @ step = -gradient, about."""
    step, residual = np.zeros_like(gradient), -gradient
    direction, norm = residual.copy(), float(residual @ residual)
    enough = 1e-4 * norm
    for _ in range(CONJUGATE_STEPS):
        image = WEIGHT_DECAY * direction + pairs.transposed_times(curvature * pairs.times(direction))
        length = norm / float(direction @ image)
        step += length * direction
        residual -= length * image
        before, norm = norm, float(residual @ residual)
        if norm <= enough:
            break
        direction = residual + norm / before * direction
    return step

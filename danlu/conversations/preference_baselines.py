"""What a reward model must beat: the bias of comparisons towards length, and simple models that read no prompt.

In: comparisons. Out: statistics of lengths; for each pair of a test whether a simple rule picks the chosen reply.
"""

from collections import defaultdict
from collections.abc import Iterable

from danlu.conversations.comparisons import Comparison


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

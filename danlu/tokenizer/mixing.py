"""How often each document is drawn: exact amounts, whatever files the documents lie in.

In: `(id, source, weight)` of every document. Out: a number of draws for each. A group of n documents of one
source with weight w gives round(n * w) draws, each document floor(w) or one more; which ones get one more is
decided by their ids' hashes, never by their order or by chance.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable


def _hash(identity: str) -> bytes:
    return hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Draws:
    """Number of draws by document; 16 bytes of memory for each document whose weight is not whole."""

    def __init__(self, weights: Iterable[tuple[str, str, float]]) -> None:
        groups: dict[tuple[str, float], list[bytes]] = defaultdict(list)
        for identity, source, weight in weights:
            if not weight.is_integer():
                groups[source, weight].append(_hash(identity))
        self.largest_with_extra: dict[tuple[str, float], bytes] = {}
        for (source, weight), hashes in groups.items():
            # Half up: Python's own rounding would send 0.5 and 2.5 draws to the even side.
            num_extra = math.floor(len(hashes) * weight + 0.5) - len(hashes) * math.floor(weight)
            if num_extra:
                self.largest_with_extra[source, weight] = sorted(hashes)[num_extra - 1]

    def count(self, identity: str, source: str, weight: float) -> int:
        """How often this document is drawn."""
        if weight.is_integer():
            return int(weight)
        bound = self.largest_with_extra.get((source, weight))
        return math.floor(weight) + int(bound is not None and _hash(identity) <= bound)

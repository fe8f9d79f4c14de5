"""One seed a run; every use derives its own from it, so that no use disturbs another and a resumed run agrees."""

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, for example `derive_seed(seed, "dropout", step)`.

    Independent of the interpreter's hash seed and of the order in which seeds are drawn.
    """
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

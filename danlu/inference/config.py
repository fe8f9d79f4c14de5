"""How tokens are chosen: values that every verb which generates shares. Imports nothing heavy."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How tokens are chosen and when to stop."""

    max_new_tokens: int = 256
    """Tokens generated at most."""

    temperature: float = 0.7
    """Divides the logits; 0 takes the best token."""

    top_p: float = 0.9
    """Share of probability that the best tokens sampled from add up to (recipe section 9)."""

    top_k: int = 0
    """Number of best tokens sampled from; 0 for no such limit."""

    seed: int | None = None
    """Makes the draws repeatable; None draws afresh each time."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be a number from 0 upwards, not {self.temperature}")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p must lie in [0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k cannot be negative, it is {self.top_k}")

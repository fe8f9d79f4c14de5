"""How a model reads more than it was trained on (recipe section 4): settings, and the arithmetic of one sequence.

Every part works alone or with the others, on any model, without training it further.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ContextExtension:
    """What is done to rotary angles and queries. By default nothing."""

    training_length: int = 0
    """Tokens that the model was trained to see; 0 for max_position_embeddings."""

    ntk_alpha: float = 1.0
    """NTK-aware interpolation: the rotary base is multiplied by alpha^(d/(d-2)), d being the head's width. Slow
    frequencies are stretched, fast ones stay."""

    dynamic_ntk: bool = False
    """Take alpha from each prompt's length, as Qwen v1 does: 1 up to the training length, then 3, 7, 15, … A sequence
    keeps its prompt's alpha while it is continued."""

    dynamic_ntk_per_step: bool = False
    """With dynamic_ntk: take alpha from what the sequence has grown to at every step. The cache then holds keys as they
    were before rotation, and all of them are turned anew for every token."""

    logn: bool = False
    """Multiply the query at position i (from 1) by log_n(i) past the training length n, so that attention stays as
    sharp over more keys."""

    interpolation: float = 1.0
    """Position interpolation (Chen et al. 2023): positions are divided by it."""

    yarn_factor: float = 1.0
    """YaRN (Peng et al. 2023): as interpolation by this factor for slow frequencies and none for fast ones."""

    yarn_beta_fast: float = 32.0
    """Turns over the training length from which a frequency counts as fast."""

    yarn_beta_slow: float = 1.0
    """Turns up to which it counts as slow."""

    yarn_attention_factor: float = 0.0
    """Multiplies rotated queries and keys; 0 for YaRN's own 0.1 ln(factor) + 1."""

    windows: tuple[int, ...] = ()
    """Tokens that a query sees, its own included, 0 for all: a number for every layer; one for all of them; or two, of
    the lowest layer and of the highest, between which they grow by an equal factor from layer to layer."""

    def __post_init__(self) -> None:
        if any(window < 0 for window in self.windows):
            raise ValueError(f"windows cannot be negative: {self.windows}")
        if self.dynamic_ntk_per_step and not self.dynamic_ntk:
            raise ValueError("dynamic_ntk_per_step needs dynamic_ntk")
        if self.training_length < 0:
            raise ValueError(f"training_length cannot be negative, it is {self.training_length}")
        for name in ("ntk_alpha", "interpolation", "yarn_factor"):
            if not 1 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number from 1 upwards, not {getattr(self, name)}")
        if self.dynamic_ntk and self.ntk_alpha != 1:
            raise ValueError("ntk_alpha and dynamic_ntk both choose alpha: give one of them")
        if not 0 < self.yarn_beta_slow < self.yarn_beta_fast < math.inf:
            raise ValueError(f"yarn_beta_slow {self.yarn_beta_slow} must be below yarn_beta_fast {self.yarn_beta_fast}")
        if not 0 <= self.yarn_attention_factor < math.inf:
            raise ValueError(f"yarn_attention_factor cannot be {self.yarn_attention_factor}")

    @property
    def turns_keys_late(self) -> bool:
        """Whether a cache holds keys as they were before rotation."""
        return self.dynamic_ntk_per_step

    def layer_windows(self, num_layers: int) -> tuple[int, ...]:
        """The window of each layer (recipe section 4). Raises ValueError where `windows` does not fit so many."""
        windows = self.windows or (0,)
        if len(windows) == 1:
            return windows * num_layers
        if len(windows) == num_layers:
            return windows
        if len(windows) != 2 or 0 in windows or num_layers == 1:
            raise ValueError(
                f"windows must be one number, one for each of the {num_layers} layers, or the lowest layer's and the "
                f"highest's, neither 0; not {windows}"
            )
        low, high = windows
        return tuple(round(low * (high / low) ** (layer / (num_layers - 1))) for layer in range(num_layers))

    @property
    def attention_factor(self) -> float:
        """What rotated queries and keys are multiplied by."""
        if self.yarn_factor == 1:
            return 1.0
        return self.yarn_attention_factor or 0.1 * math.log(self.yarn_factor) + 1

    def alpha(self, prompt_length: int, training_length: int) -> float:
        """The alpha of a prompt: max(1, 2^ceil(log2(L/n) + 1) - 1) where it is dynamic (recipe section 4)."""
        if not self.dynamic_ntk or prompt_length <= training_length:
            return self.ntk_alpha
        return 2.0 ** math.ceil(math.log2(prompt_length / training_length) + 1) - 1

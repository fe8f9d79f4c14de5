"""The optimiser's table in a recipe; imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW by the recipe's numbers; Muon for the blocks' matrices is our option, see docs/LOG.md for what it earns."""

    name: Literal["adamw", "muon"] = "adamw"
    """`adamw` for every weight, or `muon` for the matrices of the blocks and AdamW for the rest."""

    beta1: float = 0.9
    """Decay of AdamW's mean of gradients (recipe section 5)."""

    beta2: float = 0.95
    """Decay of AdamW's mean of squared gradients (recipe section 5)."""

    eps: float = 1e-8
    """Added to AdamW's denominator (recipe section 5)."""

    weight_decay: float = 0.1
    """Decay of matrices; embeddings, norms and biases do not decay (recipe section 7 gives 0.1)."""

    muon_learning_rate: float = 0.005
    """Peak rate of Muon where it is chosen; follows the same schedule. Best of two in the demo's size study."""

    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm (recipe section 7)."""

    def __post_init__(self) -> None:
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError("beta1 and beta2 must lie in [0, 1)")
        if self.eps <= 0 or self.weight_decay < 0 or self.muon_learning_rate <= 0:
            raise ValueError("eps and muon_learning_rate must be positive, weight_decay not negative")
        if self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm must be positive, not {self.max_grad_norm}")

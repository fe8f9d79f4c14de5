"""The table `lora` of the stages that train a given model; imports nothing heavy."""

import math
from dataclasses import dataclass
from typing import Literal

from danlu.model.config import PROJECTIONS
from danlu.training.optimizer_config import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Train adapters of low rank in place of all weights (Hu et al. 2021): optimiser state and checkpoints shrink to
    theirs. They are saved as `adapter`, in PEFT's layout, beside the whole `model` that they are merged into."""

    rank: int = 0
    """Inner width of the adapters; 0 trains all weights. Adapters want a learning rate about ten times as high."""

    alpha: float = 32.0
    """What adapters add is multiplied by alpha / rank."""

    target_modules: tuple[str, ...] = PROJECTIONS
    """Projections with an adapter, of every block."""

    modules_to_save: tuple[Literal["embed_tokens", "lm_head"], ...] = ()
    """What learns whole beside adapters: a base model that has never seen ChatML's tokens needs both, or cannot tell a
    turn's end. Not for a model whose embedding is its head."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"rank cannot be negative, it is {self.rank}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be positive, not {self.alpha}")
        if unknown := [name for name in self.target_modules if name not in PROJECTIONS]:
            raise ValueError(f"target_modules: no projection {unknown[0]!r}; there are {', '.join(PROJECTIONS)}")
        if not self.target_modules or len(set(self.target_modules)) != len(self.target_modules):
            raise ValueError("target_modules must name projections, each once")

    def check(self, optimizer: OptimizerConfig) -> None:
        """ValueError for an optimiser that is not for adapters."""
        if self.rank and optimizer.name != "adamw":
            raise ValueError("lora.rank: adapters are trained by AdamW; set optimizer.name to adamw")

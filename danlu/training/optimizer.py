"""Optimisers and learning-rate schedules (recipe sections 5 and 7).

Weights and optimiser state are float32 masters; only products run in bfloat16.
"""

import math

import torch
from torch import nn

from danlu.training.optimizer_config import OptimizerConfig

GAINS = "gains"
"""Name of the parameter group of the norms' weights, where they have one."""


def make_optimizers(
    model: nn.Module, config: OptimizerConfig, *, gains_apart: bool = False
) -> list[torch.optim.Optimizer]:
    """AdamW over all parameters that learn, or Muon over the matrices of the blocks and AdamW over the rest.

    With `gains_apart` the weights of the norms are AdamW's last group, named `GAINS`, so that they can have a rate of
    their own.
    """
    matrices, hidden, plain, gains = [], [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if gains_apart and name.endswith("norm.weight"):
            gains.append(parameter)
        elif parameter.dim() < 2 or name.startswith("embed_tokens"):
            plain.append(parameter)
        elif config.name == "muon" and name.startswith("layers."):
            hidden.append(parameter)
        else:
            matrices.append(parameter)
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
        *([{"params": gains, "weight_decay": 0.0, "name": GAINS}] if gains_apart else []),
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
    ]
    if hidden:
        optimizers.append(torch.optim.Muon(hidden, lr=0.0, weight_decay=config.weight_decay))
    return optimizers


def set_learning_rate(
    optimizers: list[torch.optim.Optimizer], config: OptimizerConfig, peak: float, factor: float
) -> None:
    """AdamW at `peak * factor`, Muon at its own peak times `factor`."""
    for optimizer in optimizers:
        rate = config.muon_learning_rate if isinstance(optimizer, torch.optim.Muon) else peak
        for group in optimizer.param_groups:
            group["lr"] = rate * factor


def cosine_factor(step: int, warmup_steps: int, max_steps: int, floor: float) -> float:
    """Share of the peak rate at update `step` (from 0): linear rise, then half a cosine down to `floor` (section 5)."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def constant_factor(step: int, warmup_steps: int, max_steps: int, decay_share: float) -> float:
    """Linear rise, then constant (section 7); with `decay_share`, linear to 0 over that last share of the run."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    decay_steps = round(max_steps * decay_share)
    return min(1.0, (max_steps - step) / decay_steps) if decay_steps else 1.0

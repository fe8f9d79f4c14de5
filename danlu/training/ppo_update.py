"""A PPO step's updates of policy and value model on one minibatch (recipe section 9).

Losses are sums over the minibatch's response tokens divided by their number, so neither micro-batches nor padding
change them. The pretraining gradient is the plain mean over its own tokens, times its coefficient (R10).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from danlu.training.experience import MicroExperience, Models, drawn_logprobs, padded, response_logits
from danlu.training.optimizer import GAINS
from danlu.training.ppo_config import PpoConfig
from danlu.training.ppo_math import policy_loss_sum, value_loss_sum
from danlu.training.step import LossOf, accumulate_gradients, clip_and_step


@dataclass(kw_only=True)
class Tally:
    """Means over a step's minibatches, in the order they came."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, **figures: float) -> None:
        for name, value in figures.items():
            self.sums[name] += value
            self.counts[name] += 1

    def means(self, prefix: str) -> dict[str, float]:
        return {f"{prefix}/{name}": total / self.counts[name] for name, total in self.sums.items()}


def gradient_norm(model: nn.Module) -> float:
    """Global norm of the gradients as they stand."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).item()


def policy_gradient(
    models: Models, minibatch: Sequence[MicroExperience], config: PpoConfig, vocab_size: int
) -> dict[str, float]:
    """Add the gradient of the clipped loss to the policy's; figures of the minibatch."""
    num_tokens = sum(int(micro.mask.sum()) for micro in minibatch)
    loss, clipped, ratios, furthest, moved = 0.0, 0, 0.0, 0.0, 0.0
    for micro in minibatch:
        hidden = models.policy_forward.rows(micro.rows)
        logits = response_logits(models.policy, hidden, micro.rows, vocab_size)
        flat = drawn_logprobs(logits, micro.rows, micro.nuclei, config.rollout.temperature)
        logprobs = padded(flat, micro.mask)
        total, ratio, cut = policy_loss_sum(
            logprobs, micro.old_logprobs, micro.advantages, micro.mask, config.cliprange
        )
        (total / num_tokens).backward()
        loss += total.item()
        clipped += int(cut)
        ratios += ratio[micro.mask].sum().item()
        furthest = max(furthest, (ratio[micro.mask] - 1).abs().max().item())
        moved += (micro.old_logprobs - logprobs.detach()).sum().item()
    return {
        "loss": loss / num_tokens,
        "clipfrac": clipped / num_tokens,
        "ratio": ratios / num_tokens,
        "ratio_furthest_from_1": furthest,
        "approxkl": moved / num_tokens,
    }


def value_gradient(models: Models, minibatch: Sequence[MicroExperience], config: PpoConfig) -> dict[str, float]:
    """Add the gradient of the clipped squared error to the value model's; figures of the minibatch."""
    num_tokens = sum(int(micro.mask.sum()) for micro in minibatch)
    loss, clipped = 0.0, 0
    for micro in minibatch:
        hidden = models.value_forward.rows(micro.rows)
        values = padded(models.value_model.at(hidden, micro.rows.states), micro.mask)
        total, cut = value_loss_sum(values, micro.old_values, micro.returns, micro.mask, config.value_cliprange)
        (total / num_tokens).backward()
        loss += total.item()
        clipped += int(cut)
    return {"loss": loss / num_tokens, "clipfrac": clipped / num_tokens}


def add_pretraining_gradient(
    policy: nn.Module, loss_function: LossOf, batch: Sequence[Any], coefficient: float
) -> dict[str, float]:
    """Add `coefficient` times the gradient of the mean language-model loss of `batch` to the policy's gradients; the
    loss and the norm of its gradient by itself."""
    before = [parameter.grad for parameter in policy.parameters()]
    for parameter in policy.parameters():
        parameter.grad = None
    loss, num_targets = accumulate_gradients(loss_function, batch)
    norm = gradient_norm(policy)
    for parameter, gradient in zip(policy.parameters(), before, strict=True):
        if parameter.grad is None:
            parameter.grad = gradient
        elif gradient is None:
            parameter.grad.mul_(coefficient)
        else:
            parameter.grad.mul_(coefficient).add_(gradient)
    return {"loss": loss, "grad_norm": norm, "tokens": float(num_targets)}


def step_model(
    model: nn.Module, optimizer: torch.optim.Optimizer, rate: float, gain_rate: float, max_grad_norm: float
) -> float:
    """Clip, update at `rate` and clear the gradients; the norm before clipping. A gradient that is not finite is left
    out (the caller sees it in the norm). `gain_rate` is that of the norms' weights where these are a group."""
    names = [group.get("name") for group in optimizer.param_groups]
    assert gain_rate == rate or GAINS in names, "the optimiser was made without a group for the gains"
    for group, name in zip(optimizer.param_groups, names, strict=True):
        group["lr"] = gain_rate if name == GAINS else rate
    return clip_and_step(model.parameters(), [optimizer], max_grad_norm)

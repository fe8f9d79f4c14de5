"""The arithmetic of PPO, pure: KL, token rewards, GAE, whitening, clipped losses (recipe section 9).

Shapes: B responses, L tokens of the longest response, N response tokens of a batch in one row, S members of their
nuclei, V vocabulary. `mask` (B, L) bool is True where a response has a token; tokens begin at place 0, so padding is on
the right. What stands in a masked place, NaN too, reaches no result and no gradient, and results are exactly 0 there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature)[token] over the whole vocabulary: (N, V), (N) to (N) float32.

    The KL penalty is made of these: policy and reference are compared where neither is filtered.
    """
    return scaled(logits, temperature).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


def nucleus_logprobs(
    logits: Tensor, tokens: Tensor, nucleus_rows: Tensor, nucleus_ids: Tensor, temperature: float
) -> Tensor:
    """log probability of `tokens` (N) among the nucleus each was sampled from, renormalised over it: (N) float32.

    `nucleus_ids` (S) are the vocabulary ids of all nuclei in a row, `nucleus_rows` (S) the token each belongs to. The
    policy that is trained is the one that sampled: the same support on both sides of the ratio, so that a token's ratio
    is 1 before the first update, and no gradient goes to tokens that could not be drawn.
    """
    wide = scaled(logits, temperature)
    members = wide[nucleus_rows, nucleus_ids]  # (S)
    highest = torch.full_like(wide[:, 0], -torch.inf).scatter_reduce(0, nucleus_rows, members.detach(), "amax")
    total = torch.zeros_like(highest).index_add(0, nucleus_rows, (members - highest[nucleus_rows]).exp())
    return wide.gather(-1, tokens[:, None])[:, 0] - highest - total.log()


def scaled(logits: Tensor, temperature: float) -> Tensor:
    """`logits / temperature`, float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature


def entropy(logits: Tensor, temperature: float) -> Tensor:
    """Entropy in nats of softmax(logits / temperature): (N, V) to (N)."""
    logprobs = scaled(logits, temperature).log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def kl_k1(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Estimate of KL(policy, reference) from tokens the policy drew: log p - log q. Unbiased; can be negative.

    Schulman, Approximating KL Divergence (2020), names it k1. The recipe's penalty is this one.
    """
    return logprobs - reference_logprobs


def kl_k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """The same with less variance and never negative: q/p - 1 - log(q/p) (Schulman's k3)."""
    log_ratio = reference_logprobs - logprobs
    return log_ratio.expm1() - log_ratio


def exact_kl(logits: Tensor, reference_logits: Tensor, temperature: float) -> Tensor:
    """KL(policy, reference) in nats summed over the vocabulary: (N, V), (N, V) to (N)."""
    logprobs = scaled(logits, temperature).log_softmax(-1)
    return (logprobs.exp() * (logprobs - scaled(reference_logits, temperature).log_softmax(-1))).sum(-1)


def token_rewards(scores: Tensor, logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """What each token earns, (B, L): -kl_coef times its KL estimate, and on a response's last token its score (B).

    A response without tokens earns nothing.
    """
    rewards = torch.where(mask, -kl_coef * kl_k1(logprobs, reference_logprobs), 0.0)
    is_last = torch.arange(mask.shape[1], device=mask.device) == mask.sum(-1, keepdim=True) - 1  # (B, L)
    return rewards + torch.where(is_last, scores[:, None].to(rewards.dtype), 0.0)


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, (B, L) each (Schulman et al. 2016, equation 16).

    `values[b, t]` is what the value model expects before token t is chosen. Nothing is expected after the last token,
    whatever the value model says in the padding.
    """
    values = torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    following_value = following_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * following_value - values[:, t]
        following_advantage = torch.where(mask[:, t], delta + gamma * lam * following_advantage, 0.0)
        following_value = values[:, t]
        advantages[:, t] = following_advantage
    return advantages, torch.where(mask, advantages + values, 0.0)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the places where `mask` is True."""
    return torch.where(mask, values, 0.0).sum() / mask.sum()


def masked_variance(values: Tensor, mask: Tensor) -> Tensor:
    """Mean square deviation over the places where `mask` is True (divided by their number, not by one less)."""
    values = torch.where(mask, values, 0.0)  # before the square: its gradient at NaN is NaN even where masked later
    return masked_mean((values - masked_mean(values, mask)).square(), mask)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the whole batch's tokens; 0 where masked, and 0 for a single token."""
    centred = torch.where(mask, values, 0.0) - masked_mean(values, mask)
    return torch.where(mask, centred * (masked_variance(values, mask) + 1e-8).rsqrt(), 0.0)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns): 1 for a perfect value model, 0 for a constant one."""
    return 1 - masked_variance(returns - values, mask) / masked_variance(returns, mask).clamp_min(1e-12)


def policy_loss_sum(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, cliprange: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Clipped surrogate (Schulman et al. 2017, equation 7), negated, summed over tokens; the ratios (B, L), 1 where
    masked; and how many tokens' gradients the clip cuts off."""
    ratio = torch.where(mask, logprobs - old_logprobs, 0.0).exp()
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    loss = torch.where(mask, torch.maximum(plain, clipped), 0.0).sum()
    return loss, ratio.detach(), (mask & (clipped > plain)).sum()


def value_loss_sum(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, cliprange: float
) -> tuple[Tensor, Tensor]:
    """Half the squared error against `returns`, summed over tokens, and how many tokens the clip cuts off.

    A prediction further than `cliprange` from the old one counts at the clipped place where that is the worse.
    """
    values = torch.where(mask, values, 0.0)
    clipped = values.clamp(old_values - cliprange, old_values + cliprange)  # inside the range the same, bit for bit
    plain_error, clipped_error = (values - returns).square(), (clipped - returns).square()
    loss = 0.5 * torch.where(mask, torch.maximum(plain_error, clipped_error), 0.0).sum()
    return loss, (mask & (clipped_error > plain_error)).sum()


@dataclass(kw_only=True)
class RunningStatistics:
    """Count, mean and sum of squared deviations of all scores so far (Chan et al. 1979: batches joined exactly)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def update(self, scores: Tensor) -> None:
        """Take a batch of scores (B) in; one without scores changes nothing."""
        if not scores.numel():
            return
        number, mean = scores.numel(), scores.double().mean().item()
        squares = (scores.double() - mean).square().sum().item()
        total, apart = self.count + number, mean - self.mean
        self.squares += squares + apart**2 * self.count * number / total
        self.mean += apart * number / total
        self.count = total

    @property
    def deviation(self) -> float:
        """Root of the mean square deviation."""
        return (self.squares / self.count) ** 0.5 if self.count else 0.0

    def normalise(self, scores: Tensor, *, divide: bool) -> Tensor:
        """`scores` less the running mean (the report), divided by the running deviation where asked."""
        centred = scores - self.mean
        return centred / max(self.deviation, 1e-8) if divide else centred

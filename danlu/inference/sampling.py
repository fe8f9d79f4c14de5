"""From logits to a token (shapes: B rows, V vocabulary)."""

import torch
from torch import Tensor

from danlu.run.errors import UserError


def token_probabilities(logits: Tensor, temperature: float, top_p: float, top_k: int) -> Tensor:
    """Probabilities (B, V) float32 after temperature, top-k and nucleus (top-p), renormalised.

    The nucleus is the smallest set of best tokens whose probability reaches `top_p`; it always holds the best one.
    `top_k` 0 is off.
    """
    # Differences to the maximum first, so that a tiny temperature cannot overflow.
    scaled = (logits.float() - logits.float().amax(-1, keepdim=True)) / max(temperature, 1e-6)
    probabilities = scaled.softmax(-1)
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)  # (B, V)
    before = ordered.cumsum(-1) - ordered
    kept = before < top_p
    if top_k:
        kept &= torch.arange(ordered.shape[-1], device=logits.device) < top_k
    kept[..., 0] = True
    ordered = ordered * kept
    result = torch.zeros_like(probabilities).scatter_(-1, order, ordered)
    return result / result.sum(-1, keepdim=True)


def sample(logits: Tensor, temperature: float, top_p: float, top_k: int, generators: list[torch.Generator]) -> Tensor:
    """One token id per row (B); greedy at temperature 0. Each row draws from its own generator, so that a row's draws
    do not depend on what else is in the batch. Raises UserError for logits that are not finite."""
    if not bool(torch.isfinite(logits).all()):
        raise UserError("the model's logits are not finite", mend="Load it in float32 or bfloat16")
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = token_probabilities(logits, temperature, top_p, top_k)
    draws = [
        torch.multinomial(row, 1, generator=generator) for row, generator in zip(probabilities, generators, strict=True)
    ]
    return torch.cat(draws)

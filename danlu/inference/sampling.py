"""From logits to a token (shapes: B rows, W best tokens of each, V vocabulary)."""

from typing import NamedTuple

import torch
from torch import Tensor

from danlu.run.errors import UserError

FIRST_LOOK = 256
"""Best tokens that are looked at before a row's whole vocabulary is put in order. Measured on two cores with 4,096 ids:
ordering everything takes longer than the model; a nucleus of 0.9 seldom has more."""


class Nucleus(NamedTuple):
    """The tokens each row is drawn from, best first, or by their ids where these are all: `ids` (B, W) and their
    renormalised `probabilities` (B, W) float32, 0 where a row has fewer than W."""

    ids: Tensor
    probabilities: Tensor

    def members(self, row: int) -> Tensor:
        """The ids of one row's nucleus."""
        return self.ids[row][self.probabilities[row] > 0]


def nucleus(logits: Tensor, temperature: float, top_p: float, top_k: int) -> Nucleus:
    """The nucleus of `logits` (B, V) after temperature, top-k and top-p.

    It is the smallest set of best tokens whose probability reaches `top_p`, and always holds the best one; of equal
    tokens the first id is the better. `top_k` 0 is off. A row's nucleus does not depend on the other rows.
    """
    if top_k == 1:
        best = logits.float().argmax(-1, keepdim=True)  # The first of equal ones.
        return Nucleus(best, torch.ones_like(best, dtype=torch.float32))
    # Differences to the maximum first, so that a tiny temperature cannot overflow.
    scaled = (logits.float() - logits.float().amax(-1, keepdim=True)) / max(temperature, 1e-6)
    probabilities = scaled.softmax(-1)
    if top_p >= 1 and not top_k:
        return Nucleus(torch.arange(logits.shape[-1], device=logits.device).expand_as(logits), probabilities)
    ordered, ids = _in_order(probabilities, FIRST_LOOK)
    if ids.shape[-1] < logits.shape[-1]:
        short = _reaches_beyond(probabilities, ordered, top_p, top_k).nonzero()[:, 0]
        if len(short):
            whole, whole_ids = _in_order(probabilities[short], logits.shape[-1])
            ordered = torch.nn.functional.pad(ordered, (0, whole.shape[-1] - ordered.shape[-1]))
            ids = torch.nn.functional.pad(ids, (0, whole.shape[-1] - ids.shape[-1]))
            ordered[short], ids[short] = whole, whole_ids
    before = ordered.cumsum(-1) - ordered
    kept = before < top_p
    if top_k:
        kept &= torch.arange(ordered.shape[-1], device=logits.device) < top_k
    kept[..., 0] = True
    ordered = ordered * kept
    return Nucleus(ids, ordered / ordered.sum(-1, keepdim=True))


def _in_order(probabilities: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best of each row, best first, and their ids; equal ones in the order of ids."""
    _, ids = probabilities.topk(min(count, probabilities.shape[-1]), dim=-1, sorted=False)
    ids = ids.sort(dim=-1)[0]
    ordered, order = probabilities.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return ordered, ids.gather(-1, order)


def _reaches_beyond(probabilities: Tensor, ordered: Tensor, top_p: float, top_k: int) -> Tensor:
    """(B) whether a row's nucleus may hold tokens that are not among its `ordered` best (B, W): these do not reach
    `top_p`, or it ends among tokens equal to the last of them, of which `topk` takes any."""
    last, reached = ordered[:, -1:], ordered.cumsum(-1)
    first_equal = (ordered > last).sum(-1, keepdim=True)
    short = reached[:, -1] < top_p
    ends_there = ((reached - ordered).gather(-1, first_equal) < top_p)[:, 0]
    if top_k:
        short &= top_k > ordered.shape[-1]
        ends_there &= first_equal[:, 0] < top_k
    ends_there |= first_equal[:, 0] == 0  # The best one is kept whatever `top_p` is.
    return short | (ends_there & ((probabilities >= last).sum(-1) > ordered.shape[-1]))


def are_finite(logits: Tensor) -> Tensor:
    """(B) whether all logits (B, V) of a row are finite numbers."""
    # A sum of which all are finite nearly always is so too, and is had ten times as fast.
    summed = logits.sum(-1, dtype=torch.float32).isfinite()
    return summed if summed.all() else logits.isfinite().all(-1)


def token_probabilities(logits: Tensor, temperature: float, top_p: float, top_k: int) -> Tensor:
    """Probabilities (B, V) float32 of being drawn; 0 outside the nucleus."""
    found = nucleus(logits, temperature, top_p, top_k)
    return torch.zeros_like(logits, dtype=torch.float32).scatter(-1, found.ids, found.probabilities)


class Drawn(NamedTuple):
    """A token for each row (B), its place among the row's best (B), and what it was drawn from."""

    tokens: Tensor
    places: Tensor
    nucleus: Nucleus

    def logprobs(self) -> Tensor:
        """log probability (B) with which each token was drawn."""
        return self.nucleus.probabilities.gather(-1, self.places[:, None])[:, 0].log()


def draw(logits: Tensor, temperature: float, top_p: float, top_k: int, generators: list[torch.Generator]) -> Drawn:
    """Draw one token per row by inverting the cumulated probabilities; greedy at temperature 0.

    Each row draws from its own generator, so that a row's draws do not depend on what else is in the batch. Raises
    UserError for logits that are not finite.
    """
    if not are_finite(logits).all():
        raise UserError("the model's logits are not finite", mend="Load it in float32 or bfloat16")
    found = nucleus(logits, temperature, top_p, top_k if temperature else 1)
    points = torch.cat([torch.rand(1, generator=generator, device=logits.device) for generator in generators])  # (B)
    reached = found.probabilities.cumsum(-1) <= points[:, None]
    places = torch.arange(found.probabilities.shape[-1], device=logits.device)
    last = places.masked_fill(found.probabilities == 0, 0).amax(-1)  # (B), the last that can be drawn
    # Rounding may leave the cumulated sum just under a point near 1.
    places = torch.minimum(reached.sum(-1), last)
    return Drawn(found.ids.gather(-1, places[:, None])[:, 0], places, found)


def sample(logits: Tensor, temperature: float, top_p: float, top_k: int, generators: list[torch.Generator]) -> Tensor:
    """As `draw`, the tokens (B) alone."""
    return draw(logits, temperature, top_p, top_k, generators).tokens

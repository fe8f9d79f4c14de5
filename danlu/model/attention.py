"""The attention mask, and the key/value cache (recipe section 3).

Shapes: B batch, T tokens (queries), S keys, H query heads, K key/value heads, E head size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cache_mask(position_ids: Tensor, key_length: int) -> Tensor:
    """Which slot of a cache each query may see, (B, 1, T, S) bool: keys lie at their own position, and a query sees
    those up to its own."""
    keys = torch.arange(key_length, device=position_ids.device)
    return (keys <= position_ids[..., None])[:, None]  # (B, 1, T, S)


def row_mask(document_ids: Tensor, branch_ids: Tensor | None) -> Tensor:
    """Which key each query may see where several texts share a row, (B, 1, T, T) bool: the earlier ones of its own
    document (B, T).

    `branch_ids` (B, T) tell continuations of one text apart: every branch sees what they share, branch 0, and itself.
    """
    visible = document_ids[:, :, None] == document_ids[:, None, :]  # (B, T, T)
    if branch_ids is not None:
        visible &= (branch_ids[:, None, :] == 0) | (branch_ids[:, :, None] == branch_ids[:, None, :])
    return (visible & visible.new_ones(visible.shape[1:]).tril())[:, None]


MATERIALISED_UP_TO = 1024
"""Longest row whose attention weights are held whole when training on a CPU. Measured on two cores at 256 and 512
tokens: the fused CPU kernel takes two to three times as long, mostly in its backward pass. Beyond, memory decides."""


def training_mask(mask: Tensor | None, length: int, device: torch.device) -> Tensor | None:
    """The mask in the form that `attend` is fastest with when training: on a CPU and up to MATERIALISED_UP_TO tokens a
    float32 tensor (B or 1, 1, T, T) of 0 and -inf that is added to the scores, elsewhere as it is.

    It is made outside the compiled blocks: a compiled kernel that works it out for each score takes five times as long.
    """
    if device.type != "cpu" or length > MATERIALISED_UP_TO:
        return mask
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    return torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Mix the values (B, K, S, E) by softmax(query · key / sqrt(E)) for queries (B, H, T, E); gives (B, H, T, E).

    `mask` (B or 1, 1, T, S) is True where a query may look, or comes from `training_mask`; None is plain causal.
    """
    if mask is not None and mask.is_floating_point():
        return _materialised(query, key, value, mask)
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)


def _materialised(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
    """`attend` with the weights held whole; query heads that share a key head are rows of one product."""
    B, H, T, E = query.shape
    K = key.shape[1]
    hidden = hidden.repeat(1, 1, H // K, 1)  # (B or 1, 1, H/K*T, S)
    rows = _MaterialisedAttention.apply(query.reshape(B, K, H // K * T, E), key, value, hidden, E**-0.5)
    return rows.reshape(B, H, T, E)


class _MaterialisedAttention(torch.autograd.Function):
    """Attention by plain products; the softmax's gradient in closed form, from the weights kept by the forward pass.

    Shapes: query (B, K, R, E), key and value (B, K, S, E), hidden (B or 1, 1, R, S).
    """

    @staticmethod
    def forward(ctx, query, key, value, hidden, scale):  # type: ignore[no-untyped-def]
        wide = torch.promote_types(query.dtype, torch.float32)
        # Products of heads that lie apart in memory take twice as long.
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        scores = (query @ key.transpose(-1, -2)).to(wide) * scale + hidden
        # Written out: the compiler's own softmax passes over the scores several times more.
        powers = (scores - scores.amax(-1, keepdim=True)).exp()
        weights = (powers / powers.sum(-1, keepdim=True)).to(query.dtype)  # (B, K, R, S)
        mixed = weights @ value
        ctx.save_for_backward(query, key, value, weights, mixed)
        ctx.scale = scale
        return mixed

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        query, key, value, weights, mixed = ctx.saved_tensors
        grad = grad.contiguous()
        wide = torch.promote_types(query.dtype, torch.float32)
        shared = (grad.to(wide) * mixed.to(wide)).sum(-1, keepdim=True)  # (B, K, R, 1)
        weight_grad = (grad @ value.transpose(-1, -2)).to(wide)
        score_grad = (weights.to(wide) * (weight_grad - shared) * ctx.scale).to(query.dtype)
        value_grad = weights.transpose(-1, -2) @ grad
        return score_grad @ key, score_grad.transpose(-1, -2) @ query, value_grad, None, None


def rows_in_order(rows: Tensor) -> Tensor | slice:
    """`rows` (B) as a slice where each is the one before it plus 1: a slice is not copied."""
    first = int(rows[0])
    following = torch.arange(first, first + len(rows), device=rows.device)
    return slice(first, first + len(rows)) if rows.equal(following) else rows


class KVCache:
    """Keys and values of what each row has seen, per layer; rows have their own lengths.

    A row's key of position p lies in slot p. Slots past a row's length may hold leftovers: `cache_mask` hides them
    until they are written over.
    """

    def __init__(
        self,
        num_layers: int,
        rows: int,
        heads: int,
        slots: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_layers, rows, heads, slots, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.slots = slots

    def update(
        self,
        layer: int,
        rows: Tensor,
        read: Tensor | slice,
        position_ids: Tensor,
        key: Tensor,
        value: Tensor,
        length: int,
    ) -> tuple[Tensor, Tensor]:
        """Store key and value (B, K, T, E) of `rows` (B) at `position_ids` (B, T); return the first `length` slots of
        these rows, `read` being the same rows: a view where it is a slice, else a copy."""
        at = (rows[:, None], slice(None), position_ids)
        self.keys[layer][at] = key.transpose(1, 2).to(self.keys.dtype)  # (B, T, K, E)
        self.values[layer][at] = value.transpose(1, 2).to(self.values.dtype)
        return self.keys[layer][read, :, :length], self.values[layer][read, :, :length]  # (B, K, S, E)

    def clear(self, rows: list[int]) -> None:
        """Forget what is not finite: a mask hides a slot by a weight of 0, and 0 times NaN is NaN."""
        self.keys[:, rows], self.values[:, rows] = 0, 0

    def copy(self, sources: Tensor, rows: Tensor, copies: int, length: int) -> None:
        """Give the first `length` slots of row `sources[i]` to `copies` of the `rows` after one another."""
        if copies > 1:
            for stored in (self.keys, self.values):
                stored[:, rows, :, :length] = stored[:, sources, :, :length].repeat_interleave(copies, 1)

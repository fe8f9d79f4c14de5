"""Attention and its mask (recipe sections 3 and 4): causal, over packed texts, in a window, over a cache.

Shapes: B batch, T tokens (queries), S keys, H query heads, K key/value heads, E head size.
A window of W tokens lets a query see its own and the W - 1 before it; 0 is none.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Mask = Tensor | int | None
"""Which keys a query may see: None all up to its own, a number of the last ones, or a tensor (B or 1, 1, T, S), bool or
from `training_mask`."""


def cache_mask(position_ids: Tensor, key_positions: Tensor, window: int) -> Tensor:
    """Which key of a cache each query may see, (B, 1, T, S) bool: those up to its own position, as far as its window
    reaches. Keys stand at `key_positions`, (S) or (B, S), a negative one nowhere."""
    queries = position_ids[:, :, None]
    keys = key_positions if key_positions.dim() == 1 else key_positions[:, None]  # (S) or (B, 1, S)
    visible = keys <= queries  # (B, T, S)
    if window:
        visible &= keys > queries - window
    if key_positions.dim() == 2:
        visible &= keys >= 0
    return visible[:, None]


def row_mask(
    document_ids: Tensor, branch_ids: Tensor | None, position_ids: Tensor | None = None, window: int = 0
) -> Tensor:
    """Which key each query may see where several texts share a row, (B, 1, T, T) bool: the earlier ones of its own
    document (B, T).

    `branch_ids` (B, T) tell continuations of one text apart: every branch sees what they share, branch 0, and itself.
    A window counts by `position_ids` (B, T).
    """
    visible = document_ids[:, :, None] == document_ids[:, None, :]  # (B, T, T)
    if branch_ids is not None:
        visible &= (branch_ids[:, None, :] == 0) | (branch_ids[:, :, None] == branch_ids[:, None, :])
    if window and position_ids is not None:
        visible &= position_ids[:, :, None] - position_ids[:, None, :] < window
    return (visible & visible.new_ones(visible.shape[1:]).tril())[:, None]


def band(length: int, window: int, device: torch.device) -> Tensor:
    """The mask of a text read from its beginning, (1, 1, T, T) bool."""
    places = torch.arange(length, device=device)
    return _in_reach(places[:, None] - places, window)[None, None]


def _in_reach(distance: Tensor, window: int) -> Tensor:
    """Whether a key that lies so far back is seen."""
    return (distance >= 0) & (distance < window) if window else distance >= 0


MATERIALISED_UP_TO = 1024
"""Longest row whose attention weights are held whole when training on a CPU. Measured on two cores at 256 and 512
tokens: the fused CPU kernel takes two to three times as long, mostly in its backward pass. Beyond, memory decides."""


def training_mask(mask: Mask, length: int, device: torch.device) -> Mask:
    """The mask in the form that `attend` is fastest with when training: on a CPU and up to MATERIALISED_UP_TO tokens a
    float32 tensor (B or 1, 1, T, T) of 0 and -inf that is added to the scores, elsewhere as it is.

    It is made outside the compiled blocks: a compiled kernel that works it out for each score takes five times as long.
    """
    if device.type != "cpu" or length > MATERIALISED_UP_TO:
        return mask
    if not isinstance(mask, Tensor):
        mask = band(length, mask or 0, device)
    return torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Mask) -> Tensor:
    """Mix the values (B, K, S, E) by softmax(query · key / sqrt(E)) for queries (B, H, T, E); gives (B, H, T, E)."""
    if isinstance(mask, int):
        if query.shape[2] > 2 * mask:
            return _in_blocks(query, key, value, mask)
        mask = band(query.shape[2], mask, query.device)
    if mask is not None and mask.is_floating_point():
        return _materialised(query, key, value, mask)
    grouped = query.shape[1] != key.shape[1]
    if grouped and query.shape[2] == 1 and mask is not None:
        # The heads that share keys as queries of one head: these are read once. (14 heads to 2 of keys, 2,048 of them,
        # bfloat16 on two cores: 1.65 to 0.14 ms.)
        rows = query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])  # (B, K, H/K, E)
        return F.scaled_dot_product_attention(rows, key, value, attn_mask=mask).reshape(query.shape)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)


def _in_blocks(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    """`attend` in a window: queries in blocks as long as it, each with the keys of its own block and of the one before.
    Time and memory grow with T * W, not with T * T."""
    B, T = query.shape[0], query.shape[2]
    num_blocks = -(-T // window)
    short = num_blocks * window - T
    query = F.pad(query, (0, 0, 0, short)).unflatten(2, (num_blocks, window)).transpose(1, 2).flatten(0, 1)
    key, value = (
        F.pad(each, (0, 0, window, short)).unfold(2, 2 * window, window).permute(0, 2, 1, 4, 3).flatten(0, 1)
        for each in (key, value)
    )  # (B*blocks, K, 2W, E) each
    places = torch.arange(2 * window, device=query.device)
    mask = _in_reach(places[window:, None] - places, window).repeat(num_blocks, 1, 1)  # (blocks, W, 2W)
    mask[0, :, :window] = False  # Nothing lies before the first block.
    grouped, mask = query.shape[1] != key.shape[1], mask.repeat(B, 1, 1)[:, None]
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=grouped)
    return mixed.unflatten(0, (B, num_blocks)).transpose(1, 2).flatten(2, 3)[:, :, :T]


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

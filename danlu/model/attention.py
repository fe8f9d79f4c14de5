"""Rotary positions, the attention mask, and the key/value cache (recipe section 3).

Shapes: B batch, T tokens (queries), S keys, H query heads, K key/value heads, E head size.
"""

import torch
from torch import Tensor


def rotary_tables(head_dim: int, length: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of every position's angles, (length, E) each, float32, in the rotate-half layout.

    Angles are formed in float64, so that the tables hold the nearest float32 at any position.
    """
    frequencies = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)  # (E/2)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies  # (length, E/2)
    angles = torch.cat((angles, angles), dim=-1)  # (length, E)
    return angles.cos().float(), angles.sin().float()


def apply_rotary(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `heads` (B, H, T, E) by the angles whose cos and sin are (B or 1, 1, T, E) float32; keeps the dtype."""
    first, second = heads.float().chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)  # (B, H, T, E)
    return (heads.float() * cos + turned * sin).to(heads.dtype)


def attention_mask(position_ids: Tensor, key_length: int, document_ids: Tensor | None) -> Tensor:
    """Which key each query may see, (B, 1, T, S) bool. This is the only place where the rule is written.

    Without documents keys lie at their own position (a cache, or one text a row): a query sees the keys up to its own
    position. With `document_ids` (B, T), several texts share a row: a query sees the earlier keys of its own document.
    """
    if document_ids is None:
        keys = torch.arange(key_length, device=position_ids.device)
        return (keys <= position_ids[..., None])[:, None]  # (B, 1, T, S)
    same = document_ids[:, :, None] == document_ids[:, None, :]  # (B, T, T)
    return (same & same.new_ones(same.shape[1:]).tril())[:, None]


class KVCache:
    """Keys and values of what each row has seen, per layer; rows have their own lengths.

    A row's key of position p lies in slot p. Slots past a row's length may hold leftovers: `attention_mask` hides them
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
        self, layer: int, rows: Tensor, position_ids: Tensor, key: Tensor, value: Tensor, length: int
    ) -> tuple[Tensor, Tensor]:
        """Store key and value (B, K, T, E) of `rows` (B) at `position_ids` (B, T); return the first `length` slots."""
        at = (rows[:, None], slice(None), position_ids)
        self.keys[layer][at] = key.transpose(1, 2).to(self.keys.dtype)  # (B, T, K, E)
        self.values[layer][at] = value.transpose(1, 2).to(self.values.dtype)
        return self.keys[layer][rows, :, :length], self.values[layer][rows, :, :length]  # (B, K, S, E)

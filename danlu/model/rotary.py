"""Rotary positions (recipe sections 3 and 4): angles in float64, tables in float32, whatever the model's dtype.

Shapes: B batch, T tokens, H heads, E head size.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from danlu.model.config import ModelConfig
from danlu.model.extension import ContextExtension


class Rotary(NamedTuple):
    """What turns the heads of a pass: cos and sin (B or 1, 1, T, E), and by what queries are multiplied besides,
    (B or 1, 1, T, 1), or None."""

    cos: Tensor
    sin: Tensor
    query_scale: Tensor | None = None


def inverse_frequencies(
    head_dim: int, theta: float, extension: ContextExtension, alpha: float, training_length: int
) -> Tensor:
    """Angle per position of each pair of a head, (E/2) float64."""
    base = theta * alpha ** (head_dim / (head_dim - 2)) if alpha != 1 else theta
    plain = base ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim) / extension.interpolation
    if extension.yarn_factor == 1:
        return plain

    def pair_of(turns: float) -> float:
        """The pair that turns so often over the training length."""
        return head_dim * math.log(training_length / (turns * 2 * math.pi)) / (2 * math.log(base))

    first = max(math.floor(pair_of(extension.yarn_beta_fast)), 0)
    last = min(math.ceil(pair_of(extension.yarn_beta_slow)), head_dim - 1)
    width = last - first or 0.001  # As the published code has it: no division by zero.
    is_slow = ((torch.arange(head_dim // 2, dtype=torch.float64) - first) / width).clamp(0, 1)
    return plain / extension.yarn_factor * is_slow + plain * (1 - is_slow)


def rotary_tables(frequencies: Tensor, length: int, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos and sin, times `factor`, of every position's angles, (length, E) each, float32, in the rotate-half layout.

    Angles are formed in float64, so that the tables hold the nearest float32 at any position.
    """
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies  # (length, E/2)
    angles = torch.cat((angles, angles), dim=-1)  # (length, E)
    return (angles.cos() * factor).float(), (angles.sin() * factor).float()


def logn_scale(length: int, training_length: int) -> Tensor:
    """max(1, log_n(i)) for positions i = 1 … `length`, (length, 1) float32 (recipe section 4)."""
    places = torch.arange(1, length + 1, dtype=torch.float64)
    return (places.log() / math.log(max(training_length, 2))).clamp(min=1).float()[:, None]


def apply_rotary(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `heads` (B, H, T, E) by the angles whose cos and sin are (B or 1, 1, T, E) float32; keeps the dtype."""
    wide = heads.to(torch.promote_types(heads.dtype, torch.float32))
    first, second = wide.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)  # (B, H, T, E)
    return (wide * cos + turned * sin).to(heads.dtype)


class RotaryTables:
    """The tables of a model, one pair for each alpha, made when they are needed and as long as needed."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._tables: dict[float, tuple[Tensor, Tensor]] = {}
        self._logn: Tensor | None = None

    def rotary(self, length: int, position_ids: Tensor | None, device: torch.device, alphas: Sequence[float]) -> Rotary:
        """For tokens at `position_ids` (B, T), all below `length`, or at 0 … `length` - 1; an alpha for all rows, or
        one for each of them."""
        extension = self._config.extension
        scale = self._logn_scale(length, device) if extension.logn else None  # (length, 1)
        if position_ids is None:
            cos, sin = self._table(alphas[0], length, device)
            return Rotary(cos[None, None, :length], sin[None, None, :length], _wide(scale, slice(length)))
        if len(set(alphas)) == 1:
            cos, sin = (table[position_ids] for table in self._table(alphas[0], length, device))
        else:
            rows = [self._table(alpha, length, device) for alpha in alphas]
            cos, sin = (
                torch.stack([row[part][places] for row, places in zip(rows, position_ids, strict=True)])
                for part in (0, 1)
            )
        return Rotary(cos[:, None], sin[:, None], None if scale is None else scale[position_ids][:, None])

    def _table(self, alpha: float, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        cos, sin = self._tables.get(alpha, (torch.empty(0), torch.empty(0)))
        if len(cos) < length or cos.device != device:
            config, longest = self._config, max(length, self._config.max_position_embeddings)
            frequencies = inverse_frequencies(
                config.head_size, config.rope_theta, config.extension, alpha, config.training_length
            )
            made = rotary_tables(frequencies, longest, config.extension.attention_factor)
            cos, sin = self._tables[alpha] = made[0].to(device), made[1].to(device)
        return cos, sin

    def _logn_scale(self, length: int, device: torch.device) -> Tensor:
        if self._logn is None or len(self._logn) < length or self._logn.device != device:
            longest = max(length, self._config.max_position_embeddings)
            self._logn = logn_scale(longest, self._config.training_length).to(device)
        return self._logn


def _wide(scale: Tensor | None, part: slice) -> Tensor | None:
    return None if scale is None else scale[None, None, part]

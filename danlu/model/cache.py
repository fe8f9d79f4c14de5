"""The key/value cache (recipe sections 3 and 4).

Shapes: B rows of a pass, T new tokens, S keys, K key/value heads, E head size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def rows_in_order(rows: Tensor) -> Tensor | slice:
    """`rows` (B) as a slice where each is the one before it plus 1: a slice is not copied."""
    first = int(rows[0])
    following = torch.arange(first, first + len(rows), device=rows.device)
    return slice(first, first + len(rows)) if rows.equal(following) else rows


class KVCache:
    """Keys and values of what each row has seen, per layer; rows have their own lengths.

    A layer that sees everything keeps a row's key of position p in slot p. Slots past a row's length may hold
    leftovers: the mask hides them until they are written over.

    A layer with a window keeps no more keys than that: the key of position p lies in slot p modulo the window, so that
    its memory does not grow. A pass reads the slots as they were before it, and its own keys behind them: what it
    writes over, its first queries still see.
    """

    def __init__(
        self,
        windows: Sequence[int],
        rows: int,
        heads: int,
        slots: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`windows` has the window of each layer, 0 for none; `slots` is the longest that a row can become."""
        self.windows, self.slots = [window if window < slots else 0 for window in windows], slots
        # Behind a window lies one slot more, which is never read: there goes what is not to be kept.
        shapes = [(rows, heads, window + 1 if window else slots, head_dim) for window in self.windows]
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]

    def key_positions(self, window: int, position_ids: Tensor, length: int) -> Tensor:
        """Where the keys stand that `update` returns to a layer with such a window, for a pass at `position_ids`
        (B, T): (S), or (B, S) with what is negative holding nothing yet."""
        if window not in self.windows or not window:
            return torch.arange(length, device=position_ids.device)
        slots = torch.arange(window, device=position_ids.device)
        last = position_ids[:, :1] - 1  # (B, 1): of what is in the slots.
        return torch.cat((last - (last - slots) % window, position_ids), dim=1)

    def update(
        self,
        layer: int,
        rows: Tensor,
        read: Tensor | slice,
        position_ids: Tensor,
        key: Tensor,
        value: Tensor,
        length: int,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Store key and value (B, K, T, E) of `rows` (B) at `position_ids` (B, T), of which each row has `lengths` (B),
        or all; return what the layer's queries may see of these rows, (B, K, S, E), `read` being the same rows: a view
        where it is a slice and the layer sees everything, else a copy."""
        window, keys, values = self.windows[layer], self.keys[layer], self.values[layer]
        key, value = key.to(keys.dtype), value.to(values.dtype)
        if window:
            before = keys[read, :, :window], values[read, :, :window]
            seen = torch.cat((before[0], key), dim=2), torch.cat((before[1], value), dim=2)
            position_ids = _slots(position_ids, lengths, window)
        at = (rows[:, None], slice(None), position_ids)
        keys[at], values[at] = key.transpose(1, 2), value.transpose(1, 2)  # (B, T, K, E)
        return seen if window else (keys[read, :, :length], values[read, :, :length])

    def clear(self, rows: list[int]) -> None:
        """Forget what is not finite: a mask hides a slot by a weight of 0, and 0 times NaN is NaN."""
        for stored in (*self.keys, *self.values):
            stored[rows] = 0

    def copy(self, sources: Tensor, rows: Tensor, copies: int, length: int) -> None:
        """Give what row `sources[i]` holds up to position `length` to `copies` of the `rows` after one another."""
        if copies > 1:
            for window, *both in zip(self.windows, self.keys, self.values, strict=True):
                for stored in both:
                    kept = stored[sources] if window else stored[sources, :, :length]
                    stored[rows, :, : kept.shape[2]] = kept.repeat_interleave(copies, 0)

    @property
    def num_bytes(self) -> int:
        """Memory of the keys and values."""
        return sum(stored.numel() * stored.element_size() for stored in (*self.keys, *self.values))


def _slots(position_ids: Tensor, lengths: Tensor | None, window: int) -> Tensor:
    """The slot of each token of a pass (B, T): the last `window` of each row's own have theirs, fillers behind them and
    tokens that nobody will see go to the one that is not read."""
    places = torch.arange(position_ids.shape[1], device=position_ids.device)
    ends = lengths[:, None] if lengths is not None else torch.full_like(position_ids[:, :1], position_ids.shape[1])
    return torch.where((places < ends) & (places >= ends - window), position_ids % window, window)

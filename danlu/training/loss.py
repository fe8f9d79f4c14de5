"""Next-token cross-entropy without ever holding all logits (recipe section 5).

In: hidden states, the output projection, labels. Out: the sum of the losses over valid labels and their number.
Shapes: N rows (tokens), D hidden, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

IGNORE_INDEX = -100
"""Label of a position that is not learnt, PyTorch's and Hugging Face's convention."""

CHUNK_ELEMENTS = 4 << 20
"""Logits held at once, but for FEWEST_ROWS. Measured on two cores: pieces of 2M to 8M elements are equally fast (they
stay near the cache), 64M are 10 percent slower; on a GPU GPU_CHUNK_ELEMENTS is used instead, because launches dominate
small pieces."""

GPU_CHUNK_ELEMENTS = 512 << 20

FEWEST_ROWS = 256
"""Rows of logits held at once however large the vocabulary: each piece passes over the whole projection and its
gradient. Measured on two cores with 2,048 rows of 896 and 151,936 tokens: 13.6 s with 27 rows, 6.5 with 128, 5.8 with
256, 5.4 with 512, which hold twice as much."""

VOCABULARY_AT_ONCE = 32_768
"""Rows of the projection whose gradient is worked out at once, before it is added up in float32. Our choice: more than
a small vocabulary has, and little memory beside a large one's gradient."""


def exponentiate_rows(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Turn rows of logits (N, V) in place into exp(logit - row maximum); the logarithm of each row's sum of
    exponentials of logits, and the sum of what now stands in the row, both (N) float32 (float64 for float64)."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    maximum = wide.amax(-1)
    powers = (wide - maximum[:, None]).exp()
    total = powers.sum(-1)
    logits.copy_(powers)
    return total.log() + maximum, total


class _ProjectedCrossEntropy(torch.autograd.Function):
    """Loss and both gradients in one pass over pieces of rows.

    With p = exp(z - max) and s its row sum, the gradient of the logits is p/s minus the one-hot target. 1/s is applied
    to the narrow side of the products (rows of the hidden states), so the (N, V) piece is written once and read by the
    two products, never passed over again.
    """

    @staticmethod
    def forward(ctx, hidden, weight, labels, rows_at_once, exponentiate, has_grad):  # type: ignore[no-untyped-def]
        # What needs a gradient says nothing of whether one is wanted now.
        needs_hidden, needs_weight = (has_grad and needed for needed in ctx.needs_input_grad[:2])
        dtype = (
            torch.get_autocast_dtype(hidden.device.type)
            if torch.is_autocast_enabled(hidden.device.type)
            else weight.dtype
        )
        narrow, matrix = hidden.to(dtype), weight.to(dtype)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        # Of what needs no gradient these stay unused views of nothing.
        hidden_grad = torch.empty_like(narrow if needs_hidden else narrow[:0])
        weight_grad = torch.zeros_like(weight if needs_weight else weight[:0], dtype=wide)
        with torch.autocast(hidden.device.type, enabled=False):
            # One buffer for all pieces: fresh memory of this size would be mapped in anew, page by page, each time.
            buffer = narrow.new_empty(min(rows_at_once, len(narrow)), len(matrix))
            for start in range(0, len(narrow), rows_at_once):
                rows, target = narrow[start : start + rows_at_once], labels[start : start + rows_at_once, None]
                logits = torch.mm(rows, matrix.T, out=buffer[: len(rows)])  # (n, V)
                chosen = logits.gather(1, target).to(wide)[:, 0]
                log_total, total = exponentiate(logits)
                loss += (log_total - chosen).sum()
                if needs_hidden or needs_weight:
                    share = (1 / total[:, None]).to(dtype)
                    # (`scatter_add_` would pass over the whole piece.)
                    logits.scatter_(1, target, logits.gather(1, target) - total[:, None].to(dtype))
                    if needs_hidden:
                        hidden_grad[start : start + rows_at_once] = (logits @ matrix) * share
                    if needs_weight:
                        scaled = rows * share
                        for first in range(0, len(matrix), VOCABULARY_AT_ONCE):
                            part = slice(first, first + VOCABULARY_AT_ONCE)
                            weight_grad[part] += logits[:, part].T @ scaled
        # Not `save_for_backward`: they are changed in place, as no other copy of the projection's size has room.
        ctx.grads = hidden_grad if needs_hidden else None, weight_grad if needs_weight else None
        ctx.dtypes = hidden.dtype, weight.dtype
        return loss

    @staticmethod
    def backward(ctx, loss_grad):  # type: ignore[no-untyped-def]
        assert hasattr(ctx, "grads"), "the gradients of this loss have been handed on; take the loss anew"
        own = zip(ctx.grads, ctx.dtypes, strict=True)
        # Gone from here, so that a second backward pass fails, where it would find them multiplied already.
        del ctx.grads
        grads = [None if grad is None else grad.mul_(loss_grad).to(dtype) for grad, dtype in own]
        return (*grads, None, None, None, None)


def cross_entropy_sum(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    exponentiate: Callable[[Tensor], tuple[Tensor, Tensor]] = exponentiate_rows,
) -> tuple[Tensor, int]:
    """Sum over valid labels of -log softmax(hidden @ weight.T)[label], and the number of valid labels.

    `hidden` (..., D), `weight` (V, D), `labels` (...) int64 with IGNORE_INDEX where nothing is learnt. Under autocast
    the products run in its dtype; sums are float32. No valid label gives a zero that still has a gradient (of zero).
    """
    valid = labels.flatten() != IGNORE_INDEX
    hidden, labels = hidden.flatten(0, -2), labels.flatten()
    if not bool(valid.all()):
        hidden, labels = hidden[valid], labels[valid]
    limit = CHUNK_ELEMENTS if hidden.device.type == "cpu" else GPU_CHUNK_ELEMENTS
    rows = max(FEWEST_ROWS, limit // len(weight))
    loss = _ProjectedCrossEntropy.apply(hidden, weight, labels, rows, exponentiate, torch.is_grad_enabled())
    return loss, len(labels)

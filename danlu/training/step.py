"""One optimiser step over the micro-batches of a global batch, shared by every stage that trains.

Losses are sums over valid labels divided by the number of valid labels of the whole batch, so how the batch is split
changes nothing (T01).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from danlu.model.branches import BranchedRows
from danlu.model.transformer import Backbone, Transformer
from danlu.run.device import bfloat16_products
from danlu.training.loss import IGNORE_INDEX, cross_entropy_sum, exponentiate_rows


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Rows of one shape. `labels` are already shifted: `labels[b, t]` is what follows `input_ids[b, t]`.

    All (B, T) int64. `document_ids` and `position_ids` are None where a row is one stream.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor | None = None
    document_ids: Tensor | None = None

    def to(self, device: torch.device) -> "MicroBatch":
        moved = {name: value.to(device) if value is not None else None for name, value in vars(self).items()}
        return MicroBatch(**moved)  # type: ignore[arg-type]

    @property
    def num_targets(self) -> int:
        """Labels that are learnt."""
        return int((self.labels != IGNORE_INDEX).sum())


class TrainingBatch(Protocol):
    """What a loss is taken over: rows, and the number of things in them that are learnt from."""

    @property
    def input_ids(self) -> Tensor: ...
    @property
    def num_targets(self) -> int: ...


LossOf = Callable[[Any], tuple[Tensor, int]]
"""A `TrainingBatch` to the sum of its losses and the number of targets that the sum is over."""


class Forward:
    """Hidden states (B, T, D) of rows; where asked the blocks compiled, in bfloat16, and computed again in the backward
    pass instead of kept (`checkpointed`)."""

    def __init__(self, model: Backbone, compiled: bool, bf16: bool, checkpointed: bool = False) -> None:
        self.model, self.compiled, self.bf16, self.checkpointed = model, compiled, bf16, checkpointed
        # The model itself stays as it is: validation and generation call it with other shapes, uncompiled.
        self.trunk = torch.compile(model.trunk, dynamic=False) if compiled else model.trunk

    def __call__(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        branch_ids: Tensor | None = None,
    ) -> Tensor:
        with bfloat16_products(input_ids.device, self.bf16):
            inputs = self.model.inputs(input_ids, position_ids, document_ids, None, branch_ids)
            return self.trunk(*inputs, None, self.checkpointed)

    def rows(self, rows: BranchedRows) -> Tensor:
        """The same for prompts with several responses."""
        return self(rows.input_ids, rows.position_ids, rows.document_ids, rows.branch_ids)


class LossFunction:
    """Hidden states through the model, then cross-entropy."""

    def __init__(self, model: Transformer, forward: Forward) -> None:
        self.model, self.forward = model, forward
        self.exponentiate = torch.compile(exponentiate_rows, dynamic=True) if forward.compiled else exponentiate_rows

    def __call__(self, batch: MicroBatch) -> tuple[Tensor, int]:
        """Sum of the losses of `batch` and the number of labels it is over."""
        hidden = self.forward(batch.input_ids, batch.position_ids, batch.document_ids)
        with bfloat16_products(batch.input_ids.device, self.forward.bf16):
            return cross_entropy_sum(hidden, self.model.lm_head.weight, batch.labels, self.exponentiate)


def accumulate_gradients(
    loss_function: LossOf,
    batches: Sequence[TrainingBatch],
    before_each: Callable[[int], None] | None = None,
) -> tuple[float, int]:
    """Add the gradient of the batch's mean loss to `.grad`; the mean loss and the number of targets.

    `before_each(i)` is called before micro-batch i: seeds its dropout, so that a resumed run draws the same.
    """
    num_targets = sum(batch.num_targets for batch in batches)
    assert num_targets, "a batch with nothing to learn; the loader leaves such rows out"
    total = 0.0
    for index, batch in enumerate(batches):
        if batch.num_targets == 0:
            continue
        if before_each:
            before_each(index)
        loss, _ = loss_function(batch)
        (loss / num_targets).backward()
        total += loss.item()
    return total / num_targets, num_targets


def clip_and_step(
    parameters: Iterable[torch.nn.Parameter], optimizers: list[torch.optim.Optimizer], max_norm: float
) -> float:
    """Clip the global gradient norm to `max_norm`, step, clear the gradients; the norm before clipping.

    A norm that is not finite skips the update (the caller sees it in the returned value).
    """
    norm = torch.nn.utils.clip_grad_norm_(list(parameters), max_norm).item()
    for optimizer in optimizers:
        if norm == norm and norm != float("inf"):
            optimizer.step()
        optimizer.zero_grad()
    return norm

"""Rows for training, in an order that depends on the seed alone, from any point on (recipe sections 5 and 7).

In: token shards, or encoded conversations. Out: lists of `MicroBatch`, one list for each optimiser step.
Row i of a run is a pure function of (data, seed, i); Grain walks the rows, prefetches them, and keeps the place.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol, SupportsIndex

import absl.logging
import numpy as np
import torch

from danlu.run.errors import UserError
from danlu.run.seeds import derive_seed
from danlu.tokenizer.shards import TokenShards
from danlu.training.loss import IGNORE_INDEX
from danlu.training.step import MicroBatch

# Grain warns at import that it cannot profile JAX, which nobody asked for.
absl.logging.get_absl_logger().addFilter(lambda record: "jax profiler" not in record.getMessage())
import grain.python as grain  # noqa: E402

Row = dict[str, np.ndarray]


class Rows(Protocol):
    """Random access to a run's rows: arrays of `sequence_length` int64 under the names of `MicroBatch`'s fields."""

    sequence_length: int

    def __len__(self) -> int: ...
    def __getitem__(self, index: SupportsIndex) -> Row: ...


class StreamRows:
    """Documents shuffled, joined, cut to rows (section 5); each epoch has its own order and drops its last part row.

    The rows are shuffled again: a long document's neighbouring rows in one small batch are nearly one sample (measured
    on the demo, docs/LOG.md). A row holds `sequence_length` inputs and the same number of labels, so neighbours share
    one token.
    """

    def __init__(self, shards: TokenShards, sequence_length: int, num_rows: int | None, epochs: int, seed: int) -> None:
        self.shards, self.sequence_length, self.seed = shards, sequence_length, seed
        self.rows_per_epoch = (int(shards.offsets[-1]) - 1) // sequence_length
        if self.rows_per_epoch < 1:
            raise UserError(
                f"{int(shards.offsets[-1])} tokens are too few for one row of {sequence_length}",
                where=shards.folder,
                mend="Add text, or lower sequence_length",
            )
        self.num_rows = num_rows if num_rows is not None else epochs * self.rows_per_epoch
        self.epoch_order = lru_cache(maxsize=2)(self._epoch_order)

    def __len__(self) -> int:
        return self.num_rows

    def _epoch_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The documents in this epoch's order, where each starts in the joined stream, and the order of the rows."""
        order = np.random.default_rng(derive_seed(self.seed, "documents", epoch)).permutation(len(self.shards))
        lengths = np.diff(self.shards.offsets)[order]
        rows = np.random.default_rng(derive_seed(self.seed, "rows", epoch)).permutation(self.rows_per_epoch)
        return order, np.concatenate(([0], np.cumsum(lengths))), rows

    def __getitem__(self, index: SupportsIndex) -> Row:
        epoch, row = divmod(int(index), self.rows_per_epoch)
        order, starts, rows = self.epoch_order(epoch)
        begin, wanted = int(rows[row]) * self.sequence_length, self.sequence_length + 1
        place = int(np.searchsorted(starts, begin, side="right")) - 1
        pieces, have = [], 0
        while have < wanted:
            piece = self.shards.document(int(order[place]))[max(0, begin - int(starts[place])) :][: wanted - have]
            pieces.append(piece)
            have, place = have + len(piece), place + 1
        stream = np.concatenate(pieces).astype(np.int64)
        return {"input_ids": stream[:-1], "labels": stream[1:]}


class ConversationRows:
    """Encoded conversations as rows, packed (several a row, unable to see each other) or one a row.

    In: pairs (input_ids, loss_mask). Positions start at 0 in each conversation. What follows a conversation's last
    learnt token is left out: it would only be predicted, never learnt.
    """

    def __init__(
        self,
        encoded: Sequence[tuple[np.ndarray, np.ndarray]],
        sequence_length: int,
        num_rows: int | None,
        epochs: int,
        packing: bool,
        seed: int,
    ) -> None:
        self.encoded, self.sequence_length = encoded, sequence_length
        lengths = [int(np.flatnonzero(mask)[-1]) for _, mask in encoded]
        self.rows: list[list[int]] = []
        epoch = 0
        while len(self.rows) < num_rows if num_rows is not None else epoch < epochs:
            self.rows += self._pack(lengths, packing, derive_seed(seed, "conversations", epoch))
            epoch += 1
        self.rows = self.rows[:num_rows]

    def _pack(self, lengths: list[int], packing: bool, seed: int) -> list[list[int]]:
        """Conversations in a shuffled order, each put into the current row while it fits."""
        rows: list[list[int]] = []
        room = 0
        for index in np.random.default_rng(seed).permutation(len(lengths)).tolist():
            if not packing or lengths[index] > room:
                rows.append([])
                room = self.sequence_length
            rows[-1].append(index)
            room -= lengths[index]
        return rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: SupportsIndex) -> Row:
        row = {
            "input_ids": np.zeros(self.sequence_length, np.int64),
            "labels": np.full(self.sequence_length, IGNORE_INDEX, np.int64),
            "position_ids": np.zeros(self.sequence_length, np.int64),
            # The unused rest of a row is a document of its own, number 0.
            "document_ids": np.zeros(self.sequence_length, np.int64),
        }
        at = 0
        for number, conversation in enumerate(self.rows[int(index)], start=1):
            ids, mask = self.encoded[conversation]
            length = int(np.flatnonzero(mask)[-1])
            span = slice(at, at + length)
            row["input_ids"][span] = ids[:length]
            row["labels"][span] = np.where(mask[1 : length + 1], ids[1 : length + 1], IGNORE_INDEX)
            row["position_ids"][span] = np.arange(length)
            row["document_ids"][span] = number
            at += length
        return row


class Prefetched:
    """Iterates over optimiser steps, each a list of micro-batches, made ahead in a thread; `state()` and `restore()`
    keep the place. Use `close()` at the end."""

    num_steps: int

    def __init__(self, steps: grain.MapDataset, num_steps: int) -> None:
        self.num_steps = num_steps
        self.iterator = iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))

    def __iter__(self) -> "Prefetched":
        return self

    def __next__(self) -> list[Any]:
        return self.split(next(self.iterator))

    def split(self, step: Any) -> list[Any]:
        """A step of the source as micro-batches."""
        micro_batches: list[Any] = step
        return micro_batches

    def state(self) -> dict[str, Any]:
        """The place after the last step handed out, as JSON values."""
        state = self.iterator.get_state()
        return json.loads(state.decode()) if isinstance(state, bytes) else state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on after the place that `state()` told."""
        self.iterator.set_state(state)

    def close(self) -> None:
        """End the prefetching threads."""
        self.iterator.close()


class Batches(Prefetched):
    """Steps of `batch_size` rows.

    The last step may hold fewer rows. Every micro-batch is filled up to `micro_batch_size` with rows that have no
    labels, so that compiled code sees one shape.
    """

    def __init__(self, rows: Rows, batch_size: int, micro_batch_size: int) -> None:
        if batch_size % micro_batch_size:
            raise ValueError(f"batch_size {batch_size} must be a multiple of micro_batch_size {micro_batch_size}")
        self.micro_batch_size = micro_batch_size
        dataset = grain.MapDataset.source(rows).batch(batch_size, drop_remainder=False)
        super().__init__(dataset, -(-len(rows) // batch_size))

    def split(self, arrays: dict[str, np.ndarray]) -> list[MicroBatch]:
        count = len(arrays["labels"])
        missing = -count % self.micro_batch_size
        fields = {}
        for name, array in arrays.items():
            fill = IGNORE_INDEX if name == "labels" else 0
            padded = np.concatenate((array, np.full((missing, array.shape[1]), fill, array.dtype)))
            fields[name] = torch.from_numpy(padded).split(self.micro_batch_size)
        return [
            MicroBatch(**{name: pieces[i] for name, pieces in fields.items()}) for i in range(len(fields["labels"]))
        ]

"""Comparisons as training data (recipe section 8): encoded, grouped by prompt, in steps of micro-batches.

In: a file of comparisons. Out: `PairBatch`es. All comparisons of one prompt are read in one go: the prompt's tokens and
a response that stands in several comparisons are computed once (as Ouyang et al. 2022, section 3.5, do).
A response's ids end in `<|im_end|>`; a group that is too long for a row is never cut: its comparisons are read apart,
and what is still too long is left out and counted (R08, K10).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import SupportsIndex

import grain.python as grain
import numpy as np
import torch
from torch import Tensor

from danlu.conversations.comparisons import Comparison
from danlu.conversations.records import named
from danlu.model.branches import BranchedRows, Group, fill_rows_tightly, group_length, lay_out
from danlu.run.left_out import LeftOut
from danlu.run.seeds import derive_seed
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.chat import encode_conversation
from danlu.training.loader import Prefetched


@dataclass(frozen=True, kw_only=True)
class PromptGroup:
    """A prompt's ids, its responses' ids, and which of them is preferred to which."""

    prompt: list[int]
    responses: list[list[int]]
    pairs: list[tuple[int, int]]
    """(chosen, rejected) as numbers of responses."""

    @property
    def group(self) -> Group:
        return self.prompt, self.responses


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Rows and the comparisons in them: `chosen` and `rejected` (P) are numbers of responses of `rows`."""

    rows: BranchedRows
    chosen: Tensor
    rejected: Tensor
    reference_logprobs: Tensor | None = None
    """(M) of each response, where the loss is held against a reference (DPO)."""

    @property
    def input_ids(self) -> Tensor:
        return self.rows.input_ids

    @property
    def num_targets(self) -> int:
        """Comparisons."""
        return len(self.chosen)

    def to(self, device: torch.device) -> "PairBatch":
        reference = None if self.reference_logprobs is None else self.reference_logprobs.to(device)
        return PairBatch(
            rows=self.rows.to(device),
            chosen=self.chosen.to(device),
            rejected=self.rejected.to(device),
            reference_logprobs=reference,
        )


@dataclass(kw_only=True)
class EncodedComparisons:
    """Comparisons ready to learn from, and what was left out."""

    groups: list[PromptGroup] = field(default_factory=list)
    kept: list[Comparison] = field(default_factory=list)
    """The comparisons in the order of the groups' pairs."""
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def num_pairs(self) -> int:
        return len(self.kept)


def encode_comparisons(
    comparisons: Iterable[Comparison], tokenizer: Tokenizer, limit: int, left_out: LeftOut | None = None
) -> EncodedComparisons:
    """Encode and group by prompt. Left out and counted, beside what `left_out` holds already: what is longer than
    `limit` tokens, answers with equal ids."""
    result = EncodedComparisons(left_out=left_out or LeftOut())
    by_prompt: dict[tuple[tuple[str, str], ...], list[tuple[Comparison, list[int], list[int]]]] = {}
    prompts: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for comparison in comparisons:
        key = tuple((message.role, message.content) for message in comparison.messages)
        if key not in prompts:
            messages = [{"role": role, "content": content} for role, content in key]
            prompts[key] = encode_conversation(tokenizer, messages, add_generation_prompt=True)[0]
        chosen, rejected = (
            [*tokenizer.encode(reply), tokenizer.im_end_id] for reply in (comparison.chosen, comparison.rejected)
        )
        if chosen == rejected:
            result.left_out.add("both answers have the same ids", named(comparison.messages))
        elif group_length((prompts[key], (chosen, rejected))) > limit:
            result.left_out.add(f"longer than {limit} tokens with both answers", named(comparison.messages))
        else:
            by_prompt.setdefault(key, []).append((comparison, chosen, rejected))
    for key, members in by_prompt.items():
        for part in _parts_that_fit(prompts[key], members, limit):
            result.groups.append(_grouped(prompts[key], part))
            result.kept += [comparison for comparison, _, _ in part]
    return result


_Member = tuple[Comparison, list[int], list[int]]


def _grouped(prompt: list[int], members: Sequence[_Member]) -> PromptGroup:
    """One group of a prompt's comparisons; a response that stands in several of them is there once."""
    numbers: dict[tuple[int, ...], int] = {}
    pairs = []
    for _, chosen, rejected in members:
        pairs.append(tuple(numbers.setdefault(tuple(ids), len(numbers)) for ids in (chosen, rejected)))
    return PromptGroup(prompt=prompt, responses=[list(ids) for ids in numbers], pairs=pairs)  # type: ignore[arg-type]


def _parts_that_fit(prompt: list[int], members: list[_Member], limit: int) -> Iterable[list[_Member]]:
    """All comparisons of a prompt at once where a row holds them, else each by itself."""
    if group_length(_grouped(prompt, members).group) <= limit:
        return [members]
    return [[member] for member in members]


class PairSteps:
    """Random access to the steps of a run: step i is a list of micro-batches, a pure function of (groups, seed, i).

    A step holds at most `batch_size` comparisons; those of a group stay together, so a group of more is a step by
    itself. Micro-batches have `rows_at_once` rows; the last is filled up with unused ones, so that compiled code sees
    one shape.
    """

    def __init__(
        self,
        groups: Sequence[PromptGroup],
        *,
        batch_size: int,
        sequence_length: int,
        rows_at_once: int,
        num_steps: int,
        epochs: int,
        seed: int,
        reference_logprobs: Sequence[Sequence[float]] | None = None,
    ) -> None:
        """`num_steps` 0 goes through the groups `epochs` times. `reference_logprobs` go with each group's responses."""
        self.groups, self.reference_logprobs = groups, reference_logprobs
        self.sequence_length, self.rows_at_once = sequence_length, rows_at_once
        self.steps: list[list[int]] = []
        epoch = 0
        while len(self.steps) < num_steps if num_steps else epoch < epochs:
            self.steps += self._cut(batch_size, derive_seed(seed, "comparisons", epoch))
            epoch += 1
        self.steps = self.steps[: num_steps or None]

    def _cut(self, batch_size: int, seed: int) -> list[list[int]]:
        steps: list[list[int]] = []
        room = 0
        for number in np.random.default_rng(seed).permutation(len(self.groups)).tolist():
            count = len(self.groups[number].pairs)
            if count > room:
                steps.append([])
                room = batch_size
            steps[-1].append(number)
            room -= count
        return steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: SupportsIndex) -> list[PairBatch]:
        numbers = self.steps[int(index)]
        rows = fill_rows_tightly([group_length(self.groups[number].group) for number in numbers], self.sequence_length)
        return [
            self._micro_batch([[numbers[place] for place in row] for row in rows[start : start + self.rows_at_once]])
            for start in range(0, len(rows), self.rows_at_once)
        ]

    def _micro_batch(self, rows: list[list[int]]) -> PairBatch:
        chosen: list[int] = []
        rejected: list[int] = []
        reference: list[float] = []
        before = 0
        for number in (number for row in rows for number in row):
            group = self.groups[number]
            chosen += [before + better for better, _ in group.pairs]
            rejected += [before + worse for _, worse in group.pairs]
            before += len(group.responses)
            if self.reference_logprobs is not None:
                reference += self.reference_logprobs[number]
        groups = [[self.groups[number].group for number in row] for row in rows]
        return PairBatch(
            rows=lay_out(groups, self.sequence_length, self.rows_at_once),
            chosen=torch.tensor(chosen),
            rejected=torch.tensor(rejected),
            reference_logprobs=torch.tensor(reference) if self.reference_logprobs is not None else None,
        )


class PairBatches(Prefetched):
    """The steps of `PairSteps`, made ahead in a thread."""

    def __init__(self, steps: PairSteps) -> None:
        super().__init__(grain.MapDataset.source(steps), len(steps))

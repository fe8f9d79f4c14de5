"""Prompts with one or more responses each, laid out in rows so that a prompt is read once and nothing is padded.

In: groups, a prompt's ids with the ids of its responses. Out: `BranchedRows`. A group is a document of its row, a
response a branch of it: responses see their prompt and themselves. Scores and log-probabilities are taken at places
counted here, never found again from ids, so ends and paddings that look alike cannot be confused (R01).

Shapes: R rows, T places of a row, M responses, N tokens of all responses (the end token is one of them).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Ids = Sequence[int]
Group = tuple[Ids, Sequence[Ids]]
"""A prompt and its responses; none of them empty."""


@dataclass(frozen=True, kw_only=True)
class BranchedRows:
    """Rows, and where in them the responses stand. All int64; a flat place is row * T + column."""

    input_ids: Tensor
    """(R, T)"""
    position_ids: Tensor
    """(R, T), from 0 in each prompt; every response goes on where its prompt ends."""
    document_ids: Tensor
    """(R, T), the group's number in its row, from 1; 0 where the row is not used."""
    branch_ids: Tensor
    """(R, T), 0 in a prompt, the response's number, from 1, in it."""
    states: Tensor
    """(N) flat place from which each response token is predicted: the one before it, the prompt's last for the first
    token."""
    tokens: Tensor
    """(N) the response tokens, response by response."""
    ends: Tensor
    """(M) flat place of each response's last token."""
    lengths: Tensor
    """(M) tokens of each response."""

    def to(self, device: torch.device) -> "BranchedRows":
        return BranchedRows(**{name: value.to(device) for name, value in vars(self).items()})


def group_length(group: Group) -> int:
    """Places that a group takes in a row."""
    prompt, responses = group
    return len(prompt) + sum(len(response) for response in responses)


def fill_rows(lengths: Sequence[int], sequence_length: int) -> list[list[int]]:
    """Numbers of the groups in each row, in order, each put into the current row while it fits.

    Raises ValueError for a group that is longer than a row.
    """
    rows: list[list[int]] = []
    room = 0
    for number, length in enumerate(lengths):
        if length > sequence_length:
            raise ValueError(f"a group of {length} tokens is longer than a row of {sequence_length}")
        if length > room:
            rows.append([])
            room = sequence_length
        rows[-1].append(number)
        room -= length
    return rows


def fill_rows_tightly(lengths: Sequence[int], sequence_length: int) -> list[list[int]]:
    """The same in few rows: the longest groups first, each into the first row that has room for it."""
    if max(lengths, default=0) > sequence_length:
        raise ValueError(f"a group of {max(lengths)} tokens is longer than a row of {sequence_length}")
    rows: list[list[int]] = []
    rooms: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        row = next((row for row, room in enumerate(rooms) if lengths[number] <= room), len(rows))
        if row == len(rows):
            rows.append([])
            rooms.append(sequence_length)
        rows[row].append(number)
        rooms[row] -= lengths[number]
    return rows


def lay_out(rows: Sequence[Sequence[Group]], sequence_length: int, num_rows: int | None = None) -> BranchedRows:
    """The groups of each row as tensors; `num_rows` adds unused rows, so that compiled code sees one shape."""
    count = num_rows or len(rows)
    names = ("input_ids", "position_ids", "document_ids", "branch_ids")
    fields = {name: torch.zeros(count, sequence_length, dtype=torch.long) for name in names}
    states: list[Tensor] = []
    tokens: list[int] = []
    ends: list[int] = []
    lengths: list[int] = []
    for row, groups in enumerate(rows):
        at = 0
        for document, (prompt, responses) in enumerate(groups, start=1):
            last_of_prompt = at + len(prompt) - 1
            for branch, ids in enumerate((prompt, *responses)):
                span = slice(at, at + len(ids))
                first = len(prompt) if branch else 0
                fields["input_ids"][row, span] = torch.tensor(ids)
                fields["position_ids"][row, span] = torch.arange(first, first + len(ids))
                fields["document_ids"][row, span] = document
                fields["branch_ids"][row, span] = branch
                if branch:
                    place = row * sequence_length
                    states.append(torch.arange(place + at - 1, place + at + len(ids) - 1))
                    states[-1][0] = place + last_of_prompt
                    tokens += ids
                    ends.append(place + at + len(ids) - 1)
                    lengths.append(len(ids))
                at += len(ids)
    return BranchedRows(
        **fields,
        states=torch.cat(states) if states else torch.empty(0, dtype=torch.long),
        tokens=torch.tensor(tokens, dtype=torch.long),
        ends=torch.tensor(ends, dtype=torch.long),
        lengths=torch.tensor(lengths, dtype=torch.long),
    )


def pack_groups(
    groups: Sequence[Group], sequence_length: int, rows_at_once: int, *, fill_up: bool = False
) -> list[BranchedRows]:
    """All groups in order, in pieces of `rows_at_once` rows; the last has fewer, or is filled up with unused ones where
    compiled code wants to see one shape."""
    filled = fill_rows([group_length(group) for group in groups], sequence_length)
    rows = [[groups[number] for number in row] for row in filled]
    return [
        lay_out(rows[start : start + rows_at_once], sequence_length, rows_at_once if fill_up else None)
        for start in range(0, len(rows), rows_at_once)
    ]

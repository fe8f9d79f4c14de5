"""Rewards of responses by a reward model (recipe section 8): ids in, one number for each response out.

A reward is taken at the response's last token, which for a finished response is its end token. A response that was cut
at a limit has none: its reward is taken at the last token it has, and the caller decides what a missing end costs.
"""

import math
from collections.abc import Iterator, Sequence

import torch

from danlu.model.branches import Group, Ids, group_length, pack_groups
from danlu.model.transformer import ScalarModel
from danlu.run.errors import UserError

TOKENS_AT_ONCE = 8192
"""Tokens of a forward pass. Our choice: enough for full speed on two cores, little memory on any machine."""


@torch.no_grad()
def score_groups(model: ScalarModel, groups: Sequence[Group]) -> list[list[float]]:
    """The reward of every response of every group, float32. Raises UserError for a response that is with its prompt
    longer than the model reads, and for rewards that are not finite."""
    device = next(model.parameters()).device
    scores: list[float] = []
    fitting = [part for group in groups for part in parts_that_fit(group, model.config.max_position_embeddings)]
    length = max(map(group_length, fitting), default=1)
    for piece in pack_groups(fitting, length, max(1, TOKENS_AT_ONCE // length)):
        rows = piece.to(device)
        hidden = model.hidden_states(rows.input_ids, rows.position_ids, rows.document_ids, branch_ids=rows.branch_ids)
        scores += model.at(hidden, rows.ends).tolist()
    if not all(map(math.isfinite, scores)):
        raise UserError("the reward model gives rewards that are not finite", mend="Train it anew, at a lower rate")
    remaining = iter(scores)
    return [[next(remaining) for _ in responses] for _, responses in groups]


def parts_that_fit(group: Group, length: int) -> Iterator[Group]:
    """The group's responses in order, as many at a time as a row of `length` holds with the prompt."""
    prompt, responses = group
    part: list[Ids] = []
    for response in responses:
        if len(prompt) + len(response) > length:
            raise UserError(
                f"a prompt of {len(prompt)} tokens with a response of {len(response)} is longer than the {length} "
                "tokens that the reward model reads",
                mend="Leave it out, or shorten the responses",
            )
        if part and group_length((prompt, [*part, response])) > length:
            yield prompt, part
            part = []
        part.append(response)
    yield prompt, part

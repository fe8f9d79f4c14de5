"""Prompts with several responses in packed rows compute what each response computes by itself (T04 for responses)."""

import random
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from danlu.model.attention import row_mask
from danlu.model.branches import BranchedRows, Group, fill_rows, fill_rows_tightly, group_length, lay_out, pack_groups
from danlu.model.transformer import Transformer

MakeModel = Callable[..., Transformer]

LENGTH = 40
PATHS = pytest.mark.parametrize("with_gradient", [True, False], ids=["training path", "path without gradients"])
KEY_HEADS = pytest.mark.parametrize("key_heads", [4, 2, 1])

TWO_GROUPS_AND_ONE: list[list[Group]] = [
    [([1, 2, 3], [[4, 5], [6]]), ([7], [[8, 9, 10]])],
    [([11, 12], [[13]])],
]


def random_groups(seed: int, count: int = 7) -> list[Group]:
    """Prompts of 1 to 9 tokens with 1 to 4 responses of 1 to 7."""
    chance = random.Random(seed)

    def ids(longest: int) -> list[int]:
        return [chance.randrange(300) for _ in range(chance.randint(1, longest))]

    return [(ids(9), [ids(7) for _ in range(chance.randint(1, 4))]) for _ in range(count)]


def hidden_of(model: Transformer, rows: BranchedRows) -> Tensor:
    """Hidden states of all places, (R * T, D)."""
    return model.hidden_states(
        rows.input_ids, rows.position_ids, rows.document_ids, branch_ids=rows.branch_ids
    ).flatten(0, 1)


def packed_states(model: Transformer, pieces: list[BranchedRows]) -> tuple[Tensor, Tensor]:
    """Hidden states from which the response tokens are predicted (N, D), and at the responses' ends (M, D)."""
    hidden = [hidden_of(model, rows) for rows in pieces]
    states = torch.cat([own[rows.states] for own, rows in zip(hidden, pieces, strict=True)])
    return states, torch.cat([own[rows.ends] for own, rows in zip(hidden, pieces, strict=True)])


def separate_states(model: Transformer, groups: list[Group]) -> tuple[Tensor, Tensor]:
    """The same, every response read after its prompt in a row of its own."""
    states, ends = [], []
    for prompt, responses in groups:
        for response in responses:
            hidden = model.hidden_states(torch.tensor([[*prompt, *response]]))[0]  # (T, D)
            states.append(hidden[len(prompt) - 1 : -1])
            ends.append(hidden[-1])
    return torch.cat(states), torch.stack(ends)


def response_tokens(groups: list[Group]) -> list[int]:
    return [token for _, responses in groups for response in responses for token in response]


def loss_of(model: Transformer, states: Tensor, ends: Tensor, tokens: list[int]) -> Tensor:
    """Something that every response token and every end moves, each end in its own way."""
    logprobs = model.lm_head(states).log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])
    weights = torch.linspace(-1, 1, ends.numel(), dtype=ends.dtype).view_as(ends)
    return logprobs.sum() + (weights * ends).sum()


def gradients(model: Transformer, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> tuple[float, str]:
    return max((float((first[name] - second[name]).abs().max()), name) for name in first)


@PATHS
@KEY_HEADS
@pytest.mark.parametrize("seed", range(4))
def test_packed_responses_have_the_states_and_logits_they_have_alone(
    tiny_model: MakeModel, with_gradient: bool, key_heads: int, seed: int
) -> None:
    model = tiny_model(num_key_value_heads=key_heads).train(with_gradient)
    groups = random_groups(seed)
    pieces = pack_groups(groups, LENGTH, rows_at_once=3)
    with nullcontext() if with_gradient else torch.no_grad():
        states, ends = packed_states(model, pieces)
        expected_states, expected_ends = separate_states(model, groups)
    torch.testing.assert_close(states, expected_states, rtol=0, atol=1e-5)
    torch.testing.assert_close(ends, expected_ends, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.lm_head(states), model.lm_head(expected_states), rtol=0, atol=1e-5)
    assert torch.cat([rows.tokens for rows in pieces]).tolist() == response_tokens(groups)


@KEY_HEADS
@pytest.mark.parametrize("seed", [11, 12])
def test_packed_responses_give_the_sum_of_the_gradients_they_give_alone(
    tiny_model: MakeModel, key_heads: int, seed: int
) -> None:
    """The prompt is read once and learns from all its responses."""
    model = tiny_model(dtype=torch.float64, num_key_value_heads=key_heads).train()
    groups = random_groups(seed)
    tokens = response_tokens(groups)
    packed = gradients(model, loss_of(model, *packed_states(model, pack_groups(groups, LENGTH, 3)), tokens))
    separate = gradients(model, loss_of(model, *separate_states(model, groups), tokens))
    assert min(float(gradient.abs().max()) for gradient in separate.values()) > 0.01, "this would hide a difference"
    difference, name = largest_difference(packed, separate)
    assert difference < 1e-10, f"packing moved the gradient of {name} by {difference:.1e}"


@pytest.mark.parametrize("length", [LENGTH, 64])
@pytest.mark.parametrize("num_rows", [None, 9])
def test_unused_rows_and_the_length_of_a_row_change_nothing(
    tiny_model: MakeModel, length: int, num_rows: int | None
) -> None:
    model = tiny_model(dtype=torch.float64, num_key_value_heads=2).train()
    groups = random_groups(21)
    filled = [[groups[number] for number in row] for row in fill_rows([group_length(group) for group in groups], 40)]
    plain, changed = lay_out(filled, LENGTH), lay_out(filled, length, num_rows)
    assert changed.input_ids.shape == (num_rows or len(filled), length)
    assert changed.tokens.equal(plain.tokens)
    assert changed.lengths.equal(plain.lengths)
    tokens = plain.tokens.tolist()
    states, ends = packed_states(model, [plain])
    other_states, other_ends = packed_states(model, [changed])
    torch.testing.assert_close(other_states, states, rtol=0, atol=1e-12)
    torch.testing.assert_close(other_ends, ends, rtol=0, atol=1e-12)
    expected = gradients(model, loss_of(model, states, ends, tokens))
    found = gradients(model, loss_of(model, other_states, other_ends, tokens))
    difference, name = largest_difference(found, expected)
    assert difference < 1e-10, f"what is not used moved the gradient of {name} by {difference:.1e}"


def test_a_hand_made_case_lies_where_it_should() -> None:
    rows = lay_out(TWO_GROUPS_AND_ONE, 12, num_rows=3)
    unused = [0] * 12
    assert rows.input_ids.tolist() == [[*range(1, 11), 0, 0], [11, 12, 13, *[0] * 9], unused]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2, 3, 0, 0], [0, 1, 2, *[0] * 9], unused]
    assert rows.document_ids.tolist() == [[1] * 6 + [2] * 4 + [0] * 2, [1] * 3 + [0] * 9, unused]
    assert rows.branch_ids.tolist() == [[0, 0, 0, 1, 1, 2, 0, 1, 1, 1, 0, 0], [0, 0, 1, *[0] * 9], unused]
    assert rows.states.tolist() == [2, 3, 2, 6, 7, 8, 13], "the first token is predicted at the prompt's last"
    assert rows.tokens.tolist() == [4, 5, 6, 8, 9, 10, 13]
    assert rows.ends.tolist() == [4, 5, 9, 14]
    assert rows.lengths.tolist() == [2, 1, 3, 1]
    assert all(tensor.dtype == torch.long for tensor in vars(rows).values())
    moved = rows.to(torch.device("cpu"))
    assert all(getattr(moved, name).equal(tensor) for name, tensor in vars(rows).items())


def test_the_mask_of_a_hand_made_row_is_its_documents_and_branches() -> None:
    rows = lay_out(TWO_GROUPS_AND_ONE, 12)
    visible = row_mask(rows.document_ids, rows.branch_ids)[0, 0]
    seen = [[key for key in range(12) if visible[query, key]] for query in range(12)]
    assert seen == [
        [0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 5],
        [6], [6, 7], [6, 7, 8], [6, 7, 8, 9], [10], [10, 11],
    ]  # fmt: skip


def test_groups_fill_rows_in_order_and_to_the_last_place() -> None:
    assert fill_rows([10, 30, 1, 39, 40, 5], LENGTH) == [[0, 1], [2, 3], [4], [5]]
    assert fill_rows([], LENGTH) == []
    assert fill_rows_tightly([10, 30, 1, 39, 40, 5], LENGTH) == [[4], [3, 2], [1, 0], [5]]
    assert fill_rows_tightly([], LENGTH) == []
    for fill in (fill_rows, fill_rows_tightly):
        with pytest.raises(ValueError, match="a group of 41 tokens is longer than a row of 40"):
            fill([3, 41], LENGTH)
    assert [group_length(group) for group in TWO_GROUPS_AND_ONE[0]] == [6, 4]
    groups = random_groups(31, count=20)
    pieces = pack_groups(groups, LENGTH, rows_at_once=3, fill_up=True)
    assert len(pieces) > 2
    assert {tuple(rows.input_ids.shape) for rows in pieces} == {(3, LENGTH)}, "compiled code wants one shape"
    lengths = torch.cat([rows.lengths for rows in pieces]).tolist()
    assert lengths == [len(response) for _, responses in groups for response in responses]


def test_a_group_that_is_longer_than_a_row_is_refused() -> None:
    group: Group = (list(range(20)), [list(range(11)), list(range(10))])
    with pytest.raises(ValueError, match="a group of 41 tokens is longer than a row of 40"):
        pack_groups([group], LENGTH, 1)
    assert len(pack_groups([group], LENGTH + 1, 1)) == 1


def changed_row(first: list[int], second: list[int], neighbour: list[int]) -> BranchedRows:
    """A prompt with two responses, and another prompt with one beside it."""
    return lay_out([[([1, 2, 3], [first, second]), ([9, 8], [neighbour])]], 16)


@PATHS
@KEY_HEADS
@pytest.mark.parametrize("changed", ["first", "second", "neighbour"])
def test_a_response_sees_nothing_of_its_siblings_or_of_another_group(
    tiny_model: MakeModel, with_gradient: bool, key_heads: int, changed: str
) -> None:
    model = tiny_model(num_key_value_heads=key_heads).train(with_gradient)
    responses = {"first": [4, 5, 6], "second": [14, 15], "neighbour": [24, 25, 26]}
    other = {**responses, changed: [130 + place for place in range(len(responses[changed]))]}
    places = {"prompt": slice(0, 3), "first": slice(3, 6), "second": slice(6, 8), "neighbour": slice(8, 13)}
    with nullcontext() if with_gradient else torch.no_grad():
        before, after = (hidden_of(model, changed_row(**ids)) for ids in (responses, other))
    for name, span in places.items():
        if name != changed:
            assert torch.equal(before[span], after[span]), f"the {name} moves with the {changed} response"
    assert not torch.equal(before[places[changed]], after[places[changed]])


@PATHS
def test_equal_responses_of_one_prompt_have_equal_states(tiny_model: MakeModel, with_gradient: bool) -> None:
    """Positions go on where the prompt ends, whatever stands between."""
    model = tiny_model().train(with_gradient)
    with nullcontext() if with_gradient else torch.no_grad():
        hidden = hidden_of(model, changed_row([4, 5, 6], [4, 5, 6], [24]))
    torch.testing.assert_close(hidden[3:6], hidden[6:9], rtol=0, atol=1e-5)

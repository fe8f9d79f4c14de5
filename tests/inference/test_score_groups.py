"""Groups of any length, number and order have the rewards that each response has by itself, or are refused."""

import itertools
import random
from collections.abc import Callable

import pytest
import torch

from danlu.inference import score as score_module
from danlu.inference.score import parts_that_fit, score_groups
from danlu.model.branches import Group
from danlu.model.transformer import ScalarModel
from danlu.run.errors import UserError

END = 7
"""Ends a response; it stands inside the prompts too."""

LONGEST = 64


@pytest.fixture(scope="module")
def model(tiny_scalar_model: Callable[..., ScalarModel]) -> ScalarModel:
    return tiny_scalar_model(num_key_value_heads=2, max_position_embeddings=LONGEST)


def ids(chance: random.Random, length: int) -> list[int]:
    return [chance.choice((END, *range(20, 60))) for _ in range(length)]


def some_groups(seed: int = 1, count: int = 12) -> list[Group]:
    """Prompts of 1 to 20 tokens with 1 to 4 responses of 1 to 12, all ended but the last of each group."""
    chance = random.Random(seed)
    groups: list[Group] = []
    for _ in range(count):
        responses = [[*ids(chance, chance.randint(0, 11)), END] for _ in range(chance.randint(0, 3))]
        groups.append((ids(chance, chance.randint(1, 20)), [*responses, ids(chance, chance.randint(1, 12))]))
    return groups


@torch.no_grad()
def alone(model: ScalarModel, groups: list[Group]) -> list[list[float]]:
    """By definition: the number at the last token of prompt and response, read by themselves."""
    return [
        [float(model(torch.tensor([[*prompt, *response]]))[0, -1]) for response in responses]
        for prompt, responses in groups
    ]


def assert_close(actual: list[list[float]], expected: list[list[float]]) -> None:
    assert [len(own) for own in actual] == [len(own) for own in expected]
    for number, (own, theirs) in enumerate(zip(actual, expected, strict=True)):
        assert own == pytest.approx(theirs, abs=1e-5), f"rewards of group {number}"


def test_rewards_are_those_of_each_response_read_by_itself(model: ScalarModel) -> None:
    groups = some_groups()
    expected = alone(model, groups)
    assert max(itertools.chain(*expected)) - min(itertools.chain(*expected)) > 1, "rewards this alike hide a mistake"
    assert_close(score_groups(model, groups), expected)
    assert_close([score_groups(model, [group])[0] for group in groups], expected)


@pytest.mark.parametrize("tokens_at_once", [1, 2 * LONGEST, 8192])
def test_neither_the_order_nor_the_width_of_a_pass_matters(
    model: ScalarModel, monkeypatch: pytest.MonkeyPatch, tokens_at_once: int
) -> None:
    monkeypatch.setattr(score_module, "TOKENS_AT_ONCE", tokens_at_once)
    groups = some_groups()
    expected = alone(model, groups)
    order = random.Random(tokens_at_once).sample(range(len(groups)), len(groups))
    assert_close(score_groups(model, [groups[number] for number in order]), [expected[number] for number in order])


def test_a_group_that_is_longer_than_a_row_is_split_and_gives_the_same(model: ScalarModel) -> None:
    chance = random.Random(5)
    long: Group = (ids(chance, 20), [[*ids(chance, 9), END] for _ in range(10)])
    parts = list(parts_that_fit(long, LONGEST))
    assert [len(responses) for _, responses in parts] == [4, 4, 2], "as many as fit: 20 + 4 x 10 of 64"
    assert [response for _, responses in parts for response in responses] == long[1], "in their order"
    assert all(prompt == long[0] for prompt, _ in parts)
    groups = [*some_groups(2, 3), long, *some_groups(3, 3)]
    assert_close(score_groups(model, groups), alone(model, groups))


def test_a_response_is_read_up_to_the_last_token_that_the_model_reads(model: ScalarModel) -> None:
    fitting: Group = (list(range(30)), [[*range(30, 63), END], [1]])
    assert_close(score_groups(model, [fitting]), alone(model, [fitting]))
    longer: Group = (list(range(30)), [[1], [*range(30, 64), END]])
    with pytest.raises(UserError, match="prompt of 30 tokens with a response of 35 is longer than the 64") as error:
        score_groups(model, [fitting, longer])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_head_that_is_not_finite_is_refused(model: ScalarModel, broken: float) -> None:
    before = model.score.weight.detach().clone()
    with torch.no_grad():
        model.score.weight[0, 3] = broken
    try:
        with pytest.raises(UserError, match="rewards that are not finite"):
            score_groups(model, some_groups(count=2))
    finally:
        with torch.no_grad():
            model.score.weight.copy_(before)


def test_nothing_to_score_gives_nothing(model: ScalarModel) -> None:
    assert score_groups(model, []) == []
    assert [len(own) for own in score_groups(model, [([20, 21], []), ([20], [[30]])])] == [0, 1]


def test_a_model_can_be_trained_after_it_has_scored(model: ScalarModel) -> None:
    score_groups(model, some_groups(count=2))
    assert all(parameter.grad is None for parameter in model.parameters())
    model(torch.tensor([[20, 21, 22]])).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.zero_grad()

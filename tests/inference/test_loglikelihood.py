"""Likelihoods are those of one plain pass over the joined ids, whatever is shared and whoever is beside (E09)."""

import random
from collections.abc import Callable

import pytest
import torch

from danlu.inference import loglikelihood
from danlu.inference.loglikelihood import Likelihood, loglikelihoods, readings_of, shared_beginnings
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError

MakeModel = Callable[..., Transformer]
Requests = list[tuple[list[int], list[int]]]


def ids(length: int, seed: int) -> list[int]:
    draws = random.Random(seed)
    return [draws.randrange(300) for _ in range(length)]


def plainly(model: Transformer, context: list[int], continuation: list[int]) -> Likelihood:
    """The definition: one pass over the joined ids in float64."""
    joined = torch.tensor([context + continuation])
    with torch.no_grad():
        logprobs = model.double()(joined)[0, len(context) - 1 : -1].log_softmax(-1)
    model.float()
    wanted = torch.tensor(continuation)
    return Likelihood(float(logprobs.gather(-1, wanted[:, None]).sum()), bool((logprobs.argmax(-1) == wanted).all()))


def found(model: Transformer, requests: Requests) -> list[Likelihood]:
    answers = dict(each for piece in loglikelihoods(model, requests) for each in piece)
    return [answers[number] for number in range(len(requests))]


def few_shot() -> Requests:
    """Two subjects with examples of their own, choices of one token and of several."""
    requests: Requests = []
    for subject in range(2):
        examples = ids(90, subject)
        for item in range(7):
            context = examples + ids(3 + 5 * item, 100 * subject + item)
            requests += [(context, [letter]) for letter in (1, 2, 3)]
            requests += [(context, [4, *ids(1 + item % 3, item)])]
    return requests


CASES: dict[str, Requests] = {
    "few-shot": few_shot(),
    "nothing shared": [(ids(length, length), ids(1 + length % 4, 9)) for length in (1, 2, 30, 31, 64, 100, 5)],
    "one context": [(ids(80, 1), ids(n, n)) for n in (1, 2, 3, 9)],
    "one context is another's beginning": [(ids(100, 1)[:n], [5, 6]) for n in (1, 70, 80, 99, 100)],
    "the same request twice": [(ids(70, 1), [3, 4])] * 2,
    "a single token": [([7], [8])],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sharing", [True, False])
def test_likelihoods_are_those_of_a_plain_pass(
    tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch, name: str, sharing: bool
) -> None:
    model = tiny_model(max_position_embeddings=160)
    if not sharing:
        monkeypatch.setattr(loglikelihood, "WORTH_SHARING", 10_000)
    for got, request in zip(found(model, CASES[name]), CASES[name], strict=True):
        expected = plainly(model, *request)
        assert got.logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert got.is_greedy == expected.is_greedy


def test_a_greedy_continuation_is_found_greedy(tiny_model: MakeModel) -> None:
    model = tiny_model(max_position_embeddings=160)
    context = ids(20, 3)
    best: list[int] = []
    for _ in range(3):
        best.append(int(model(torch.tensor([context + best]))[0, -1].argmax()))
    other = [*best[:2], (best[2] + 1) % 300]
    assert [each.is_greedy for each in found(model, [(context, best), (context, other)])] == [True, False]


def test_examples_are_read_once_for_each_subject() -> None:
    groups = list(shared_beginnings(readings_of(few_shot())))
    assert sorted(group.shared for group in groups) == [90, 90]
    assert all(len({reading.ids[: group.shared] for reading in group.readings}) == 1 for group in groups)


def test_choices_of_one_token_are_one_reading() -> None:
    assert len(readings_of([(ids(9, 1), [letter]) for letter in range(4)])) == 1


def test_a_request_longer_than_the_model_is_refused_not_cut(tiny_model: MakeModel) -> None:
    model = tiny_model(max_position_embeddings=64)
    assert found(model, [(ids(64, 1), [1])]), "the last token is only wanted, never read"
    with pytest.raises(UserError, match="request 1: 64 \\+ 2 tokens, the model reads 64"):
        found(model, [([1], [2]), (ids(64, 1), [1, 2])])


@pytest.mark.parametrize("request_", [([], [1]), ([1], [])])
def test_an_empty_side_is_an_error(tiny_model: MakeModel, request_: tuple[list[int], list[int]]) -> None:
    with pytest.raises(ValueError, match="need a token each"):
        found(tiny_model(), [request_])


def test_numbers_that_half_precision_does_not_hold_name_layer_and_type(tiny_model: MakeModel) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.layers[1].mlp.down_proj.weight *= 1e5
    with pytest.raises(UserError, match="not finite in float16, first in layer 1"):
        found(model.half(), [([3, 4], [5])])

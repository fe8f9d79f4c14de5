"""PPO's arithmetic equals plain Python over unpadded responses, whatever stands in the padding.

The references loop over lists, one response at a time, and know neither masks nor padding. Every batch built here is
padded with NaN, infinities and 1e30, so each comparison also proves that padding reaches no result.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danlu.inference.sampling import token_probabilities
from danlu.training.ppo_math import (
    RunningStatistics,
    entropy,
    exact_kl,
    explained_variance,
    generalised_advantages,
    kl_k1,
    kl_k3,
    masked_mean,
    masked_variance,
    nucleus_logprobs,
    policy_loss_sum,
    token_logprobs,
    token_rewards,
    value_loss_sum,
    whiten,
)

Responses = list[list[float]]

GARBAGE = (math.nan, math.inf, -math.inf, 1e30)
NUMBERS = st.integers(-3000, 3000).map(lambda thousandths: thousandths / 1000)
CLIPRANGES = st.sampled_from([0.1, 0.2, 0.25, 0.5])
TEMPERATURES = st.sampled_from([0.3, 0.5, 1.0, 2.0])
properties = settings(max_examples=100, deadline=None)


@st.composite
def batches(draw: st.DrawFn, kinds: int) -> list[Responses]:
    """`kinds` numbers for each token of 1 to 4 responses of 0 to 6 tokens: [kind][response][token]."""
    lengths = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any))
    return [[draw(st.lists(NUMBERS, min_size=length, max_size=length)) for length in lengths] for _ in range(kinds)]


@st.composite
def logit_rows(draw: st.DrawFn, kinds: int) -> list[Responses]:
    """`kinds` sets of 1 to 3 rows of logits over a vocabulary of 1 to 6: [kind][row][token id]."""
    vocabulary, num_rows = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    row = st.lists(NUMBERS, min_size=vocabulary, max_size=vocabulary)
    return [[draw(row) for _ in range(num_rows)] for _ in range(kinds)]


def float64(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def padded(responses: Responses, extra: int = 0) -> Tensor:
    """Responses below one another, filled up with garbage to the longest and `extra` columns more."""
    width = max(map(len, responses)) + extra
    return float64(
        [
            [*response, *(GARBAGE[(row + place) % len(GARBAGE)] for place in range(len(response), width))]
            for row, response in enumerate(responses)
        ]
    )


def mask_of(responses: Responses, extra: int = 0) -> Tensor:
    lengths = torch.tensor([len(response) for response in responses])
    return torch.arange(int(lengths.max()) + extra) < lengths[:, None]


def joined(responses: Responses) -> np.ndarray:
    return np.array([number for response in responses for number in response])


def assert_rows(actual: Tensor, expected: Responses, what: str, padding: float = 0.0) -> None:
    """`actual` holds `expected` where responses have tokens and exactly `padding` after them."""
    assert actual.dtype == torch.float64, f"{what}: float64 came in, {actual.dtype} out"
    for number, (row, response) in enumerate(zip(actual, expected, strict=True)):
        np.testing.assert_allclose(
            row[: len(response)], response, rtol=1e-9, atol=1e-9, err_msg=f"{what} of response {number}"
        )
        rest = row[len(response) :]
        assert bool((rest == padding).all()), f"{what} of response {number} has {rest.tolist()} in its padding"


def assert_number(actual: Tensor, expected: float, what: str) -> None:
    assert actual.dtype == torch.float64, f"{what}: float64 came in, {actual.dtype} out"
    assert actual.item() == pytest.approx(expected, rel=1e-9, abs=1e-9), what


# Log probabilities, entropy, divergence: over a vocabulary


def log_softmax(logits: list[float], temperature: float) -> list[float]:
    scaled = [logit / temperature for logit in logits]
    total = math.fsum(math.exp(number) for number in scaled)
    return [number - math.log(total) for number in scaled]


@given(logit_rows(1), TEMPERATURES, st.data())
@properties
def test_token_logprobs_are_the_whole_softmaxs(rows: list[Responses], temperature: float, data: st.DataObject) -> None:
    (logits,) = rows
    tokens = [data.draw(st.integers(0, len(row) - 1)) for row in logits]
    ours = token_logprobs(float64(logits), torch.tensor(tokens), temperature)
    expected = [log_softmax(row, temperature)[token] for row, token in zip(logits, tokens, strict=True)]
    assert_rows(ours[None], [expected], "log probability")


@given(logit_rows(1), TEMPERATURES, st.data())
@properties
def test_nucleus_logprobs_are_renormalised_over_each_tokens_own_nucleus(
    rows: list[Responses], temperature: float, data: st.DataObject
) -> None:
    (logits,) = rows
    nuclei = [data.draw(st.sets(st.integers(0, len(row) - 1), min_size=1)) for row in logits]
    tokens = [data.draw(st.sampled_from(sorted(nucleus))) for nucleus in nuclei]
    members = data.draw(st.permutations([(row, token) for row, nucleus in enumerate(nuclei) for token in nucleus]))
    nucleus_rows, nucleus_ids = torch.tensor(members).T
    ours = nucleus_logprobs(float64(logits), torch.tensor(tokens), nucleus_rows, nucleus_ids, temperature)
    expected = []
    for row, nucleus, token in zip(logits, nuclei, tokens, strict=True):
        weights = {member: math.exp(row[member] / temperature) for member in nucleus}
        expected.append(math.log(weights[token] / math.fsum(weights.values())))
    assert_rows(ours[None], [expected], "log probability in the nucleus")


@given(logit_rows(2), TEMPERATURES)
@properties
def test_entropy_and_exact_kl_are_sums_over_the_vocabulary(rows: list[Responses], temperature: float) -> None:
    policy, reference = rows
    entropies, divergences = [], []
    for policy_row, reference_row in zip(policy, reference, strict=True):
        log_p, log_q = log_softmax(policy_row, temperature), log_softmax(reference_row, temperature)
        entropies.append(-math.fsum(math.exp(p) * p for p in log_p))
        divergences.append(math.fsum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True)))
    assert_rows(entropy(float64(policy), temperature)[None], [entropies], "entropy")
    assert_rows(exact_kl(float64(policy), float64(reference), temperature)[None], [divergences], "divergence")


@given(logit_rows(2), TEMPERATURES)
@properties
def test_k1_and_k3_are_the_exact_kl_on_average(rows: list[Responses], temperature: float) -> None:
    policy, reference = float64(rows[0]), float64(rows[1])
    exact = exact_kl(policy, reference, temperature)
    num_rows, vocabulary = policy.shape
    every_token = torch.arange(vocabulary).repeat(num_rows)
    log_p, log_q = (
        token_logprobs(logits.repeat_interleave(vocabulary, 0), every_token, temperature)
        for logits in (policy, reference)
    )
    for name, estimator in {"k1": kl_k1, "k3": kl_k3}.items():
        average = (log_p.exp() * estimator(log_p, log_q)).view(policy.shape).sum(1)
        assert_rows(average[None], [exact.tolist()], f"average {name}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_k3_is_never_negative_and_0_where_the_models_agree(dtype: torch.dtype) -> None:
    differences = torch.cat([10.0**power * torch.linspace(-1, 1, 10001, dtype=dtype) for power in range(-10, 2)])
    logprobs = torch.linspace(-20, 0, len(differences), dtype=dtype)
    assert float(kl_k3(torch.zeros_like(differences), differences).min()) >= 0
    assert float(kl_k3(logprobs, logprobs + differences).min()) >= 0
    assert not kl_k3(logprobs, logprobs).any()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_r06_equal_models_have_a_kl_penalty_of_exactly_0(temperature: float) -> None:
    logits = 5 * torch.randn(12, 40, generator=torch.Generator().manual_seed(3))
    tokens = torch.arange(12)
    logprobs, reference_logprobs = (token_logprobs(copy, tokens, temperature) for copy in (logits, logits.clone()))
    assert not kl_k1(logprobs, reference_logprobs).any()
    assert not exact_kl(logits, logits.clone(), temperature).any()
    rewards = token_rewards(
        torch.zeros(3), logprobs.view(3, 4), reference_logprobs.view(3, 4), torch.ones(3, 4, dtype=torch.bool), 0.1
    )
    assert not rewards.any(), f"the penalty of a policy that is its reference: {rewards}"


def test_r06_the_policy_that_is_trained_is_the_one_that_sampled() -> None:
    logits, temperature, token = torch.tensor([[0.45, 0.30, 0.20, 0.05]]).log(), 0.5, torch.tensor([0])
    sampled_from = token_probabilities(logits, temperature, top_p=0.7, top_k=0)
    nucleus_rows, nucleus_ids = sampled_from.nonzero(as_tuple=True)
    assert nucleus_ids.tolist() == [0, 1], "the nucleus is taken after the temperature: two tokens reach 0.7"
    expected = math.log(0.2025 / 0.2925)
    assert sampled_from[0, 0].log().item() == pytest.approx(expected, abs=1e-6), "the sampler's side"
    trained = nucleus_logprobs(logits, token, nucleus_rows, nucleus_ids, temperature)
    assert trained.item() == pytest.approx(expected, abs=1e-6), "the training side"
    assert (trained - sampled_from[0, 0].log()).exp().item() == pytest.approx(1, abs=1e-5), "the first ratio"
    unfiltered = token_logprobs(logits, token, temperature).exp().item()
    assert unfiltered == pytest.approx(0.2025 / 0.335, abs=1e-6), "the KL penalty's side knows the temperature only"


def test_members_of_no_nucleus_matter_to_nothing_and_get_no_gradient() -> None:
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    nucleus_rows, nucleus_ids, tokens = torch.tensor([0, 0, 1]), torch.tensor([1, 3, 2]), torch.tensor([3, 2])
    outside = torch.ones_like(logits, dtype=torch.bool)
    outside[nucleus_rows, nucleus_ids] = False
    clean = nucleus_logprobs(logits, tokens, nucleus_rows, nucleus_ids, 0.7)
    for garbage in GARBAGE:
        spoilt = torch.where(outside, garbage, logits).requires_grad_()
        ours = nucleus_logprobs(spoilt, tokens, nucleus_rows, nucleus_ids, 0.7)
        assert torch.equal(ours, clean), f"{garbage} outside of the nucleus reached a log probability"
        (gradient,) = torch.autograd.grad(ours.sum(), spoilt)
        assert not gradient[outside].any(), f"a gradient went to a token outside of the nucleus, beside {garbage}"
        assert gradient[0, 3].item() != 0
    assert clean[1].item() == 0, "a nucleus of one token has probability 1"


@pytest.mark.parametrize("temperature", [1e-3, 1.0])
def test_large_logits_stay_finite(temperature: float) -> None:
    logits = (1e4 * torch.randn(3, 7, generator=torch.Generator().manual_seed(5))).requires_grad_()
    tokens, rows, ids = torch.arange(3), torch.arange(3).repeat_interleave(7), torch.arange(7).repeat(3)
    results = [
        token_logprobs(logits, tokens, temperature),
        nucleus_logprobs(logits, tokens, rows, ids, temperature),
        entropy(logits, temperature),
        exact_kl(logits, logits.detach().flip(0), temperature),
    ]
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=0)
    for result in results:
        (gradient,) = torch.autograd.grad(result.sum(), logits)
        assert bool(result.isfinite().all())
        assert bool(gradient.isfinite().all())


def test_bfloat16_logits_are_widened_before_anything_is_summed() -> None:
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(5)).bfloat16()
    tokens, rows, ids = torch.arange(3), torch.arange(3).repeat_interleave(7), torch.arange(7).repeat(3)
    for function in (
        lambda x: token_logprobs(x, tokens, 0.7),
        lambda x: nucleus_logprobs(x, tokens, rows, ids, 0.7),
        lambda x: entropy(x, 0.7),
        lambda x: exact_kl(x, x.flip(0), 0.7),
    ):
        assert function(logits).dtype == torch.float32
        assert torch.equal(function(logits), function(logits.float()))


# Token rewards and advantages


@given(batches(2), st.lists(NUMBERS, min_size=4, max_size=4), st.sampled_from([0.0, 0.05, 1.0]))
@properties
def test_token_rewards_are_kl_costs_and_the_score_at_the_end(
    batch: list[Responses], scores: list[float], kl_coef: float
) -> None:
    logprobs, reference_logprobs = batch
    expected = []
    for score, ours, theirs in zip(scores, logprobs, reference_logprobs, strict=False):
        expected.append([-kl_coef * (p - q) for p, q in zip(ours, theirs, strict=True)])
        if ours:
            expected[-1][-1] += score
    mask = mask_of(logprobs)
    rewards = token_rewards(
        float64(scores[: len(logprobs)]), padded(logprobs), padded(reference_logprobs), mask, kl_coef
    )
    assert_rows(rewards, expected, "reward")


@pytest.mark.parametrize(
    ("length", "expected"), [(3, [0.0, 0, 1, 0, 0]), (5, [0.0, 0, 0, 0, 1])], ids=["padded", "full length"]
)
def test_r02_the_score_stands_on_the_last_token_not_on_the_first_padding(length: int, expected: list[float]) -> None:
    logprobs, mask = padded([[-1.0] * length], 5 - length), mask_of([[0.0] * length], 5 - length)
    rewards = token_rewards(float64([1.0]), logprobs, logprobs, mask, 0.1)
    assert rewards.tolist() == [expected], "last index, length and first padding index are three different things"


def test_r02_rewards_sum_to_the_score_less_the_kl_cost() -> None:
    logprobs, reference_logprobs = [[-1.0, -2.0, -0.5]], [[-1.5, -1.0, -2.5]]
    rewards = token_rewards(
        float64([1.0]), padded(logprobs, 2), padded(reference_logprobs, 2), mask_of(logprobs, 2), 0.1
    )
    assert rewards.sum().item() == pytest.approx(1.0 - 0.1 * (0.5 - 1.0 + 2.0), abs=1e-12)


@given(batches(2), st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
@properties
def test_advantages_are_discounted_sums_of_surprises(batch: list[Responses], gamma: float, lam: float) -> None:
    rewards, values = batch
    advantages, returns = generalised_advantages(padded(rewards), padded(values), mask_of(values), gamma, lam)
    expected = []
    for earned, foreseen in zip(rewards, values, strict=True):
        following = [*foreseen[1:], 0.0]
        surprises = [r + gamma * after - v for r, v, after in zip(earned, foreseen, following, strict=False)]
        expected.append(
            [
                math.fsum((gamma * lam) ** later * surprise for later, surprise in enumerate(surprises[token:]))
                for token in range(len(surprises))
            ]
        )
    assert_rows(advantages, expected, f"advantage (gamma {gamma}, lambda {lam})")
    sums = [[a + v for a, v in zip(*both, strict=True)] for both in zip(expected, values, strict=True)]
    assert_rows(returns, sums, f"return (gamma {gamma}, lambda {lam})")


@given(batches(2))
@properties
def test_undiscounted_returns_are_what_is_still_to_be_earned(batch: list[Responses]) -> None:
    rewards, values = batch
    _, returns = generalised_advantages(padded(rewards), padded(values), mask_of(values), 1.0, 1.0)
    expected = [[math.fsum(earned[token:]) for token in range(len(earned))] for earned in rewards]
    assert_rows(returns, expected, "return")


def test_r04_nothing_is_expected_after_the_last_token_whatever_the_padding_says() -> None:
    rewards, values = float64([[0.0, 0, 1, 0]]), float64([[0.5, 0.4, 0.3, 7]])
    mask = torch.tensor([[True, True, True, False]])
    advantages, returns = generalised_advantages(rewards, values, mask, gamma=1.0, lam=0.95)
    assert advantages[0].tolist() == pytest.approx([0.43675, 0.565, 0.7, 0], abs=1e-12), (
        "0.7526 at the start: the padding's value 7 feeds the last token"
    )
    assert returns[0].tolist() == pytest.approx([0.93675, 0.965, 1.0, 0], abs=1e-12)
    assert advantages[0, 3].item() == returns[0, 3].item() == 0


# Masked statistics


@given(batches(2))
@properties
def test_masked_statistics_are_those_of_all_tokens_joined(batch: list[Responses]) -> None:
    values, returns = batch
    mask, ours, theirs = mask_of(values), joined(values), joined(returns)
    assert_number(masked_mean(padded(values), mask), ours.mean(), "mean")
    assert_number(masked_variance(padded(values), mask), ours.var(), "variance")
    explained = 1 - (theirs - ours).var() / max(theirs.var(), 1e-12)
    assert_number(explained_variance(padded(values), padded(returns), mask), explained, "explained variance")
    expected = [[(number - ours.mean()) / (ours.var() + 1e-8) ** 0.5 for number in response] for response in values]
    assert_rows(whiten(padded(values), mask), expected, "whitened")


def test_explained_variance_is_1_for_the_returns_themselves_and_0_for_a_constant() -> None:
    returns = [[1.0, -2.0, 0.5], [4.0]]
    constant = [[3.0] * len(response) for response in returns]
    mask = mask_of(returns)
    assert explained_variance(padded(returns), padded(returns), mask).item() == 1
    assert explained_variance(padded(constant), padded(returns), mask).item() == pytest.approx(0, abs=1e-12)
    assert explained_variance(padded(constant), padded(constant), mask).item() == 1, "returns without any variance"


@pytest.mark.parametrize("extra", [0, 100])
@pytest.mark.parametrize(
    "responses",
    [
        [[1.0, 2, 3], [4.0]],
        [[4.0], [1.0, 2, 3]],
        [[1.0, 2, 3, 4]],
        [[1.0], [2.0], [3.0], [4.0]],
        [[1.0, 2, 3], [], [4]],
    ],
    ids=str,
)
def test_r05_whitening_is_the_same_in_every_layout(responses: Responses, extra: int) -> None:
    mask = mask_of(responses, extra)
    whitened = whiten(padded(responses, extra), mask)
    expected = [[(number - 2.5) / math.sqrt(1.25 + 1e-8) for number in response] for response in responses]
    assert_rows(whitened, expected, "whitened")
    assert whitened.sum().item() == pytest.approx(0, abs=1e-12), "the mean is over the tokens, not the padding"
    assert whitened.square().sum().item() / 4 == pytest.approx(1, abs=1e-7)


def test_r05_a_single_token_whitens_to_0_and_no_token_at_all_to_zeros() -> None:
    assert whiten(padded([[3.7]], 5), mask_of([[3.7]], 5)).tolist() == [[0.0] * 6]
    assert whiten(padded([[], []], 3), mask_of([[], []], 3)).tolist() == [[0.0] * 3] * 2


@given(st.lists(st.lists(NUMBERS, max_size=6), min_size=1, max_size=6).filter(any), st.sampled_from([0.0, 1e6]))
@properties
def test_running_statistics_are_those_of_all_scores_joined(scores: Responses, offset: float) -> None:
    """Far from 0 too, where a difference of two sums of squares would lose the deviation."""
    statistics = RunningStatistics()
    for batch in scores:
        statistics.update(float64(batch) + offset)
    everything = joined(scores) + offset
    assert statistics.count == len(everything)
    assert statistics.mean == pytest.approx(everything.mean(), rel=1e-12, abs=1e-12)
    assert statistics.deviation == pytest.approx(everything.std(), rel=1e-6, abs=1e-9)
    centred = everything - everything.mean()
    ours = partial(statistics.normalise, float64(everything))
    np.testing.assert_allclose(ours(divide=False), centred, atol=1e-8)
    if everything.std() > 1e-6:
        np.testing.assert_allclose(ours(divide=True), centred / everything.std(), rtol=1e-5, atol=1e-5)


def test_running_statistics_before_the_first_score_and_of_equal_scores() -> None:
    statistics = RunningStatistics()
    assert (statistics.count, statistics.mean, statistics.deviation) == (0, 0.0, 0.0)
    scores = torch.full((3,), 0.1)
    for batch in (scores, scores[:1], scores[:0]):
        statistics.update(batch)
        assert not statistics.normalise(scores, divide=True).any(), "equal scores differ in nothing, not by noise"
    assert statistics.count == 4


# Losses


@given(batches(3), CLIPRANGES)
@properties
def test_policy_loss_is_the_clipped_surrogate(batch: list[Responses], cliprange: float) -> None:
    logprobs, old_logprobs, advantages = batch
    pairs = zip(logprobs, old_logprobs, strict=True)
    ratios = [[math.exp(new - old) for new, old in zip(*pair, strict=True)] for pair in pairs]
    loss, num_cut = 0.0, 0
    for response in zip(ratios, advantages, strict=True):
        for ratio, advantage in zip(*response, strict=True):
            clipped = min(max(ratio, 1 - cliprange), 1 + cliprange)
            loss -= min(ratio * advantage, clipped * advantage)
            num_cut += ratio > 1 + cliprange if advantage > 0 else ratio < 1 - cliprange and advantage < 0
    ours, our_ratios, our_num_cut = policy_loss_sum(
        padded(logprobs), padded(old_logprobs), padded(advantages), mask_of(logprobs), cliprange
    )
    assert_number(ours, loss, "policy loss")
    assert_rows(our_ratios, ratios, "ratio", padding=1.0)
    assert our_num_cut.item() == num_cut, "tokens cut off by the clip"


@given(batches(3), CLIPRANGES)
@properties
def test_value_loss_is_the_worse_of_two_squared_errors(batch: list[Responses], cliprange: float) -> None:
    values, old_values, returns = batch
    loss, num_cut = 0.0, 0
    for value, old, target in zip(joined(values), joined(old_values), joined(returns), strict=True):
        near = min(max(value, old - cliprange), old + cliprange)
        errors = [(guess - target) * (guess - target) for guess in (value, near)]
        loss += max(errors) / 2
        num_cut += errors[1] > errors[0]
    ours, our_num_cut = value_loss_sum(padded(values), padded(old_values), padded(returns), mask_of(values), cliprange)
    assert_number(ours, loss, "value loss")
    assert our_num_cut.item() == num_cut, "tokens cut off by the clip"


def test_the_policy_clip_cuts_gradients_only_where_the_step_was_already_taken() -> None:
    ratio, advantages = float64([[1.5, 1.5, 0.5, 0.5]]), float64([[1.0, -1.0, 1.0, -1.0]])
    logprobs = ratio.log().requires_grad_()
    mask = torch.ones(1, 4, dtype=torch.bool)
    loss, ratios, num_cut = policy_loss_sum(logprobs, torch.zeros(1, 4), advantages, mask, 0.2)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert gradient[0].tolist() == pytest.approx([0, 1.5, -0.5, 0], abs=1e-12), (
        "a good token above the range and a bad one below it are left alone; the other two are pulled back"
    )
    assert loss.item() == pytest.approx(-1.2 + 1.5 - 0.5 + 0.8)
    assert num_cut.item() == 2
    assert not ratios.requires_grad
    torch.testing.assert_close(ratios, ratio)


def test_the_value_clip_cuts_gradients_only_where_the_clipped_place_is_worse() -> None:
    values, returns = float64([[1.0, 1.0, -1.0, -1.0]]).requires_grad_(), float64([[2.0, -1.0, -2.0, 1.0]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    loss, num_cut = value_loss_sum(values, torch.zeros(1, 4).double(), returns, mask, 0.2)
    (gradient,) = torch.autograd.grad(loss, values)
    assert gradient[0].tolist() == pytest.approx([0, 2, 0, -2], abs=1e-12)
    assert loss.item() == pytest.approx((1.8**2 + 2**2 + 1.8**2 + 2**2) / 2)
    assert num_cut.item() == 2


def test_before_the_first_update_nothing_is_clipped_and_the_gradient_is_the_advantage() -> None:
    logprobs, advantages = [[-1.0, -2.0, -0.5], [-3.0]], [[0.7, -1.2, 2.0], [0.4]]
    mask, new = mask_of(logprobs), padded(logprobs).requires_grad_()
    loss, ratios, num_cut = policy_loss_sum(new, padded(logprobs), padded(advantages), mask, 0.2)
    (gradient,) = torch.autograd.grad(loss, new)
    assert torch.equal(ratios, torch.ones_like(ratios))
    assert num_cut.item() == 0
    assert_rows(-gradient, advantages, "gradient")


@pytest.mark.parametrize("loss_sum", [policy_loss_sum, value_loss_sum])
def test_as_many_tokens_are_counted_as_cut_off_as_have_no_gradient(loss_sum: Callable[..., Any]) -> None:
    """In float32, where rounding must not count as a clip."""
    generator = torch.Generator().manual_seed(4)
    new, old, third = (torch.randn(20, 500, generator=generator) for _ in range(3))
    new.requires_grad_()
    loss, *_, num_cut = loss_sum(new, old, third, torch.ones(20, 500, dtype=torch.bool), 0.5)
    (gradient,) = torch.autograd.grad(loss, new)
    assert 0 < num_cut.item() < 10000
    assert num_cut.item() == int((gradient == 0).sum())


# Padding and gradients: every masked function alike

MaskedFunction = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def rewards_of(logprobs: Tensor, reference_logprobs: Tensor, _: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    scores = torch.linspace(1, 2, len(mask), dtype=logprobs.dtype)
    return (token_rewards(scores, logprobs, reference_logprobs, mask, 0.1),)


ELEMENTWISE: dict[str, MaskedFunction] = {
    "token_rewards": rewards_of,
    "advantages, to the values": lambda x, y, _, mask: generalised_advantages(y, x, mask, 0.9, 0.8),
    "advantages, to the rewards": lambda x, y, _, mask: generalised_advantages(x, y, mask, 0.9, 0.8),
    "policy clip": lambda x, y, z, mask: policy_loss_sum(x, y, z, mask, 0.3)[1:],
    "value clip": lambda x, y, z, mask: value_loss_sum(x, y, z, mask, 0.3)[1:],
}
SUMMED: dict[str, MaskedFunction] = {
    "masked_mean": lambda x, _, __, mask: (masked_mean(x, mask),),
    "masked_variance": lambda x, _, __, mask: (masked_variance(x, mask),),
    "whiten": lambda x, _, __, mask: (whiten(x, mask),),
    "explained_variance": lambda x, y, _, mask: (explained_variance(x, y, mask),),
    "policy_loss_sum": lambda x, y, z, mask: policy_loss_sum(x, y, z, mask, 0.3)[:1],
    "value_loss_sum": lambda x, y, z, mask: value_loss_sum(x, y, z, mask, 0.3)[:1],
}
MASKED = ELEMENTWISE | SUMMED


def random_batch(dtype: torch.dtype, extra: int = 0, filling: float = 0.0) -> tuple[list[Tensor], Tensor]:
    """Three numbers for each token of responses of 6, 9 and 1 tokens, and the mask."""
    mask = mask_of([[0.0] * 6, [0.0] * 9, [0.0]], extra)
    generator = torch.Generator().manual_seed(7)
    tensors = [torch.full(mask.shape, filling, dtype=dtype) for _ in range(3)]
    for tensor in tensors:
        tensor[mask] = torch.randn(int(mask.sum()), generator=generator, dtype=dtype)
    return tensors, mask


def results_and_gradient(
    function: MaskedFunction, tensors: list[Tensor], mask: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Results, and the gradient of their sum to the first of `tensors` (columns weigh unlike); zeros without one."""
    learnt = tensors[0].clone().requires_grad_()
    results = function(learnt, tensors[1], tensors[2], mask)
    gradient = torch.zeros_like(learnt)
    for result in results:
        if result.requires_grad:
            weights = torch.arange(1, mask.shape[1] + 1).expand_as(mask) if result.dim() else torch.ones(())
            gradient += torch.autograd.grad(result, learnt, weights.to(result), retain_graph=True)[0]
    return tuple(result.detach() for result in results), gradient


@pytest.mark.parametrize("garbage", GARBAGE, ids=str)
@pytest.mark.parametrize("name", MASKED)
def test_garbage_in_the_padding_changes_no_result_and_no_gradient(name: str, garbage: float) -> None:
    clean, clean_gradient = results_and_gradient(MASKED[name], *random_batch(torch.float32))
    tensors, mask = random_batch(torch.float32, filling=garbage)
    spoilt, gradient = results_and_gradient(MASKED[name], tensors, mask)
    for ours, theirs in zip(spoilt, clean, strict=True):
        assert torch.equal(ours, theirs), f"{garbage} in the padding reached a result of {name}"
    assert bool((gradient[~mask] == 0).all()), f"{name}: the padding has the gradients {gradient[~mask].tolist()}"
    assert torch.equal(gradient, clean_gradient), f"{garbage} in the padding reached a token's gradient of {name}"


@pytest.mark.parametrize("name", MASKED)
def test_r03_more_columns_of_padding_change_nothing(name: str) -> None:
    """Bit for bit where each token stands by itself; within 1e-6 where float32 sums may take another order."""
    tolerance = 1e-6 if name in SUMMED else 0
    few, few_gradient = results_and_gradient(MASKED[name], *random_batch(torch.float32, filling=math.nan))
    width = few_gradient.shape[1]
    for extra in (*range(1, 21), 31, 32, 63, 64, 100):
        many, many_gradient = results_and_gradient(MASKED[name], *random_batch(torch.float32, extra, math.nan))
        for ours, theirs in zip((*many, many_gradient), (*few, few_gradient), strict=True):
            np.testing.assert_allclose(
                ours[:, :width] if ours.dim() else ours,
                theirs,
                rtol=tolerance,
                atol=tolerance,
                err_msg=f"{name} with {extra} more columns of padding",
            )


def test_r03_an_answer_cut_at_its_limit_is_scored_on_its_last_token() -> None:
    """Six tokens and no end beside nine: the place comes from the length, not from an end token."""
    (logprobs, *_), mask = random_batch(torch.float32, extra=20, filling=math.nan)
    rewards = token_rewards(torch.tensor([-1.0, 2.0, 3.0]), logprobs, logprobs, mask, 0.1)
    assert rewards.nonzero().tolist() == [[0, 5], [1, 8], [2, 0]]
    assert rewards[rewards != 0].tolist() == [-1.0, 2.0, 3.0]


@pytest.mark.parametrize("name", MASKED)
def test_gradients_are_the_finite_differences(name: str) -> None:
    tensors, mask = random_batch(torch.float64, extra=1, filling=math.nan)
    tensors[0].requires_grad_()

    def differentiable(learnt: Tensor) -> list[Tensor]:
        results = MASKED[name](learnt, tensors[1], tensors[2], mask)
        assert all(result.dtype in (torch.float64, torch.int64) for result in results), f"{name} narrowed float64"
        return [result for result in results if result.requires_grad]

    if "clip" in name:
        assert not differentiable(tensors[0]), f"{name}: what is only reported must not hold the graph"
    else:
        assert torch.autograd.gradcheck(differentiable, (tensors[0],))


TOKENS = torch.tensor([4, 0, 2])
NUCLEI = torch.tensor([(0, 4), (0, 1), (0, 5), (1, 0), (2, 2), (2, 3)]).T


@pytest.mark.parametrize(
    "function",
    [
        lambda x, _: token_logprobs(x, TOKENS, 0.7),
        lambda x, _: nucleus_logprobs(x, TOKENS, NUCLEI[0], NUCLEI[1], 0.7),
        lambda x, _: entropy(x, 0.7),
        lambda x, y: exact_kl(x, y, 0.7),
        lambda x, y: exact_kl(y, x, 0.7),
        kl_k1,
        kl_k3,
    ],
    ids=["token_logprobs", "nucleus_logprobs", "entropy", "exact_kl", "exact_kl, to the reference", "kl_k1", "kl_k3"],
)
def test_gradients_to_logits_are_the_finite_differences(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(8)
    logits, others = (torch.randn(3, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    assert function(logits, others).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda learnt: function(learnt, others), (logits.requires_grad_(),))

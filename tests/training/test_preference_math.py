"""The losses over pairs are their definitions, and finite however far the scores lie apart."""

import math

import pytest
import torch
from torch import Tensor

from danlu.training.preference_math import centring_loss_sum, dpo_loss_sum, pairwise_loss_sum


def scores(seed: int, count: int = 6, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(count, generator=generator, dtype=torch.float64)).requires_grad_()


def minus_log_sigmoid(difference: float) -> float:
    """-log(1 / (1 + e^-d)), from the definition."""
    return -math.log(1 / (1 + math.exp(-difference)))


def test_the_pairwise_loss_is_minus_the_log_of_the_bradley_terry_probability() -> None:
    chosen, rejected = scores(1), scores(2)
    expected = math.fsum(
        -math.log(math.exp(better) / (math.exp(better) + math.exp(worse)))
        for better, worse in zip(chosen.tolist(), rejected.tolist(), strict=True)
    )
    assert pairwise_loss_sum(chosen, rejected).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(pairwise_loss_sum, (chosen, rejected))


def test_the_pairwise_gradient_is_the_probability_of_being_wrong() -> None:
    chosen, rejected = scores(3), scores(4)
    pairwise_loss_sum(chosen, rejected).backward()
    wrong = torch.sigmoid(rejected - chosen).detach()
    assert chosen.grad is not None
    assert rejected.grad is not None
    torch.testing.assert_close(chosen.grad, -wrong, rtol=1e-12, atol=0)
    torch.testing.assert_close(rejected.grad, wrong, rtol=1e-12, atol=0)


def test_equal_scores_cost_ln_2_and_only_differences_count() -> None:
    chosen, rejected = scores(5).detach(), scores(6).detach()
    assert pairwise_loss_sum(chosen, chosen).item() == pytest.approx(6 * math.log(2))
    torch.testing.assert_close(pairwise_loss_sum(chosen + 7.5, rejected + 7.5), pairwise_loss_sum(chosen, rejected))
    assert pairwise_loss_sum(torch.empty(0), torch.empty(0)).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_extreme_scores_have_a_finite_loss_and_gradient(dtype: torch.dtype) -> None:
    chosen = torch.tensor([1e4, -1e4, 1e4, -1e4], dtype=dtype, requires_grad=True)
    rejected = torch.tensor([-1e4, 1e4, 1e4, -1e4], dtype=dtype, requires_grad=True)
    losses = [pairwise_loss_sum(chosen[at : at + 1], rejected[at : at + 1]) for at in range(4)]
    expected = torch.tensor([0.0, 2e4, math.log(2), math.log(2)], dtype=dtype)
    torch.testing.assert_close(torch.stack(losses), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=0)
    torch.stack(losses).sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.tolist() == [0.0, -1.0, -0.5, -0.5], "a pair that is far wrong pulls with 1, a right one with 0"
    assert rejected.grad.tolist() == [0.0, 1.0, 0.5, 0.5]


def test_the_centring_loss_is_0_around_0_and_pulls_both_scores_alike() -> None:
    chosen, rejected = scores(7), scores(8)
    expected = math.fsum((c + r) ** 2 for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True))
    loss = centring_loss_sum(chosen, rejected)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(centring_loss_sum, (chosen, rejected))
    loss.backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.equal(rejected.grad), "centring must not move the difference"
    assert centring_loss_sum(chosen, -chosen).item() == 0.0


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_dpo_loss_is_its_definition(beta: float) -> None:
    """Rafailov et al. 2023, equation 7: -log sigmoid(beta log(p/r of chosen) - beta log(p/r of rejected))."""
    chosen, rejected, reference_chosen, reference_rejected = (scores(seed) for seed in (11, 12, 13, 14))
    expected = math.fsum(
        minus_log_sigmoid(beta * (c - rc) - beta * (r - rr))
        for c, r, rc, rr in zip(
            chosen.tolist(), rejected.tolist(), reference_chosen.tolist(), reference_rejected.tolist(), strict=True
        )
    )
    loss = dpo_loss_sum(chosen, rejected, reference_chosen, reference_rejected, beta)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda *logprobs: dpo_loss_sum(*logprobs, beta), (chosen, rejected, reference_chosen, reference_rejected)
    )


def test_a_policy_that_is_its_reference_costs_ln_2_a_pair_and_is_pulled_evenly() -> None:
    chosen, rejected = (-100 * scores(seed).abs().detach() for seed in (15, 16))
    policy, other = chosen.clone().requires_grad_(), rejected.clone().requires_grad_()
    loss = dpo_loss_sum(policy, other, chosen, rejected, 0.1)
    assert loss.item() == pytest.approx(6 * math.log(2), rel=1e-12)
    loss.backward()
    assert policy.grad is not None
    assert other.grad is not None
    assert policy.grad.tolist() == pytest.approx([-0.05] * 6)
    assert other.grad.tolist() == pytest.approx([0.05] * 6)


def test_the_dpo_loss_sees_only_how_far_the_policy_has_moved() -> None:
    chosen, rejected, reference_chosen, reference_rejected = (scores(seed).detach() for seed in (17, 18, 19, 20))
    before = dpo_loss_sum(chosen, rejected, reference_chosen, reference_rejected, 0.3)
    shifted = dpo_loss_sum(chosen - 40, rejected - 90, reference_chosen - 40, reference_rejected - 90, 0.3)
    torch.testing.assert_close(shifted, before)
    preferred = dpo_loss_sum(chosen + 1, rejected, reference_chosen, reference_rejected, 0.3)
    assert preferred < before, "the chosen response has become likelier, so the loss must fall"


def test_the_dpo_loss_of_extreme_log_probabilities_is_finite() -> None:
    far = torch.tensor([-1e4, 0.0], requires_grad=True)
    loss = dpo_loss_sum(far, far.flip(0), torch.zeros(2), torch.zeros(2), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert far.grad is not None
    assert bool(torch.isfinite(far.grad).all())

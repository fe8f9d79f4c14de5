"""The loss taken in pieces equals PyTorch's over all logits, in value and in gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from danlu.model.transformer import Transformer
from danlu.training import loss as loss_module
from danlu.training.loss import IGNORE_INDEX, cross_entropy_sum
from danlu.training.step import Forward, LossFunction, MicroBatch


def case(dtype: torch.dtype, scale: float = 1.0, rows: int = 37, vocabulary: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    hidden = scale * torch.randn(rows, 16, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocabulary, 16, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    labels[::5] = IGNORE_INDEX
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), labels


def reference(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients in float64, by PyTorch."""
    wide, matrix = (tensor.detach().double().requires_grad_() for tensor in (hidden, weight))
    loss = torch.nn.functional.cross_entropy(wide @ matrix.T, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    loss.backward()
    assert wide.grad is not None
    assert matrix.grad is not None
    return loss.detach(), wide.grad, matrix.grad


TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6}


@pytest.mark.parametrize("elements", [1, 50, 170, 10**6], ids=["one row", "one row, exactly", "three rows", "all rows"])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_loss_and_gradients_are_those_of_pytorch(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, elements: int
) -> None:
    hidden, weight, labels = case(dtype)
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", elements)
    monkeypatch.setattr(loss_module, "FEWEST_ROWS", 1)
    monkeypatch.setattr(loss_module, "VOCABULARY_AT_ONCE", elements)
    loss, count = cross_entropy_sum(hidden, weight, labels)
    assert count == int((labels != IGNORE_INDEX).sum())
    assert loss.dtype == dtype
    (3 * loss).backward()
    expected, hidden_grad, weight_grad = reference(hidden, weight, labels)
    tolerance = TOLERANCES[dtype]
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    for ours, theirs in ((hidden.grad, 3 * hidden_grad), (weight.grad, 3 * weight_grad)):
        assert ours is not None
        assert ours.dtype == dtype
        difference = float((ours.double() - theirs).abs().max())
        assert difference < tolerance * float(theirs.abs().max()), f"gradient off by {difference:.1e}"


@pytest.mark.parametrize("scale", [1e-6, 30.0, 1e4])
def test_very_small_and_very_large_logits_stay_finite_and_right(scale: float) -> None:
    hidden, weight, labels = case(torch.float32, scale)
    loss, _ = cross_entropy_sum(hidden, weight, labels)
    loss.backward()
    expected, hidden_grad, _ = reference(hidden, weight, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad.double(), hidden_grad, rtol=1e-3, atol=1e-3)


def test_without_gradients_the_loss_is_the_same() -> None:
    hidden, weight, labels = case(torch.float32)
    with torch.no_grad():
        quiet, _ = cross_entropy_sum(hidden, weight, labels)
    assert not quiet.requires_grad
    assert quiet.item() == pytest.approx(cross_entropy_sum(hidden, weight, labels)[0].item(), rel=1e-6)


@pytest.mark.parametrize("learnt", ["hidden", "weight"])
def test_one_side_alone_can_be_learnt(learnt: str) -> None:
    hidden, weight, labels = case(torch.float64)
    (weight if learnt == "hidden" else hidden).requires_grad_(False)
    cross_entropy_sum(hidden, weight, labels)[0].backward()
    _, hidden_grad, weight_grad = reference(hidden, weight, labels)
    ours, theirs = (hidden.grad, hidden_grad) if learnt == "hidden" else (weight.grad, weight_grad)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_labels_may_have_several_dimensions() -> None:
    hidden, weight, labels = case(torch.float64, rows=36)
    flat, _ = cross_entropy_sum(hidden, weight, labels)
    shaped, count = cross_entropy_sum(hidden.view(4, 9, 16), weight, labels.view(4, 9))
    assert shaped.item() == flat.item()
    assert count == int((labels != IGNORE_INDEX).sum())


def test_nothing_to_learn_is_a_zero_with_a_gradient_of_zero() -> None:
    hidden, weight, labels = case(torch.float32)
    loss, count = cross_entropy_sum(hidden, weight, torch.full_like(labels, IGNORE_INDEX))
    loss.backward()
    assert (loss.item(), count) == (0.0, 0)
    for gradient in (hidden.grad, weight.grad):
        assert gradient is not None
        assert not gradient.any()


def test_the_inputs_are_left_as_they_were() -> None:
    hidden, weight, labels = case(torch.float32)
    copies = [tensor.detach().clone() for tensor in (hidden, weight, labels)]
    cross_entropy_sum(hidden, weight, labels)[0].backward()
    assert all(
        torch.equal(tensor.detach(), copy) for tensor, copy in zip((hidden, weight, labels), copies, strict=True)
    )


def test_under_bfloat16_loss_and_gradients_stay_close_to_float32() -> None:
    hidden, weight, labels = case(torch.float32, rows=200)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = cross_entropy_sum(hidden, weight, labels)
    assert loss.dtype == torch.float32
    loss.backward()
    expected, hidden_grad, weight_grad = reference(hidden, weight, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=0.005)
    for ours, theirs in ((hidden.grad, hidden_grad), (weight.grad, weight_grad)):
        assert ours is not None
        assert ours.dtype == torch.float32
        error = float((ours.double() - theirs).norm() / theirs.norm())
        assert error < 0.01, f"the gradient is off by {error:.1%} of its norm"


@pytest.mark.usefixtures("bfloat16_even_in_software")
def test_a_whole_step_under_bfloat16_stays_close_to_float32(tiny_model: Callable[..., Transformer]) -> None:
    ids = torch.arange(2 * 30).view(2, 30)
    results = {}
    for bf16 in (False, True):
        model = tiny_model().train()
        loss_function = LossFunction(model, Forward(model, compiled=False, bf16=bf16))
        loss, _ = loss_function(MicroBatch(input_ids=ids, labels=ids.roll(-1, 1)))
        loss.backward()
        results[bf16] = (loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
    assert results[True][0] == pytest.approx(results[False][0], rel=0.01)
    error = float((results[True][1] - results[False][1]).norm() / results[False][1].norm())
    assert 0 < error < 0.05, f"gradient off by {error:.1%}"


def test_without_gradients_none_is_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, labels = case(torch.float32)
    shapes: list[tuple[int, ...]] = []
    zeros_like = torch.zeros_like

    def noting(tensor: Tensor, **values: object) -> Tensor:
        shapes.append(tuple(tensor.shape))
        return zeros_like(tensor, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "zeros_like", noting)
    with torch.no_grad():
        cross_entropy_sum(hidden, weight, labels)
    assert shapes == [(0, 16)]
    cross_entropy_sum(hidden, weight, labels)
    assert shapes[1:] == [(50, 16)]


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_a_side_that_does_not_learn_has_no_gradient_and_the_other_its_own(frozen: str) -> None:
    hidden, weight, labels = case(torch.float64)
    sides = {"hidden": hidden, "weight": weight}
    _, *expected = reference(hidden, weight, labels)
    sides[frozen].requires_grad_(False)
    cross_entropy_sum(hidden, weight, labels)[0].backward()
    for (name, side), theirs in zip(sides.items(), expected, strict=True):
        assert (side.grad is None) == (name == frozen)
        if side.grad is not None:
            torch.testing.assert_close(side.grad, theirs, rtol=1e-12, atol=1e-12)


def test_a_second_backward_pass_is_refused() -> None:
    loss, _ = cross_entropy_sum(*case(torch.float32))
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="take the loss anew"):
        loss.backward()

"""Optimiser updates: accumulation, schedule, clipping, precision (T03, T08, T11 of the field's known faults)."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danlu.model.transformer import Transformer
from danlu.run.device import can_compile
from danlu.run.errors import UserError
from danlu.run.metrics import read_jsonl
from danlu.training.config import StepConfig
from danlu.training.loader import Batches, Row
from danlu.training.loop import MAX_SKIPPED, Loop
from danlu.training.optimizer import cosine_factor, make_optimizers
from danlu.training.optimizer_config import OptimizerConfig
from danlu.training.step import Forward, LossFunction, MicroBatch, accumulate_gradients, clip_and_step

MakeModel = Callable[..., Transformer]


class FixedRows:
    """So many rows of random ids, the same ones whatever they are asked for."""

    sequence_length = 12

    def __init__(self, count: int, first: int = 0) -> None:
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Row:
        stream = np.random.default_rng(int(index) + self.first).integers(0, 300, self.sequence_length + 1)
        return {"input_ids": stream[:-1], "labels": stream[1:]}


def plain_loss(model: Transformer, bf16: bool = False) -> LossFunction:
    """The loss without compiled kernels."""
    return LossFunction(model, Forward(model, compiled=False, bf16=bf16))


def make_loop(
    model: Transformer, out: Path, num_rows: int, batch_size: int, micro_batch_size: int, **changes: Any
) -> Loop:
    optimizer = OptimizerConfig()
    batches = Batches(FixedRows(num_rows), batch_size, micro_batch_size)
    config = StepConfig(
        batch_size=batch_size, micro_batch_size=micro_batch_size, learning_rate=0.01, bf16=False, compile=False
    )
    values: dict[str, Any] = dict(
        name="test",
        out=out,
        model=model,
        loss_function=plain_loss(model),
        optimizers=make_optimizers(model, optimizer),
        batches=batches,
        config=config,
        optimizer_config=optimizer,
        max_steps=batches.num_steps,
        rate_factor=lambda update: 1 / (1 + update),
    )
    return Loop(**{**values, **changes})


@pytest.mark.parametrize(("num_rows", "updates"), [(7, 2), (3, 1), (4, 1), (8, 2)])
def test_seven_rows_and_an_accumulation_of_four_are_two_updates(
    tiny_model: MakeModel, tmp_path: Path, num_rows: int, updates: int
) -> None:
    loop = make_loop(tiny_model(), tmp_path, num_rows, batch_size=4, micro_batch_size=1)
    loop.run()
    log = read_jsonl(tmp_path / "metrics.jsonl")
    assert (loop.updates, len(log)) == (updates, updates)
    assert sum(record["targets"] for record in log) == num_rows * FixedRows.sequence_length


def test_the_last_incomplete_batch_is_a_batch_of_what_remains(tiny_model: MakeModel, tmp_path: Path) -> None:
    """Nothing is carried over from the batch before: the second update equals one by hand on the last three rows."""
    model = tiny_model()
    loop = make_loop(model, tmp_path, num_rows=7, batch_size=4, micro_batch_size=1)
    seen: list[dict[str, torch.Tensor]] = []
    step = loop._update

    def spy(micro_batches: list[MicroBatch]) -> dict[str, float]:
        seen.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
        return step(micro_batches)

    loop._update = spy  # type: ignore[method-assign]
    loop.run()
    after_first = tiny_model()
    after_first.load_state_dict(seen[1])
    rows = [FixedRows(1, first=index)[0] for index in (4, 5, 6)]
    batch = MicroBatch(**{name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]})
    logits = after_first(batch.input_ids)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
    expected.backward()
    norm = math.sqrt(sum(float(parameter.grad.pow(2).sum()) for parameter in after_first.parameters()))  # type: ignore[union-attr]
    log = read_jsonl(tmp_path / "metrics.jsonl")
    assert log[1]["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert log[1]["grad_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_the_learning_rate_follows_updates_whatever_the_accumulation(
    tiny_model: MakeModel, tmp_path: Path, micro_batch_size: int
) -> None:
    loop = make_loop(
        tiny_model(), tmp_path, 40, 4, micro_batch_size, rate_factor=lambda update: cosine_factor(update, 3, 10, 0.1)
    )
    loop.run()
    rates = [record["learning_rate"] for record in read_jsonl(tmp_path / "metrics.jsonl")]
    assert rates == pytest.approx([0.01 * cosine_factor(update, 3, 10, 0.1) for update in range(10)])


def test_a_batch_that_is_no_multiple_of_the_micro_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 7 must be a multiple of micro_batch_size 2"):
        StepConfig(batch_size=7, micro_batch_size=2)
    with pytest.raises(ValueError, match="micro_batch_size must be at least 1"):
        StepConfig(batch_size=4, micro_batch_size=0)


# --- clipping ---


def parameters_with_gradient(norm: float) -> list[torch.nn.Parameter]:
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (3, 5, 8)]
    for parameter in parameters:
        parameter.grad = torch.full(parameter.shape, norm / 4)  # 16 equal elements
    return parameters


class Recorder(torch.optim.SGD):
    """Keeps the gradients that a step was given."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=1.0)
        self.given: list[torch.Tensor] = []

    def step(self, closure: Any = None) -> Any:
        self.given = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        return super().step(closure)


@pytest.mark.parametrize("as_generator", [False, True])
def test_a_gradient_of_norm_100_is_clipped_to_1_and_reported_as_100(as_generator: bool) -> None:
    parameters = parameters_with_gradient(100.0)
    recorder = Recorder(parameters)
    handed: Iterator[Any] | list[Any] = (p for p in parameters) if as_generator else parameters
    reported = clip_and_step(handed, [recorder], 1.0)
    assert reported == pytest.approx(100.0, rel=1e-6)
    assert float(torch.cat(recorder.given).norm()) == pytest.approx(1.0, abs=1e-6)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in parameters), "gradients are left"


def test_a_gradient_below_the_limit_is_left_as_it_is() -> None:
    parameters = parameters_with_gradient(0.5)
    recorder = Recorder(parameters)
    assert clip_and_step(parameters, [recorder], 1.0) == pytest.approx(0.5)
    assert float(torch.cat(recorder.given).norm()) == pytest.approx(0.5)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_moves_nothing_and_is_forgotten(broken: float) -> None:
    parameters = parameters_with_gradient(1.0)
    parameters[1].grad[0] = broken  # type: ignore[index]
    reported = clip_and_step(parameters, [torch.optim.SGD(parameters, lr=1.0)], 1.0)
    assert not math.isfinite(reported)
    assert all(not parameter.detach().any() for parameter in parameters)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in parameters)


def with_broken_steps(
    loss_function: LossFunction, broken: set[int]
) -> Callable[[MicroBatch], tuple[torch.Tensor, int]]:
    """The same loss, times NaN at the calls named."""
    calls = iter(range(10_000))

    def loss(batch: MicroBatch) -> tuple[torch.Tensor, int]:
        value, count = loss_function(batch)
        return value * (float("nan") if next(calls) in broken else 1.0), count

    return loss


def test_a_skipped_step_does_not_advance_the_schedule(tiny_model: MakeModel, tmp_path: Path) -> None:
    model = tiny_model()
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    loop = make_loop(
        model,
        tmp_path,
        6,
        1,
        1,
        loss_function=with_broken_steps(plain_loss(model), {2, 3}),
    )
    loop.run()
    log = read_jsonl(tmp_path / "metrics.jsonl")
    assert (loop.steps, loop.updates) == (6, 4)
    assert [record["learning_rate"] for record in log] == pytest.approx([0.01 / (1 + k) for k in (0, 1, 2, 2, 2, 3)])
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    assert any(not torch.equal(parameter, start[name]) for name, parameter in model.named_parameters())


def test_a_run_whose_gradients_stay_broken_ends_in_one_line(tiny_model: MakeModel, tmp_path: Path) -> None:
    model = tiny_model()
    broken = with_broken_steps(plain_loss(model), set(range(3, 100)))
    loop = make_loop(model, tmp_path, 50, 1, 1, loss_function=broken)
    with pytest.raises(UserError, match=f"not finite in {MAX_SKIPPED} steps in a row, up to step {3 + MAX_SKIPPED}"):
        loop.run()


# --- precision ---


def norms_after(model: Transformer, bf16: bool, updates: int) -> torch.Tensor:
    """All norm weights after updates with the same gradient each time, at the rate 1e-4."""
    optimizers = make_optimizers(model, OptimizerConfig())
    for group in optimizers[0].param_groups:
        group["lr"] = 1e-4
    ids = torch.arange(24).view(2, 12)
    norms = {name: parameter for name, parameter in model.named_parameters() if "norm" in name}
    with torch.no_grad():
        for parameter in norms.values():
            parameter.fill_(1.0)
    accumulate_gradients(plain_loss(model, bf16), [MicroBatch(input_ids=ids, labels=ids)])
    gradients = {name: parameter.grad.clone() for name, parameter in norms.items()}  # type: ignore[union-attr]
    for _ in range(updates):
        for name, parameter in norms.items():
            parameter.grad = gradients[name].clone()
        clip_and_step(norms.values(), optimizers, 1e9)
    return torch.cat([parameter.detach() for parameter in norms.values()])


def test_norm_weights_move_under_bfloat16_as_in_float32(tiny_model: MakeModel) -> None:
    """Two hundred updates of 1e-4 are each below bfloat16's step at 1.0; float32 masters add them up all the same."""
    wide, narrow = norms_after(tiny_model(), False, 200), norms_after(tiny_model(), True, 200)
    assert bool((narrow != 1.0).all()), "some norm weight stayed at exactly 1.0"
    assert float((wide - 1).abs().min()) > 0.015
    same_direction = (wide - 1).sign() == (narrow - 1).sign()
    assert float(same_direction.float().mean()) > 0.97, "a bfloat16 gradient may differ in sign only where it is near 0"
    torch.testing.assert_close(narrow[same_direction] - 1, wide[same_direction] - 1, rtol=0.01, atol=0)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_masters_and_optimizer_state_stay_float32_under_bfloat16(tiny_model: MakeModel, name: Any) -> None:
    model = tiny_model()
    optimizers = make_optimizers(model, OptimizerConfig(name=name))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
    ids = torch.arange(24).view(2, 12)
    accumulate_gradients(plain_loss(model, bf16=True), [MicroBatch(input_ids=ids, labels=ids)])
    clip_and_step(model.parameters(), optimizers, 1.0)
    kinds = {parameter.dtype for parameter in model.parameters()} | {
        value.dtype
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    }
    assert kinds == {torch.float32}


def test_micro_batches_draw_their_dropout_from_their_own_seeds(tiny_model: MakeModel, tmp_path: Path) -> None:
    """The same step with the same seed draws the same dropout, whatever was drawn before it."""
    losses = []
    for noise in (0, 5):
        model = tiny_model().train()
        model.set_dropout(0.3)
        torch.manual_seed(noise)
        torch.randn(noise + 1)
        loop = make_loop(model, tmp_path / str(noise), 8, 4, 1)
        loop.config = dataclasses.replace(loop.config, seed=9)
        loop.run()
        losses.append([record["loss"] for record in read_jsonl(tmp_path / str(noise) / "metrics.jsonl")])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("compiled", [False, True])
def test_activations_computed_again_give_the_same_gradients_and_are_not_kept(
    tiny_model: MakeModel, compiled: bool
) -> None:
    if compiled and not can_compile(torch.device("cpu")):
        pytest.skip("there is no C++ compiler here")
    ids = torch.randint(0, 300, (2, 64), generator=torch.Generator().manual_seed(1))
    batch = MicroBatch(input_ids=ids, labels=ids)
    losses, gradients, kept = [], [], []
    for checkpointed in (False, True):
        model = tiny_model(num_hidden_layers=4)
        loss_function = LossFunction(model, Forward(model, compiled, bf16=False, checkpointed=checkpointed))
        sizes: list[int] = []

        def pack(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss, _ = loss_function(batch)
        loss.backward()
        losses.append(float(loss))
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))  # type: ignore[union-attr]
        kept.append(sum(sizes))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5 if compiled else 0, atol=1e-6 if compiled else 0)
    assert kept[1] < kept[0] / 3

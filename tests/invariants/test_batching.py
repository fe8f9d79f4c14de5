"""How a batch is cut, padded or packed changes nothing: T01 and T04 of the field's known faults."""

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from danlu.model.transformer import Transformer
from danlu.training.loader import Batches, ConversationRows
from danlu.training.loss import IGNORE_INDEX, cross_entropy_sum
from danlu.training.step import Forward, LossFunction, MicroBatch, accumulate_gradients

MakeModel = Callable[..., Transformer]
LENGTH = 40
SPLITS = [8, 4, 2, 1]

Encoded = tuple[np.ndarray, np.ndarray]


def conversations(lengths: list[int], seed: int = 7) -> list[Encoded]:
    """Ids of these lengths; about half of them, and the last one, are learnt."""
    chance = np.random.default_rng(seed)
    result = []
    for length in lengths:
        mask = chance.random(length) < 0.5
        mask[0], mask[-1] = False, True
        result.append((chance.integers(0, 300, length), mask))
    return result


def batches_of(encoded: list[Encoded], micro_batch_size: int, packing: bool = False) -> list[MicroBatch]:
    """One optimiser step over all conversations."""
    rows = ConversationRows(encoded, LENGTH, None, 1, packing, seed=3)
    batches = Batches(rows, -(-len(rows) // micro_batch_size) * micro_batch_size, micro_batch_size)
    try:
        return next(iter(batches))
    finally:
        batches.close()


def loss_and_gradients(model: Transformer, micro_batches: list[MicroBatch]) -> tuple[float, int, dict[str, Tensor]]:
    model.zero_grad()
    loss_function = LossFunction(model, Forward(model, compiled=False, bf16=False))
    loss, num_targets = accumulate_gradients(loss_function, micro_batches)
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]
    return loss, num_targets, gradients


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> tuple[float, str]:
    return max((float((first[name] - second[name]).abs().max()), name) for name in first)


def test_the_loss_of_unequal_micro_batches_is_weighted_by_their_tokens() -> None:
    weight = torch.nn.Parameter(torch.tensor(1.0))
    sums = {2: 6.0, 10: 10.0}
    micro_batches = [
        MicroBatch(input_ids=torch.zeros(1, count, dtype=torch.long), labels=torch.zeros(1, count, dtype=torch.long))
        for count in sums
    ]
    loss, num_targets = accumulate_gradients(
        lambda batch: (weight * sums[batch.num_targets], batch.num_targets), micro_batches
    )
    assert num_targets == 12
    assert loss == pytest.approx(16 / 12), "a mean of means would be 2.0"
    assert float(weight.grad) == pytest.approx(16 / 12)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_eight_rows_give_the_same_step_however_they_are_split(
    tiny_model: MakeModel, dtype: torch.dtype, tolerance: float
) -> None:
    model = tiny_model(dtype=dtype, num_key_value_heads=2).train()
    encoded = conversations([6, 40, 13, 22, 9, 31, 17, 35])
    results = {size: loss_and_gradients(model, batches_of(encoded, size)) for size in SPLITS}
    loss, num_targets, gradients = results[8]
    assert num_targets == sum(int(mask[1:].sum()) for _, mask in encoded)
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 0.01
    for size in SPLITS[1:]:
        other_loss, other_targets, other = results[size]
        assert other_targets == num_targets
        assert abs(other_loss - loss) < tolerance * max(1.0, loss), f"loss of {8 // size}x{size}"
        difference, name = largest_difference(gradients, other)
        assert difference < tolerance, f"{8 // size}x{size}: the gradient of {name} moved by {difference:.1e}"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_packed_conversations_give_the_same_step_as_separate_ones(
    tiny_model: MakeModel, dtype: torch.dtype, tolerance: float
) -> None:
    model = tiny_model(dtype=dtype).train()
    encoded = conversations([3, 5, 8, 12, 20, 7, 9, 15])
    separate, packed = batches_of(encoded, 8), batches_of(encoded, 1, packing=True)
    assert len(packed) < len(encoded) / 2, "nothing was packed"
    loss, num_targets, gradients = loss_and_gradients(model, separate)
    packed_loss, packed_targets, packed_gradients = loss_and_gradients(model, packed)
    assert packed_targets == num_targets
    assert abs(packed_loss - loss) < tolerance * max(1.0, loss)
    difference, name = largest_difference(gradients, packed_gradients)
    assert difference < tolerance, f"packing moved the gradient of {name} by {difference:.1e}"


def packed_row(first: list[int], second: list[int]) -> MicroBatch:
    """Two documents in a row, every token but the last of each with its successor as label."""
    ids = torch.tensor([first + second])
    labels = torch.tensor([[*first[1:], IGNORE_INDEX, *second[1:], IGNORE_INDEX]])
    positions = torch.tensor([[*range(len(first)), *range(len(second))]])
    documents = torch.tensor([[1] * len(first) + [2] * len(second)])
    return MicroBatch(input_ids=ids, labels=labels, position_ids=positions, document_ids=documents)


def alone(document: list[int]) -> MicroBatch:
    return MicroBatch(input_ids=torch.tensor([document]), labels=torch.tensor([[*document[1:], IGNORE_INDEX]]))


def logits_and_loss(model: Transformer, batch: MicroBatch) -> tuple[Tensor, float]:
    hidden = model.hidden_states(batch.input_ids, batch.position_ids, batch.document_ids)
    loss, _ = cross_entropy_sum(hidden, model.lm_head.weight, batch.labels)
    return model.lm_head(hidden)[0].detach(), loss.item()


PATHS = pytest.mark.parametrize("with_gradient", [True, False], ids=["training path", "path without gradients"])
FIRST, SECOND = [11, 12, 13], [21, 22, 23, 24, 25]


@PATHS
@pytest.mark.parametrize("key_heads", [4, 2])
def test_a_packed_document_has_the_logits_it_has_alone(
    tiny_model: MakeModel, with_gradient: bool, key_heads: int
) -> None:
    model = tiny_model(num_key_value_heads=key_heads).train(with_gradient)
    with nullcontext() if with_gradient else torch.no_grad():
        packed, packed_loss = logits_and_loss(model, packed_row(FIRST, SECOND))
        first, first_loss = logits_and_loss(model, alone(FIRST))
        second, second_loss = logits_and_loss(model, alone(SECOND))
    torch.testing.assert_close(packed, torch.cat((first, second)), rtol=0, atol=1e-5)
    assert packed_loss == pytest.approx(first_loss + second_loss, rel=1e-6)


@PATHS
def test_a_token_of_the_first_document_does_not_move_the_second(tiny_model: MakeModel, with_gradient: bool) -> None:
    model = tiny_model().train(with_gradient)
    with nullcontext() if with_gradient else torch.no_grad():
        before, _ = logits_and_loss(model, packed_row(FIRST, SECOND))
        after, _ = logits_and_loss(model, packed_row([11, 99, 13], SECOND))
    assert torch.equal(after[3:], before[3:]), "the second document sees the first"
    assert torch.equal(after[:1], before[:1]), "a token sees its future"
    assert not torch.equal(after[1:3], before[1:3])


@PATHS
def test_no_token_sees_its_future(tiny_model: MakeModel, with_gradient: bool) -> None:
    model = tiny_model(num_key_value_heads=2).train(with_gradient)
    ids = torch.arange(2 * 20).view(2, 20)
    changed = ids.clone()
    changed[:, 12] = 200
    with nullcontext() if with_gradient else torch.no_grad():
        before, after = model(ids), model(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.equal(before[:, 12:], after[:, 12:])


def test_both_attention_paths_agree(tiny_model: MakeModel) -> None:
    model = tiny_model(num_key_value_heads=2)
    batch = packed_row(list(range(30, 52)), list(range(60, 75)))
    for documents, positions in ((batch.document_ids, batch.position_ids), (None, None)):
        training = model.train()(batch.input_ids, positions, documents).detach()
        with torch.no_grad():
            inference = model.eval()(batch.input_ids, positions, documents)
        torch.testing.assert_close(training, inference, rtol=0, atol=1e-5)


def test_rows_without_labels_contribute_nothing(tiny_model: MakeModel) -> None:
    model = tiny_model().train()
    micro_batches = batches_of(conversations([10, 20, 15]), 2)
    empty = MicroBatch(input_ids=torch.zeros(2, LENGTH, dtype=torch.long), labels=torch.full((2, LENGTH), IGNORE_INDEX))
    loss, num_targets, gradients = loss_and_gradients(model, micro_batches)
    other_loss, other_targets, other = loss_and_gradients(model, [empty, *micro_batches, empty])
    assert (other_loss, other_targets) == (loss, num_targets)
    assert largest_difference(gradients, other)[0] == 0.0

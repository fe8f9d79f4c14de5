"""The products of a model that answers: as exact as PyTorch's own, whichever library makes them."""

import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from danlu.inference.config import SamplingConfig
from danlu.inference.engine import generate_batch
from danlu.model.attention import attend
from danlu.model.linear import FEW_ROWS, Linear, PackedLinear, few_numbers, pack
from danlu.model.transformer import Transformer

NUM_ROWS = (0, 1, 2, 7, FEW_ROWS, FEW_ROWS + 1, 100, 515)


def made(dtype: torch.dtype, bias: bool = True) -> Linear:
    torch.manual_seed(3)
    return Linear(96, 161, bias=bias).to(dtype)


@pytest.mark.parametrize("num_rows", NUM_ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_every_way_is_as_near_to_float64_as_pytorch_s_own(dtype: torch.dtype, num_rows: int, bias: bool) -> None:
    linear = made(dtype, bias)
    hidden = torch.randn(num_rows, 96, dtype=dtype)
    exact = F.linear(hidden.double(), linear.weight.double(), linear.bias.double() if bias else None)
    ways = [linear]
    if dtype == torch.float32:
        ways.append(PackedLinear(linear))
    with torch.no_grad():
        for way in ways:
            ours = way(hidden)
            assert ours.shape == (num_rows, 161)
            assert ours.dtype == dtype
            torch.testing.assert_close(ours.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)
            # Other shapes of the same rows: also the ones that a step and a prompt have.
            assert torch.equal(way(hidden[:, None]), ours[:, None])


@pytest.mark.usefixtures("bfloat16_even_in_software")
def test_a_row_of_bfloat16_leaves_the_process_s_settings_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, row = made(torch.bfloat16), torch.randn(1, 96, dtype=torch.bfloat16)
    with torch.no_grad():
        linear(row)
        assert torch.backends.mkldnn.enabled

        def failing(*_: object) -> None:
            assert not torch.backends.mkldnn.enabled
            raise MemoryError

        monkeypatch.setattr(torch.nn.Linear, "forward", failing)
        with pytest.raises(MemoryError):
            linear(row)
        assert torch.backends.mkldnn.enabled
    monkeypatch.undo()
    torch.backends.mkldnn.enabled = False
    try:
        with torch.no_grad():
            linear(row)
        assert not torch.backends.mkldnn.enabled, "somebody else's choice"
    finally:
        torch.backends.mkldnn.enabled = True


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_have_gradients(dtype: torch.dtype) -> None:
    linear, row = made(dtype), torch.randn(1, 96, dtype=dtype)
    linear(row).sum().backward()
    assert linear.weight.grad is not None


def test_numbers_of_rows_are_few_and_not_far_apart() -> None:
    numbers = [few_numbers(number) for number in range(1, 20_001)]
    assert all(number <= few <= max(number, number * 17 / 16 + 1) for number, few in enumerate(numbers, start=1))
    assert len(set(numbers)) < FEW_ROWS + 16 * 11
    assert numbers == sorted(numbers)


def test_a_packed_model_answers_the_same_and_only_float32_is_packed(tiny_model: Callable[..., Transformer]) -> None:
    prompts = [[3, 4, 5], list(range(2, 42)), [9]]
    sampling = SamplingConfig(temperature=0, max_new_tokens=12)
    model = tiny_model(num_attention_heads=4, num_key_value_heads=2)
    ids = torch.arange(3, 63).view(1, 60)
    with torch.no_grad():
        wanted, logits = [row.output_ids for row in generate_batch(model, (), prompts, sampling)], model(ids)
        pack(model)
        assert sum(isinstance(module, PackedLinear) for module in model.modules()) == 1 + 4 * len(model.layers)
        torch.testing.assert_close(model(ids), logits, rtol=1e-5, atol=1e-4)
    assert [row.output_ids for row in generate_batch(model, (), prompts, sampling)] == wanted
    narrow = tiny_model().bfloat16()
    pack(narrow)
    assert not any(isinstance(module, PackedLinear) for module in narrow.modules())


def test_packing_lets_each_matrix_go_before_the_next(tiny_model: Callable[..., Transformer]) -> None:
    model = tiny_model()
    matrices = [weakref.ref(module.weight) for module in model.modules() if isinstance(module, Linear)]
    alive: list[int] = []
    made = PackedLinear.__init__

    def counting(packed: PackedLinear, linear: Linear) -> None:
        alive.append(sum(matrix() is not None for matrix in matrices))
        made(packed, linear)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedLinear, "__init__", counting)
        pack(model)
    assert alive == list(range(len(matrices), 0, -1))


def test_one_query_of_heads_that_share_keys_is_as_pytorch_has_it() -> None:
    generator = torch.Generator().manual_seed(5)
    query, key, value = (torch.randn(3, heads, n, 16, generator=generator) for heads, n in ((6, 1), (2, 9), (2, 9)))
    mask = torch.rand(3, 1, 1, 9, generator=generator) > 0.3
    mask[..., 0] = True
    wanted = F.scaled_dot_product_attention(query, key.repeat_interleave(3, 1), value.repeat_interleave(3, 1), mask)
    torch.testing.assert_close(attend(query, key, value, mask), wanted, rtol=1e-5, atol=1e-6)

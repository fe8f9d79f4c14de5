"""Angles and scales of extended positions, against closed forms and float64."""

import math

import pytest
import torch

from danlu.model.extension import ContextExtension
from danlu.model.rotary import apply_rotary, inverse_frequencies, logn_scale, rotary_tables

PLAIN = ContextExtension()


@pytest.mark.parametrize(
    ("length", "alpha"),
    [(1, 1), (2047, 1), (2048, 1), (2049, 3), (4096, 3), (4097, 7), (8192, 7), (8193, 15), (16384, 15), (32768, 31)],
)
def test_dynamic_alpha_is_the_recipes(length: int, alpha: float) -> None:
    assert ContextExtension(dynamic_ntk=True).alpha(length, 2048) == alpha
    assert alpha == max(1, 2 ** math.ceil(math.log2(length / 2048) + 1) - 1)
    assert ContextExtension(ntk_alpha=5.0).alpha(length, 2048) == 5.0
    assert PLAIN.alpha(length, 2048) == 1.0


def test_ntk_stretches_the_slowest_frequency_by_alpha_and_leaves_the_fastest() -> None:
    """alpha^(d/(d-2)) is chosen so (recipe section 4)."""
    plain, stretched = (inverse_frequencies(128, 10_000.0, PLAIN, alpha, 2048) for alpha in (1.0, 8.0))
    assert float(stretched[0]) == float(plain[0]) == 1
    assert float(plain[-1] / stretched[-1]) == pytest.approx(8)


def test_interpolation_divides_positions() -> None:
    plain = rotary_tables(inverse_frequencies(64, 10_000.0, PLAIN, 1.0, 16), 16)
    divided = ContextExtension(interpolation=4.0)
    stretched = rotary_tables(inverse_frequencies(64, 10_000.0, divided, 1.0, 16), 64)
    for table, other in zip(plain, stretched, strict=True):
        assert torch.allclose(other[::4], table, atol=1e-7)


def test_queries_grow_with_the_logarithm_past_the_training_length() -> None:
    scale = logn_scale(64, 16)[:, 0]
    assert bool((scale[:16] == 1).all())
    assert float(scale[63]) == pytest.approx(math.log(64) / math.log(16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tables_are_float32_whatever_the_model_is(dtype: torch.dtype) -> None:
    """At position 32,768, against float64: only the heads' own rounding is left."""
    position = 32_768
    cos, sin = rotary_tables(inverse_frequencies(128, 10_000.0, PLAIN, 1.0, 2048), position + 1)
    heads = torch.randn(1, 2, 1, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    turned = apply_rotary(heads, cos[None, None, -1:], sin[None, None, -1:])
    frequencies = 10_000.0 ** -(torch.arange(0, 128, 2, dtype=torch.float64) / 128)
    angles = torch.cat([position * frequencies] * 2)
    first, second = heads.double().chunk(2, -1)
    exact = heads.double() * angles.cos() + torch.cat((-second, first), -1) * angles.sin()
    assert turned.dtype == dtype
    rounding = torch.finfo(dtype).eps * float(exact.abs().max())
    assert float((turned.double() - exact).abs().max()) <= max(rounding, 1e-6)


@pytest.mark.parametrize(
    "values",
    [
        {"ntk_alpha": 0.5},
        {"ntk_alpha": float("nan")},
        {"interpolation": 0.0},
        {"yarn_factor": float("inf")},
        {"dynamic_ntk": True, "ntk_alpha": 2.0},
        {"yarn_beta_fast": 1.0, "yarn_beta_slow": 2.0},
        {"training_length": -1},
        {"yarn_attention_factor": -1.0},
    ],
)
def test_impossible_values_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        ContextExtension(**values)  # type: ignore[arg-type]

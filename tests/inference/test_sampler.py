"""The sampler at its edges (known fault S08): what is kept, how often it is drawn, and when it refuses."""

import pytest
import torch
from torch import Tensor

from danlu.inference.sampling import are_finite, nucleus, sample, token_probabilities
from danlu.run.errors import UserError

PROBABILITIES = [0.45, 0.30, 0.20, 0.05]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
DRAWS = 20_000
CHI_SQUARE_0_001 = {1: 10.83, 2: 13.82, 3: 16.27}
"""What a right sampler exceeds once in a thousand runs, by degrees of freedom (tables of the distribution)."""


def logits(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([PROBABILITIES]).log().to(dtype)  # (1, V)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("top_p", "top_k", "kept"),
    [
        (0.7, 0, 2),
        (1e-8, 0, 1),
        (0.0, 0, 1),
        (1.0, 0, 4),
        (0.8, 0, 3),
        (1.0, 1, 1),
        (1.0, 3, 3),
        (1.0, 99, 4),
        (0.7, 1, 1),
    ],
)
def test_the_smallest_set_that_reaches_top_p_is_kept(dtype: torch.dtype, top_p: float, top_k: int, kept: int) -> None:
    probabilities = token_probabilities(logits(dtype), 1.0, top_p, top_k)[0]
    expected = torch.tensor(PROBABILITIES[:kept] + [0.0] * (4 - kept)) / sum(PROBABILITIES[:kept])
    torch.testing.assert_close(probabilities, expected, atol=1e-6 if dtype == torch.float32 else 5e-3, rtol=0)
    assert probabilities.dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1e-6, 1.0), (1e-30, 1.0), (1.0, 1e-8), (1.0, 0.0)])
def test_tiny_values_keep_the_best_token(dtype: torch.dtype, temperature: float, top_p: float) -> None:
    wide = torch.tensor([[-3e4, 6e4, 5.9e4, 0.0]], dtype=dtype)
    for row in (logits(dtype).flip(-1), wide):
        best = int(row.argmax())
        assert sample(row, temperature, top_p, 0, [seeded(0)]).tolist() == [best]
        assert torch.isfinite(token_probabilities(row, temperature, top_p, 0)).all()


def test_ties_are_shared_by_temperature_and_broken_by_the_first_id_otherwise() -> None:
    tied = torch.tensor([[1.0, 2.0, 2.0, 0.0]])
    assert token_probabilities(tied, 1e-6, 1.0, 0).tolist() == [[0.0, 0.5, 0.5, 0.0]]
    assert token_probabilities(tied, 1.0, 0.0, 0).tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert token_probabilities(tied, 1.0, 1.0, 1).tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert sample(tied, 0.0, 1.0, 0, [seeded(0)]).tolist() == [1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (1.0, 0.7, 0), (0.5, 0.99, 0), (2.0, 1.0, 3)]
)
def test_frequencies_match_the_renormalised_probabilities(
    dtype: torch.dtype, temperature: float, top_p: float, top_k: int
) -> None:
    generator = seeded(1)
    drawn = sample(logits(dtype).expand(DRAWS, 4), temperature, top_p, top_k, [generator] * DRAWS)
    counts = drawn.bincount(minlength=4).double()
    powered = logits(dtype)[0].double().exp() ** (1 / temperature)
    full = powered / powered.sum()
    kept = (full.cumsum(0) - full < top_p) & (torch.arange(4) < (top_k or 4))
    expected = DRAWS * full[kept] / full[kept].sum()
    assert counts[~kept].sum() == 0, "a token outside the nucleus was drawn"
    statistic = float(((counts[kept] - expected) ** 2 / expected).sum())
    assert statistic < CHI_SQUARE_0_001[int(kept.sum()) - 1], f"drawn {counts.tolist()}, expected {expected.tolist()}"


def test_the_same_seed_draws_the_same_whatever_else_is_in_the_batch() -> None:
    others = torch.randn(5, 4, generator=seeded(9))
    for seed in range(50):
        alone = sample(logits(), 1.0, 0.95, 0, [seeded(seed)])
        batch = torch.cat((others[:2], logits(), others[2:]))
        generators = [seeded(100), seeded(101), seeded(seed), seeded(102), seeded(103), seeded(104)]
        assert sample(batch, 1.0, 0.95, 0, generators)[2] == alone[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_refused(bad: float, temperature: float) -> None:
    row = torch.tensor([[0.0, bad, 1.0]])
    with pytest.raises(UserError, match="not finite"):
        sample(row, temperature, 1.0, 0, [seeded(0)])


def test_rows_that_are_not_finite_are_told_apart() -> None:
    large = torch.full((4, 8), 3e38)
    large[1, 3], large[2, 0] = float("nan"), float("-inf")
    assert are_finite(large).tolist() == [True, False, False, True], "a sum that overflows is no number that does"
    assert are_finite(large[:1].bfloat16()).tolist() == [True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_greedy_token_is_the_first_of_equal_ones(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0], [5.0, 5.0, 5.0, 5.0]], dtype=dtype)
    found = nucleus(logits, 0.0, 1.0, 1)
    assert (found.ids.tolist(), found.probabilities.tolist()) == ([[1], [0]], [[1.0], [1.0]])

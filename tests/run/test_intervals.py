"""The interval of a mean holds the truth as often as it says, also where values come in parts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from danlu.run import intervals
from danlu.run.intervals import mean_with_interval

DATA_SETS = 200
DEVIATION = (0.95 * 0.05 / DATA_SETS) ** 0.5
"""Of the share of data sets whose interval holds the truth, were it right."""


def coverage(draw: Callable[[np.random.Generator], tuple[Any, Any]], truth: float, num_values: int) -> float:
    """Share of data sets, each `num_values` values and their parts, whose interval holds the truth."""
    held = 0
    for number in range(DATA_SETS):
        values, parts = draw(np.random.default_rng(number))
        assert len(values) == num_values
        found = mean_with_interval(values, parts)
        held += found["low"] <= truth <= found["high"]
    return held / DATA_SETS


@pytest.mark.parametrize("truth", [0.5, 0.8])
def test_the_interval_of_a_share_holds_the_truth_in_95_of_100_data_sets(truth: float) -> None:
    share = coverage(lambda generator: ((generator.random(80) < truth).tolist(), None), truth, 80)
    # The percentile interval of a share is known to be a little narrow.
    assert 0.92 - 3 * DEVIATION < share < 0.95 + 3 * DEVIATION, f"the truth was held in {share:.1%} of the data sets"


def asked_four_times(generator: np.random.Generator) -> tuple[list[bool], list[int]]:
    """50 prompts, each answered four times alike: 200 values, but only 50 that are independent."""
    return np.repeat(generator.random(50) < 0.7, 4).tolist(), np.repeat(np.arange(50), 4).tolist()


def test_values_that_belong_together_are_drawn_together() -> None:
    share = coverage(asked_four_times, 0.7, 200)
    assert 0.92 - 3 * DEVIATION < share < 0.95 + 3 * DEVIATION, f"the truth was held in {share:.1%} of the data sets"
    without = coverage(lambda generator: (asked_four_times(generator)[0], None), 0.7, 200)
    assert without < 0.8, "without parts the interval is too narrow, or this test would notice nothing"


def test_the_interval_of_a_normal_mean_is_that_of_its_deviation() -> None:
    values = np.random.default_rng(5).normal(3.0, 2.0, 2000)
    found = mean_with_interval(values.tolist())
    half = 1.96 * values.std() / 2000**0.5
    assert found["value"] == pytest.approx(values.mean())
    assert found["low"] == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found["high"] == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_parts_may_have_different_sizes_and_any_names() -> None:
    values, parts = [1.0, 1.0, 1.0, 0.0], [("a", 1), ("a", 1), ("a", 1), "b"]
    found = mean_with_interval(values, parts)
    assert found == {"value": 0.75, "low": 0.0, "high": 1.0}, "every draw has `a` alone, `b` alone, or one of each"
    again = mean_with_interval([0.0, 1.0, 1.0, 1.0], [7, 8, 8, 8])
    assert again == found, "neither names nor order matter here"


def test_parts_of_one_value_each_are_as_none() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert mean_with_interval(values, range(5)) == mean_with_interval(values)


@pytest.mark.parametrize("values", [[0.25], [0.25] * 30])
def test_what_never_differs_has_no_width(values: list[float]) -> None:
    assert mean_with_interval(values) == {"value": 0.25, "low": 0.25, "high": 0.25}
    assert mean_with_interval([0.25, 0.25], ["a", "a"]) == {"value": 0.25, "low": 0.25, "high": 0.25}


def test_the_seed_decides_the_draws() -> None:
    values = np.random.default_rng(6).random(50).tolist()
    first, again, other = (mean_with_interval(values, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["value"] == other["value"]
    assert first != other
    width = first["high"] - first["low"]
    assert abs(first["low"] - other["low"]) < 0.1 * width
    assert abs(first["high"] - other["high"]) < 0.1 * width


@pytest.mark.parametrize("block", [1, 70, 150, 3 * 50, 1 << 16])
def test_how_many_numbers_are_drawn_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Also that all resamples are drawn where they do not fill a block."""
    values = np.random.default_rng(7).random(50).tolist()
    whole = mean_with_interval(values)
    monkeypatch.setattr(intervals, "BLOCK", block)
    assert mean_with_interval(values) == whole


def test_no_value_has_no_mean() -> None:
    for parts in (None, []):
        with pytest.raises(ValueError, match="no values to take a mean of"):
            mean_with_interval([], parts)


def test_a_value_without_a_part_is_refused() -> None:
    with pytest.raises(ValueError, match="length"):
        mean_with_interval([0.0, 1.0, 1.0], ["a", "b"])

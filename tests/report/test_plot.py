"""Where lines, ticks and labels stand."""

import math
from itertools import pairwise

import pytest

from danlu.report.formatting import count, decimal, duration, interval, memory, percent, short_count, size
from danlu.report.plot import LEAST_GAP, Series, line_plot, nice_ticks, points_of, smoothed, thinned


def test_a_line_fills_the_width_and_stays_inside_the_height() -> None:
    plot = line_plot([Series(points=[(1, 2.0), (5, 4.0), (9, 3.0)], name="a")])
    assert plot is not None
    numbers = [tuple(map(float, place.split())) for place in plot.paths[0]["d"][1:].split("L")]
    assert [x for x, _ in numbers] == [0, 50, 100]
    assert all(0 < y < 100 for _, y in numbers)
    assert numbers[1][1] < numbers[2][1] < numbers[0][1], "higher values stand nearer to the top"


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)]])
def test_nothing_to_draw_is_no_plot(points: list) -> None:
    assert line_plot([Series(points=points)]) is None


def test_a_flat_line_and_a_guide_far_away_can_be_drawn() -> None:
    assert line_plot([Series(points=[(1, 0.0), (2, 0.0)])]) is not None
    plot = line_plot([Series(points=[(1, 1.0), (2, 1.0)])], guides=[(5.0, "far"), (None, "missing")])
    assert plot is not None
    assert [guide["name"] for guide in plot.guides] == ["far"]
    assert 0 < plot.guides[0]["top"] < 100


def test_labels_at_the_right_edge_do_not_overlap() -> None:
    plot = line_plot([Series(points=[(0, 0.0), (1, 1.0 + index / 1000)], name=str(index)) for index in range(4)])
    assert plot is not None
    tops = [item["top"] for item in plot.labels]
    assert all(after - before >= LEAST_GAP - 0.02 for before, after in pairwise(tops)), tops


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1.9, 2.3), (0, 0.002), (1, 1400), (-3, 12345)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


def test_steps_without_a_finite_value_are_left_out() -> None:
    records = [{"step": 1, "loss": 2.0}, {"step": 2}, {"step": 3, "loss": math.nan}, {"step": 4, "loss": 1}]
    assert points_of(records, "loss") == [(1.0, 2.0), (4.0, 1.0)]


def test_a_long_run_is_thinned_without_changing_its_mean() -> None:
    points = [(float(x), float(x % 7)) for x in range(3000)]
    thin = thinned(points, 300)
    assert len(thin) == 300
    assert sum(y for _, y in thin) / 300 == pytest.approx(sum(y for _, y in points) / 3000)
    assert len(smoothed(points)) == 3000


def test_numbers_read_well_and_missing_ones_are_a_dash() -> None:
    assert [count(12345), short_count(4919232), decimal(2.05)] == ["12,345", "4.92M", "2.050"]
    assert [decimal(-0.001, 2), decimal(-1.5, 2), decimal(3, 1)] == ["0.00", "-1.50", "3.0"]
    assert interval({"value": 0.5, "low": 0.456, "high": 0.6}) == "45.6–60.0"
    assert interval({"value": 0.5}) == interval(None) == ""
    assert [percent(0.905, 1), percent(1)] == ["90.5%", "100%"]
    assert [size(17_600_000), memory(595.1), memory(2100)] == ["17.6 MB", "595 MB", "2.1 GB"]
    assert [duration(5.1), duration(59.99)] == ["5.1 s", "1 min 00 s"]
    assert [duration(845), duration(7380)] == ["14 min 05 s", "2 h 03 min"]
    for form in (count, short_count, decimal, percent, size, memory, duration):
        assert form(None) == form(math.nan) == form("x") == "–"


def test_the_shaded_part_ends_where_it_should_and_inside_the_plot() -> None:
    line = [Series(points=[(1, 1.0), (11, 2.0)])]
    drawn = [line_plot(line, shade_until=until) for until in (None, 0, 1, 6, 11, 500)]
    assert [plot.shaded for plot in drawn if plot] == [0, 0, 0, 50, 100, 100]

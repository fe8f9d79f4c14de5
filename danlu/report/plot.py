"""Line plots as numbers: where each path, tick and label stands, in percent of the plot's width and height.

In: series of points. Out: a `Plot` that `templates/macros.html.j2` draws: paths in one stretched SVG, all text in HTML,
so that letters keep their size on a phone and Chinese needs no embedded font.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from danlu.report.formatting import is_number

Point = tuple[float, float]

MOST_POINTS = 300
"""Points of a path, means of equal stretches beyond that. Our choice: a path stays under 5 kB and looks the same."""

LEAST_GAP = 7.5
"""Percent of the height between two labels at the right edge: a line of text in a plot 240 pixels high."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: `style` is its CSS class (a colour), `name` its label at the right end, none when empty."""

    points: Sequence[Point]
    style: str = "all"
    name: str = ""
    faint: bool = False
    dots: bool = False


@dataclass(kw_only=True)
class Plot:
    """Everything positioned in percent; `top` counts downwards."""

    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    paths: list[dict[str, Any]] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)
    guides: list[dict[str, Any]] = field(default_factory=list)
    shaded: float = 0.0
    """Width of the shaded part at the left."""


def points_of(records: Sequence[dict[str, Any]], key: str, every: str = "step") -> list[Point]:
    """`(step, value)` of the records that hold a finite value under `key`."""
    return [
        (float(record[every]), float(record[key]))
        for record in records
        if is_number(record.get(every)) and is_number(record.get(key))
    ]


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points, each the mean of a stretch; all of them when there are few."""
    if len(points) <= most:
        return list(points)
    edges = [round(index * len(points) / most) for index in range(most + 1)]
    return [_mean(points[start:end]) for start, end in pairwise(edges)]


def _mean(points: Sequence[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def smoothed(points: Sequence[Point], share: float = 0.03) -> list[Point]:
    """A running mean over `share` of the points: narrow at the steep beginning, looking back alone at the end."""
    half, result = max(int(len(points) * share / 2), 1), []
    for index, (x, _) in enumerate(points):
        reach = min(half, index)
        window = points[index - reach : index + reach + 1]
        result.append((x, sum(y for _, y in window) / len(window)))
    return result


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5, 5 times a power of ten) inside `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float) -> str:
    """A tick's label: 0.002, 2.5, 1,400, 10k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k" if abs(value) < 1e6 else f"{value / 1e6:g}M"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def line_plot(
    series: Sequence[Series],
    guides: Sequence[tuple[float | None, str]] = (),
    from_zero: bool = False,
    shade_until: float | None = None,
) -> Plot | None:
    """The plot of `series`, with horizontal `guides` (value, label), shaded from the left edge to `shade_until`; None
    when there is nothing to draw."""
    drawn = [line for line in series if line.points]
    if not any(len(line.points) > 1 for line in drawn):
        return None
    levels = [(float(value), name) for value, name in guides if value is not None and is_number(value)]
    left, right = _range([x for line in drawn for x, _ in line.points], margin=0.0)
    bottom, top = _range([y for line in drawn for _, y in line.points] + [y for y, _ in levels], margin=0.06)
    bottom = 0.0 if from_zero else bottom

    def across(x: float) -> float:
        return round(100 * (x - left) / (right - left), 2)

    def down(y: float) -> float:
        return round(100 * (top - y) / (top - bottom), 2)

    plot = Plot(
        x_ticks=[(across(x), tick_text(x)) for x in nice_ticks(left, right, 4)],
        y_ticks=[(down(y), tick_text(y)) for y in nice_ticks(bottom, top, 4)],
        guides=[{"top": down(y), "name": name, "value": y} for y, name in levels],
        shaded=min(max(across(shade_until), 0.0), 100.0) if shade_until else 0.0,
    )
    for line in drawn:
        places = [(across(x), down(y)) for x, y in thinned(line.points)]
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
        dots = "".join(f"M{x:g} {y:g}h0" for x, y in places) if line.dots else ""
        plot.paths.append({"d": path, "dots": dots, "style": line.style, "faint": line.faint})
        if line.name:
            last = line.points[-1][1]
            plot.labels.append({"top": down(last), "name": line.name, "value": last, "style": line.style})
    _spread(plot.labels)
    return plot


def _range(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * margin or (0.0 if high > low else abs(high) * 0.1 or 1.0)
    return low - room, high + room


def _spread(labels: list[dict[str, Any]]) -> None:
    """Move labels apart where they would overlap: downwards, then back up from the bottom."""
    labels.sort(key=lambda item: item["top"])
    for before, after in pairwise(labels):
        after["top"] = max(after["top"], before["top"] + LEAST_GAP)
    limit = 100.0
    for item in reversed(labels):
        item["top"] = round(min(item["top"], limit), 2)
        limit = item["top"] - LEAST_GAP

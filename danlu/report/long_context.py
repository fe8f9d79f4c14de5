"""The page of a long-context measurement: perplexity by length, and where pass keys are found.

In: the folder of `danlu evaluate --long-context`. Out: `long_context.html` in it, one file that needs nothing else.
"""

import json
import math
from pathlib import Path
from typing import Any

from danlu.evaluation.long_context import DEPTHS, shown
from danlu.report.page import environment
from danlu.report.plot import Plot, Series, line_plot
from danlu.run.files import publish

Figures = dict[str, Any]

STYLES = ("all", "en", "zh", "code", "before", "after", "aligned")
"""Colours of lines, in turn; a line's own label at its end tells those apart that share one."""


def write_long_context(folder: Path) -> Path:
    """Draw the page from `figures.json`; its path."""
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    page = environment().get_template("long_context.html.j2").render(context(figures))
    path = folder / "long_context.html"
    with publish(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return path


def context(figures: Figures) -> Figures:
    """Everything the page shows."""
    lengths = figures["lengths"]
    return {
        "figures": figures,
        "lengths": lengths,
        "depths": DEPTHS,
        "plot": perplexity_plot(figures),
        "perplexity": [
            (shown(name), [by_length[str(length)] for length in lengths])
            for name, by_length in figures["perplexity"].items()
        ],
        "maps": [
            (shown(name), [(depth, [by_length[str(length)][row] for length in lengths])
                           for row, depth in enumerate(DEPTHS)])
            for name, by_length in figures.get("passkeys", {}).items()
        ],
    }  # fmt: skip


def perplexity_plot(figures: Figures) -> Plot | None:
    """The logarithm of perplexity over that of length, a line for each technique."""
    lengths = figures["lengths"]
    series = [
        Series(
            points=[(math.log2(length), math.log10(by_length[str(length)])) for length in lengths],
            style=STYLES[place % len(STYLES)],
            name=shown(name),
            dots=True,
        )
        for place, (name, by_length) in enumerate(figures["perplexity"].items())
    ]
    plot = line_plot(series)
    if plot is not None:
        span = math.log2(lengths[-1]) - math.log2(lengths[0])
        plot.x_ticks = [(100 * (math.log2(length) - math.log2(lengths[0])) / span, str(length)) for length in lengths]
    return plot

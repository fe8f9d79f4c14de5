"""Live progress with an estimate of the time left: a bar on a terminal, a line every few seconds elsewhere."""

import sys
import time
from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 10.0
"""How often a line is printed where there is no terminal. Our choice: a 15-minute run logs under 100 lines."""


class ProgressBar:
    """Counts towards `total`; use it as a context manager.

    with ProgressBar("pretrain", total=steps, unit="steps") as bar:
        bar.advance(1, loss=2.31)
    """

    def __init__(self, name: str, total: int | None, unit: str, done: int = 0) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = self.first = done
        self.started = self.last_line = time.monotonic()
        self.bar: Progress | None = None
        if sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("{task.description:<14}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                transient=False,
            )
            from rich.console import Console

            self.bar.live.console = Console(stderr=True)
            self.task = self.bar.add_task(name, total=total, completed=done, figures="")

    def __enter__(self) -> "ProgressBar":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        elif kind is None:
            self._line("")

    def advance(self, count: int = 1, **figures: float | str) -> None:
        """`count` more units are done; `figures` are shown beside the bar."""
        self.done += count
        text = "  ".join(f"{key} {_short(value)}" for key, value in figures.items())
        if self.bar:
            self.bar.update(self.task, completed=self.done, figures=text)
        elif time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self._line(text)

    def _line(self, text: str) -> None:
        self.last_line = time.monotonic()
        elapsed = self.last_line - self.started
        count = f"{self.done}/{self.total}" if self.total else str(self.done)
        left = ""
        if self.total and self.done > self.first:
            left = f", {elapsed * (self.total - self.done) / (self.done - self.first):.0f} s left"
        print(
            f"{self.name}: {count} {self.unit}, {elapsed:.0f} s{left}  {text}".rstrip(),
            file=sys.stderr,
            flush=True,
        )


def _short(value: float | str) -> str:
    """Four digits of a fraction, all of a large number."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"

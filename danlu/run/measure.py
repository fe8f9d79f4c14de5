"""Time and peak memory of a stage, children included (compilers, extractors)."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from danlu.run.files import write_json

SECONDS_BETWEEN_SAMPLES = 0.5
"""Our choice: short enough to see a stage's peak, and far below one percent of a core."""


def _resident_mb(process: psutil.Process) -> float:
    """Memory of a process and its children in MB (1e6 bytes); shared memory is counted once each (an upper bound)."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


@contextmanager
def measured(saved: Path) -> Iterator[Callable[[], dict[str, float]]]:
    """Measure the block; the yielded function gives `seconds` and `peak_memory_mb` so far.

    Both are kept in the file `saved` while the block runs, so that an interrupted and resumed stage counts all of it.
    """
    before = json.loads(saved.read_text()) if saved.exists() else {"seconds": 0.0, "peak_memory_mb": 0.0}
    started, process, peak = time.monotonic(), psutil.Process(), [before["peak_memory_mb"]]
    ended = threading.Event()

    def usage() -> dict[str, float]:
        return {
            "seconds": round(before["seconds"] + time.monotonic() - started, 2),
            "peak_memory_mb": round(peak[0], 1),
        }

    def save() -> None:
        # A full disk must not end the measuring with a traceback; the stage itself will report it.
        with suppress(OSError):
            write_json(saved, usage())

    def watch() -> None:
        written = time.monotonic()
        while not ended.wait(SECONDS_BETWEEN_SAMPLES):
            peak[0] = max(peak[0], _resident_mb(process))
            if time.monotonic() - written > 5 and saved.parent.exists():
                save()
                written = time.monotonic()

    peak[0] = max(peak[0], _resident_mb(process))
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield usage
    finally:
        ended.set()
        watcher.join()
        save()

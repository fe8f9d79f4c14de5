"""The references of HumanEval and MBPP through the code sandbox: all must pass, and a busy machine changes no verdict.

    python benchmarks/sandbox.py --data FOLDER                # two workers
    python benchmarks/sandbox.py --data FOLDER --workers 1 2 8 --busy-loops 2 --json FILE

`FOLDER` holds `HumanEval.jsonl.gz` and `mbpp/mbpp.jsonl.gz` as published. Printed as JSON: for each number of workers
and each set the problems that passed, those that did not with the reason, those repeated after a time-out, and the
seconds; the problems of MBPP whose tests need the program's own classes, by number; and whether the verdicts agree.
"""

import contextlib
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from side_by_side import report, settings_of

from danlu.evaluation.code_verdict import problems_with_own_classes
from danlu.evaluation.judge_many import judge_all
from danlu.run.progress import ProgressBar

SETS = {
    "humaneval": ("HumanEval.jsonl.gz", "canonical_solution"),
    "mbpp": ("mbpp/mbpp.jsonl.gz", "code"),
}
"""File, and the field that holds the reference."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What to measure."""

    data: Path
    """Folder with the two sets."""

    workers: tuple[int, ...] = (2,)
    """Verdicts at once; each number is a pass over both sets."""

    busy_loops: int = 0
    """Programs that keep a core busy meanwhile."""

    json: Path | None = None
    """File for the figures, beside standard output."""


@contextlib.contextmanager
def busy(num_loops: int) -> Iterator[None]:
    """So many programs that do nothing, as fast as they can."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_loops)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def judge_references(name: str, problems: list[dict[str, Any]], workers: int) -> dict[str, Any]:
    """The figures of one pass over one set."""
    started = time.perf_counter()
    with ProgressBar(f"{name}, {workers} at once", total=len(problems), unit="problems") as bar:
        verdicts = judge_all(
            [(problem, problem[SETS[name][1]]) for problem in problems],
            workers=workers,
            on_verdict=lambda place, verdict: bar.advance(),
        )
    ids = [problem["task_id"] for problem in problems]
    judged = list(zip(ids, verdicts, strict=True))
    return {
        "workers": workers,
        "set": name,
        "problems": len(problems),
        "passed": sum(verdict.status == "passed" for verdict in verdicts),
        "not_passed": {key: f"{v.status}: {v.reason}" for key, v in judged if v.status != "passed"},
        "repeated": [key for key, verdict in judged if verdict.repeated],
        "seconds": round(time.perf_counter() - started, 1),
    }


def main(config: Benchmark) -> None:
    """Print the figures; exit status 1 where a reference did not pass."""
    sets = {}
    for name, (file, _) in SETS.items():
        with gzip.open(config.data / file, "rt", encoding="utf-8") as lines:
            sets[name] = [json.loads(line) for line in lines]
    with busy(config.busy_loops):
        passes = [judge_references(name, sets[name], workers) for workers in config.workers for name in sets]
    verdicts = {name: [p["not_passed"] for p in passes if p["set"] == name] for name in sets}
    figures = {
        "settings": {**settings_of(config), "cores": os.cpu_count()},
        "passes": passes,
        "own_classes": problems_with_own_classes(sets["mbpp"]),
        "verdicts_agree": all(found == own[0] for own in verdicts.values() for found in own),
    }
    report(figures, config.json)
    if any(p["not_passed"] for p in passes):
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

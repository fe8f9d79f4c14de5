"""All references pass and no reply of a made-up kind does; neither load nor an interrupt changes what comes out.

The problems of HumanEval and MBPP lie beside the repository where they are there at all.
"""

import contextlib
import functools
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from danlu.evaluation.code_reply import entry_point
from danlu.evaluation.code_verdict import CodeVerdict, judge_code, needs_own_classes
from danlu.evaluation.judge_many import judge_all
from danlu.evaluation.sandbox import why_no_sandbox

needs_sandbox = pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox())

Problem = dict[str, Any]
DATA = Path(__file__).parents[2].parent / "shared" / "data" / "eval"


@functools.cache
def problems_of(name: str) -> list[Problem]:
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not there")
    with gzip.open(DATA / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def humaneval(step: int) -> list[Problem]:
    """Every `step`-th problem."""
    return problems_of("HumanEval.jsonl.gz")[::step]


def mbpp(step: int) -> list[Problem]:
    """Every `step`-th problem, and those whose tests need the program's own classes."""
    every = problems_of("mbpp/mbpp.jsonl.gz")
    return [problem for place, problem in enumerate(every) if place % step == 0 or needs_own_classes(problem)]


def reference(problem: Problem) -> str:
    return problem["code"] if "code" in problem else f"{problem['prompt']}{problem['canonical_solution']}"


def instead(problem: Problem, code: str) -> str:
    """The reference, and behind it `code`, that puts something else in the place of the function `NAME`."""
    return f"{reference(problem)}\n{code.replace('NAME', entry_point(problem))}\n"


EQUAL = (
    "class Equal{base}:\n    def __eq__(self, other): return True\n    __hash__ = None\ndef NAME(*a): return {value}"
)
OFF_BY_ONE = """
def off(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float | complex):
        return value + 1
    if isinstance(value, dict):
        return {**value, "one": "more"}
    if isinstance(value, set):
        return value | {"one more"}
    if value is None:
        return 1
    return value[:-1] if len(value) else value + type(value)("1")
right_one = NAME
def NAME(*positional, **named):
    return off(right_one(*positional, **named))
"""
WRONG = {
    "equal to all": EQUAL.format(base="", value="Equal()"),
    "equal to all, in a list": EQUAL.format(base="", value="[Equal()]"),
    "an int that is equal to all": EQUAL.format(base="(int)", value="Equal(1)"),
    "a str that is equal to all": EQUAL.format(base="(str)", value="Equal('a')"),
    "None": "def NAME(*a): return None",
    "off by one": OFF_BY_ONE,
}


def passed(problems: list[Problem], reply: Callable[[Problem], str]) -> list[Any]:
    """The problems that `reply` solves."""
    verdicts = judge_all((problem, reply(problem)) for problem in problems)
    return [
        problem["task_id"] for problem, verdict in zip(problems, verdicts, strict=True) if verdict.status == "passed"
    ]


@needs_sandbox
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("step", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_no_wrong_reply_to_humaneval_passes(step: int, wrong: str) -> None:
    assert passed(humaneval(step), lambda problem: instead(problem, WRONG[wrong])) == []


@needs_sandbox
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("step", [974, pytest.param(8, marks=pytest.mark.slow)])
def test_no_wrong_reply_to_mbpp_passes(step: int, wrong: str) -> None:
    assert passed(mbpp(step), lambda problem: instead(problem, WRONG[wrong])) == []


@needs_sandbox
@pytest.mark.parametrize("steps", [(16, 80), pytest.param((1, 1), marks=pytest.mark.slow)])
def test_every_reference_passes(steps: tuple[int, int]) -> None:
    problems = humaneval(steps[0]) + mbpp(steps[1])
    assert passed(problems, reference) == [problem["task_id"] for problem in problems]


@contextlib.contextmanager
def busy_loops(number: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@needs_sandbox
@pytest.mark.parametrize("steps", [(55, 487), pytest.param((1, 8), marks=pytest.mark.slow)])
def test_a_busy_machine_changes_no_verdict(steps: tuple[int, int]) -> None:
    problems = humaneval(steps[0]) + mbpp(steps[1])
    pairs = [(problem, reference(problem)) for problem in problems]
    pairs += [(problem, instead(problem, WRONG["None"])) for problem in problems[:3]]
    with busy_loops(2):
        found = [[(v.status, v.reason) for v in judge_all(pairs, workers=workers)] for workers in (1, 2, 8)]
    assert found[0][: len(problems)] == [("passed", "")] * len(problems)
    assert {status for status, _ in found[0][len(problems) :]} == {"failed"}
    assert found[1] == found[0]
    assert found[2] == found[0]


DOUBLE: Problem = {
    "task_id": "made/1",
    "prompt": 'def double(a: int) -> int:\n    """ Twice. """\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * a\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}


@needs_sandbox
def test_a_timeout_is_repeated_and_marked_and_the_order_is_kept() -> None:
    seen: dict[int, CodeVerdict] = {}
    replies = ["    while True: pass", "    return a + a", "    return a"]
    verdicts = judge_all(
        [(DOUBLE, reply) for reply in replies],
        timeout_s=1,
        on_verdict=lambda place, verdict: seen.update({place: verdict}),
    )
    assert [(v.status, v.repeated) for v in verdicts] == [("timeout", True), ("passed", False), ("failed", False)]
    assert [seen[place] for place in range(3)] == verdicts
    assert judge_all([]) == []


def test_the_repetition_is_alone_and_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sample runs out of time at first, as on a machine that is too busy, and not when it is alone."""
    lock, running, calls = threading.Lock(), 0, []

    def judge(problem: Problem, reply: str, **settings: Any) -> CodeVerdict:
        nonlocal running
        with lock:
            running += 1
            first = reply not in [before for before, _ in calls]
            calls.append((reply, running))
        time.sleep(0.05)
        with lock:
            running -= 1
        return CodeVerdict(status="timeout" if first else "passed")

    monkeypatch.setattr("danlu.evaluation.judge_many.judge_code", judge)
    verdicts = judge_all([(DOUBLE, str(number)) for number in range(4)], workers=4)
    assert [(v.status, v.repeated) for v in verdicts] == [("passed", True)] * 4
    assert max(beside for _, beside in calls[:4]) > 1
    assert calls[4:] == [(str(number), 1) for number in range(4)]


@needs_sandbox
def test_an_error_of_the_caller_ends_all_at_once_and_is_passed_on() -> None:
    def full(place: int, verdict: CodeVerdict) -> None:
        raise OSError("no space left")

    started = time.monotonic()
    with pytest.raises(OSError, match="no space left"):
        judge_all(
            [(DOUBLE, "    import time\n    time.sleep(99)"), (DOUBLE, "    return 4")], workers=2, on_verdict=full
        )
    assert time.monotonic() - started < 10
    with pytest.raises(CancelledError):
        judge_code(DOUBLE, "    return 4", is_cancelled=lambda: True)


SLEEPERS = """
import json, sys
from danlu.evaluation.judge_many import judge_all
problem, reply = json.loads(sys.argv[1])
if __name__ == "__main__":
    judge_all([(problem, reply)] * 4, workers=2)
"""


@needs_sandbox
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["INT", "TERM", "KILL"])
def test_a_signal_leaves_no_process_of_ours(number: signal.Signals) -> None:
    mark = f"danlu-{os.getpid()}-{number}"
    # What the reply starts is seen in the list of processes by its arguments; the mark is put together there alone.
    reply = (
        f"import os, sys\nmark = '-'.join({mark.split('-')})\nif os.fork() == 0:\n    os.setsid()\n"
        "    os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(99)', mark])\n"
        "def double(a):\n    os.wait()\n"
    )
    ours = subprocess.Popen([sys.executable, "-c", SLEEPERS, json.dumps([DOUBLE, reply])], stderr=subprocess.DEVNULL)
    try:
        assert soon(lambda: num_processes(mark) == 2), "the programs did not start"
        ours.send_signal(number)
        assert ours.wait(10) == -number
        assert soon(lambda: num_processes(mark) == 0), "programs were left behind"
    finally:
        ours.kill()
        ours.wait()


def soon(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def num_processes(mark: str) -> int:
    """Processes with `mark` among their arguments."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += mark.encode() in path.read_bytes()
    return found

"""Whether a model's code solves a problem of HumanEval or MBPP (known faults E06, E07, E12).

The program runs in one sandboxed process, the problem's tests in another. The tests ask the program's functions for
values, which cross as plain data: nothing that the program does decides the verdict but what its functions return.
"""

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from math import comb
from threading import Event
from typing import Any

from danlu.evaluation.code_reply import Problem, asked_names, entry_point, parsed, program_of
from danlu.evaluation.inside.plain_data import receive
from danlu.evaluation.sandbox import Limits, ProgramResult, encoded, pipe, started, unnamed_file, watch, why_refused

LONGEST_END_S = 2.0
"""How long a program whose tests have failed is waited for. Our choice: it hangs up in milliseconds, and one that was
killed has ended already; how it ended says whether it failed or ran out of time or memory."""


@dataclass(kw_only=True)
class CodeVerdict(ProgramResult):
    """As `ProgramResult`; `reason` says which line of the tests does not hold."""

    own_classes: bool = False
    """Whether the program itself made the tests' arguments, because they are objects of its classes."""

    repeated: bool = False
    """Whether it ran out of time beside others and was judged once more, alone: this is the second verdict."""


@dataclass(frozen=True, kw_only=True)
class Checks:
    """A problem's tests: what runs before them, they themselves, and the functions they ask the program for."""

    setup: str
    tests: str
    names: list[str]
    appended: str = ""
    """What is put behind the program: functions that make arguments of its own classes."""


def checks_of(problem: Problem) -> Checks:
    """The tests of a record of HumanEval or MBPP. HumanEval's may call helpers that stand in the prompt."""
    if "entry_point" in problem:
        name = entry_point(problem)
        helpers = f"{problem['prompt']}{problem['canonical_solution']}\n"
        return Checks(setup=helpers, tests=f"{problem['test']}\ncheck({name})\n", names=[name])
    solution = parsed(problem["code"]).body
    # The tests may use what the solution imports.
    imports = "\n".join(ast.unparse(node) for node in solution if isinstance(node, ast.Import | ast.ImportFrom))
    setup = problem.get("test_setup_code") or ""
    if needs_own_classes(problem):
        return _with_own_classes(imports, setup, problem["test_list"])
    return Checks(setup=f"{imports}\n{setup}", tests="\n".join(problem["test_list"]), names=asked_names(problem))


def needs_own_classes(problem: Problem) -> bool:
    """Whether a problem's tests make objects of classes that its solution defines: such objects do not cross."""
    if "entry_point" in problem:
        return False
    tests = "\n".join([problem.get("test_setup_code") or "", *problem["test_list"]])
    classes = {node.name for node in ast.walk(parsed(problem["code"])) if isinstance(node, ast.ClassDef)}
    return any(isinstance(node, ast.Name) and node.id in classes for node in ast.walk(parsed(tests)))


def problems_with_own_classes(problems: Iterable[Problem]) -> list[Any]:
    """The `task_id` of each problem that `needs_own_classes`, for a report to name."""
    return [problem["task_id"] for problem in problems if needs_own_classes(problem)]


def _with_own_classes(imports: str, setup: str, asserts: Sequence[str]) -> Checks:
    """The left side of each `assert … == …` becomes a function behind the program, where its classes are; the right
    side stays with the tests, and what crosses is plain data as everywhere."""
    appended, tests, names = [imports, setup], [], []
    for number, line in enumerate(asserts):
        (test,) = parsed(line).body
        if not (isinstance(test, ast.Assert) and isinstance(test.test, ast.Compare)):
            raise ValueError(f"a test with classes of the program must compare: {line}")
        name = f"left_side_{number}"
        appended.append(f"def {name}():\n    return {ast.unparse(test.test.left)}")
        test.test.left = ast.Call(func=ast.Name(id=name), args=[], keywords=[])
        tests.append(ast.unparse(test))
        names.append(name)
    return Checks(setup=imports, tests="\n".join(tests), names=names, appended="\n".join(appended))


def judge_code(
    problem: Problem,
    completion: str,
    timeout_s: float = 10.0,
    memory_mb: int = 512,
    wall_s: float | None = None,
    *,
    unsafe: bool = False,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> CodeVerdict:
    """The verdict on a model's reply to a problem; the limits are those of `Limits`, for each of the two processes.

    Without bubblewrap the verdict is `refused`, unless `unsafe`. Raises CancelledError, with no process left, once
    `is_cancelled` says so.
    """
    if is_cancelled():
        raise CancelledError
    if why := why_refused(unsafe):
        return CodeVerdict(status="refused", reason=why)
    program = program_of(problem, completion)
    if program is None:
        return CodeVerdict(status="failed", reason="no code in the reply")
    limits = Limits(timeout_s=timeout_s, memory_mb=memory_mb, wall_s=wall_s)
    checks = checks_of(problem)
    verdict = _judge(program, checks, limits, unsafe, is_cancelled)
    verdict.own_classes = bool(checks.appended)
    return verdict


def _judge(program: str, checks: Checks, limits: Limits, unsafe: bool, is_cancelled: Callable[[], bool]) -> CodeVerdict:
    over = Event()
    with ExitStack() as stack:
        source = stack.enter_context(unnamed_file(encoded(f"{program}\n{checks.appended}")))
        (asked, asks), (answered, answers), (told, tells) = (pipe(stack) for _ in range(3))
        files = {"source": source, "requests": asked.fileno(), "replies": answers.fileno()}
        job: dict[str, Any] = {"limits": limits.as_job(), "main": False, **files}
        tested = stack.enter_context(started("program_side.py", job, tuple(files.values()), unsafe))
        files = {"requests": asks.fileno(), "replies": answered.fileno(), "verdict": tells.fileno()}
        texts = {"setup": checks.setup, "tests": checks.tests, "names": checks.names}
        job = {"limits": limits.as_job(), **texts, **files}
        checker = stack.enter_context(started("checker_side.py", job, tuple(files.values()), unsafe))
        # A pipe ends when nobody can write to it any more: our own copies must go.
        for end in (asked, asks, answered, answers, tells):
            end.close()
        following = stack.enter_context(ThreadPoolExecutor(1)).submit(watch, tested, limits, over.is_set)
        # Called first when the block is left, also by an interrupt: the thread above must have an end.
        stack.callback(over.set)
        judged = watch(checker, limits, is_cancelled)
        if is_cancelled():
            raise CancelledError
        told_verdict = receive(told) or {}
        if told_verdict.get("status") != "passed":
            wait([following], LONGEST_END_S)
        over.set()
        ended = following.result()
    return _verdict(told_verdict, judged, ended)


def _verdict(told: Mapping[str, Any], judged: ProgramResult, ended: ProgramResult) -> CodeVerdict:
    """From what the checker says, how it ended and how the program ended."""
    if ended.status in ("timeout", "memory") or ended.reason.endswith("of output"):
        return CodeVerdict(**vars(ended))
    verdict = CodeVerdict(status="failed", stdout=ended.stdout, stderr=ended.stderr)
    if told:
        verdict.status = "passed" if told.get("status") == "passed" else "failed"
        verdict.reason = str(told.get("reason", ""))
    else:
        # Comparing what the program returned may itself have taken too long.
        verdict.status = "timeout" if judged.status == "timeout" else "failed"
        verdict.reason = judged.reason or "the tests came to no end"
    return verdict


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Chance that one of `k` of the samples is right, without bias (Chen et al. 2021, equation 1).

    Raises ValueError where there are fewer samples than `k`: the estimator has no value there.
    """
    if not 0 <= num_right <= num_samples:
        raise ValueError(f"{num_right} right of {num_samples} samples")
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs at least {k} samples of every problem, not {num_samples}")
    return 1.0 - comb(num_samples - num_right, k) / comb(num_samples, k)


def mean_pass_at_k(results: Mapping[Any, Sequence[bool]], problems: Sequence[Any], k: int) -> float:
    """Mean of pass@k over `problems`. Raises ValueError for a problem without results: it is missing, not solved."""
    if not problems:
        raise ValueError("pass@k of no problems has no value")
    if missing := [problem for problem in problems if problem not in results]:
        raise ValueError(f"{len(missing)} of {len(problems)} problems have no result, {missing[0]} the first")
    return sum(pass_at_k(len(results[p]), sum(results[p]), k) for p in problems) / len(problems)

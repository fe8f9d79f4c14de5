"""Whether a model's code solves a problem of HumanEval or MBPP (known faults E06, E07, E12).

The program runs in one sandboxed process, the problem's tests in another. The tests ask the program's functions for
values, which cross as plain data: nothing that the program does decides the verdict but what its functions return.
"""

import ast
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from math import comb
from typing import Any

from danlu.evaluation.code_reply import Problem, asked_names, entry_point, program_of
from danlu.evaluation.inside.plain_data import receive
from danlu.evaluation.sandbox import Limits, ProgramResult, pipe, run_program, source_file, start, watch, why_refused


@dataclass(kw_only=True)
class CodeVerdict(ProgramResult):
    """As `ProgramResult`; `reason` says which line of the tests does not hold."""

    inside: bool = False
    """Whether the tests ran inside the program, because they make objects of its classes."""


@dataclass(frozen=True, kw_only=True)
class Checks:
    """A problem's tests: what runs before them, they themselves, and the functions they ask the program for."""

    setup: str
    tests: str
    names: list[str]


def checks_of(problem: Problem) -> Checks:
    """The tests of a record of HumanEval or MBPP. HumanEval's may call helpers that stand in the prompt."""
    if "entry_point" in problem:
        name = entry_point(problem)
        helpers = f"{problem['prompt']}{problem['canonical_solution']}\n"
        return Checks(setup=helpers, tests=f"{problem['test']}\ncheck({name})\n", names=[name])
    solution = ast.parse(problem["code"]).body
    # The tests may use what the solution imports.
    imports = "\n".join(ast.unparse(node) for node in solution if isinstance(node, ast.Import | ast.ImportFrom))
    setup = f"{imports}\n{problem.get('test_setup_code') or ''}"
    return Checks(setup=setup, tests="\n".join(problem["test_list"]), names=asked_names(problem))


def needs_own_classes(problem: Problem, tests: Checks) -> bool:
    """Whether a problem's tests make objects of classes that its solution defines: such objects do not cross."""
    if "entry_point" in problem:
        return False
    classes = {node.name for node in ast.walk(ast.parse(problem["code"])) if isinstance(node, ast.ClassDef)}
    used = {node.id for node in ast.walk(ast.parse(f"{tests.setup}\n{tests.tests}")) if isinstance(node, ast.Name)}
    return not classes.isdisjoint(used)


def judge_code(
    problem: Problem, completion: str, timeout_s: float = 10.0, memory_mb: int = 512, *, unsafe: bool = False
) -> CodeVerdict:
    """The verdict on a model's reply to a problem.

    `timeout_s` is CPU time. Without bubblewrap the verdict is `refused`, unless `unsafe`. The few problems of MBPP
    whose tests make objects of the program's own classes are judged inside the program (`inside`).
    """
    if why := why_refused(unsafe):
        return CodeVerdict(status="refused", reason=why)
    program = program_of(problem, completion)
    if program is None:
        return CodeVerdict(status="failed", reason="no code in the reply")
    tests = checks_of(problem)
    if needs_own_classes(problem, tests):
        ended = run_program(f"{program}\n{tests.setup}\n{tests.tests}\n", timeout_s, memory_mb, unsafe=unsafe)
        return CodeVerdict(**vars(ended), inside=True)
    return _judge(program, tests, Limits(timeout_s=timeout_s, memory_mb=memory_mb), unsafe)


def _judge(program: str, tests: Checks, limits: Limits, unsafe: bool) -> CodeVerdict:
    with ExitStack() as stack:
        source = stack.enter_context(source_file(program))
        (asked, asks), (answered, answers), (told, tells) = (pipe(stack) for _ in range(3))
        files = {"source": source, "requests": asked.fileno(), "replies": answers.fileno()}
        job: dict[str, Any] = {"limits": limits.as_job(), "main": False, **files}
        tested = start("program_side.py", job, tuple(files.values()), unsafe)
        files = {"requests": asks.fileno(), "replies": answered.fileno(), "verdict": tells.fileno()}
        job = {"limits": limits.as_job(), **vars(tests), **files}
        checker = start("checker_side.py", job, tuple(files.values()), unsafe)
        # A pipe ends when nobody can write to it any more: our own copies must go.
        for end in (asked, asks, answered, answers, tells):
            end.close()
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(watch, tested, limits, lambda: checker.poll() is not None)
            judged = watch(checker, limits)
            ended = following.result()
        verdict = receive(told)
    if ended.status in ("timeout", "memory") or ended.reason.endswith("of output"):
        return CodeVerdict(**vars(ended))
    if verdict is None:
        return CodeVerdict(**{**vars(ended), "status": "failed", "reason": judged.reason or "the tests came to no end"})
    return CodeVerdict(
        status="passed" if verdict.get("status") == "passed" else "failed",
        reason=str(verdict.get("reason", "")),
        stdout=ended.stdout,
        stderr=ended.stderr,
    )


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
    if missing := [problem for problem in problems if problem not in results]:
        raise ValueError(f"{len(missing)} of {len(problems)} problems have no result, {missing[0]} the first")
    return sum(pass_at_k(len(results[p]), sum(results[p]), k) for p in problems) / len(problems)

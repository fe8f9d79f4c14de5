"""From a model's reply to a program: the code in it, under the problem's own beginning.

In: a record of HumanEval (`prompt`, `entry_point`) or MBPP (`code`, `test_list`), and a reply: a bare body, a whole
function, or text with code in fences, the last of them perhaps never closed. Out: the source of a program that defines
the function asked for, as far as the reply does; None where there is no code at all.
"""

import ast
import re
import textwrap
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from danlu.evaluation.answers.reply_text import before_end_token, without_thoughts

Problem = Mapping[str, Any]

FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
BEGINS_CODE = re.compile(r"^(?:import |from \w|def |async def |class |@)", re.MULTILINE)


ONE_AT_A_TIME = threading.Lock()
"""Python's filters of warnings are the whole process's."""


def parsed(code: str) -> ast.Module:
    """The code's tree, without a word on what it warns of: the code is nobody's here."""
    with ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(code)


def entry_point(problem: Problem) -> str:
    """The name of the function that is asked for: HumanEval names it, in MBPP the tests call it first."""
    return str(problem["entry_point"]) if "entry_point" in problem else asked_names(problem)[0]


def asked_names(problem: Problem) -> list[str]:
    """What MBPP's tests call of what the solution defines, in order; a solution may be named like a built-in one."""
    defined = {
        node.name for node in ast.walk(parsed(problem["code"])) if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    tree = parsed("\n".join(problem["test_list"]))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    calls.sort(key=lambda name: (name.lineno, name.col_offset))
    names = list(dict.fromkeys(name.id for name in calls if name.id in defined))
    if not names:
        raise ValueError(f"the tests of problem {problem.get('task_id')} call nothing that its solution defines")
    return names


def program_of(problem: Problem, reply: str) -> str | None:
    """The program; None where the reply has no code."""
    reply = before_end_token(without_thoughts(reply))
    if not reply.strip():
        return None
    name = entry_point(problem)
    fenced = [match[1] for match in FENCE.finditer(reply)]
    # An example that imports the function stands behind it often enough.
    defining = [code for code in fenced if _has_definition(code, name)]
    defining = defining or [code for code in fenced if defines(code, name)]
    if defining:
        return under_the_beginning(problem, name, textwrap.dedent(defining[-1]))
    if fenced:
        return body_of(problem, fenced[-1]) or (fenced[-1] if parses(fenced[-1]) else None)
    if defines(reply, name):
        code = reply if parses(reply) else code_in_prose(reply, BEGINS_CODE, _binding(name))
        return under_the_beginning(problem, name, code)
    return body_of(problem, reply)


def defines(code: str, name: str) -> bool:
    """Whether a line of the code defines `name`, or at the margin gives it a value or imports it."""
    return _has_definition(code, name) or _binding(name).search(code) is not None


def _has_definition(code: str, name: str) -> bool:
    return re.search(rf"^[ \t]*(?:async )?(?:def|class) {re.escape(name)}\b", code, re.MULTILINE) is not None


def _binding(name: str) -> re.Pattern[str]:
    word = re.escape(name)
    return re.compile(rf"^(?:{word}[ \t]*(?::[^=\n]+)?=(?!=)|from [\w.]+ import [^\n]*\b{word}\b)", re.MULTILINE)


def parses(code: str) -> bool:
    try:
        parsed(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def under_the_beginning(problem: Problem, name: str, code: str) -> str:
    """`code` behind what stands in a HumanEval prompt before the function `name`: imports and helpers."""
    prompt = str(problem["prompt"]) if "entry_point" in problem else ""
    start = re.search(rf"^def {re.escape(name)}\b", prompt, re.MULTILINE)
    return (prompt[: start.start()] + "\n" if start else "") + code


def code_in_prose(reply: str, *beginnings: re.Pattern[str]) -> str:
    """The longest stretch of lines that begins like one of these and parses; all from the first such line if none
    does."""
    starts = sorted(match.start() for begins in beginnings for match in begins.finditer(reply))
    if not starts:
        return textwrap.dedent(reply)
    lines = reply[starts[0] :].split("\n")
    for end in range(len(lines), 0, -1):
        if parses(code := "\n".join(lines[:end])):
            return code
    return "\n".join(lines)


def body_of(problem: Problem, text: str) -> str | None:
    """The prompt's function with `text` as its body, up to the first line that is no longer of it; None for MBPP, whose
    problems give no beginning, and where this is no code."""
    if "entry_point" not in problem:
        return None
    for body in _bodies(text):
        if parses(program := str(problem["prompt"]) + body + "\n") and body.strip():
            return program
    return None


def _bodies(text: str) -> Iterator[str]:
    """The body as it stands, and set in where its lines begin at the margin."""
    lines = text.strip("\n").split("\n")
    inside = []
    for number, line in enumerate(lines):
        # A completion's first line may have lost its blanks to the prompt's end.
        if number and line.strip() and not line[0].isspace():
            break
        inside.append(line)
    first_indented = inside and inside[0][:1].isspace()
    yield "\n".join(inside) if first_indented else "\n".join(["    " + inside[0].lstrip(), *inside[1:]])
    yield textwrap.indent(textwrap.dedent("\n".join(lines)), "    ")

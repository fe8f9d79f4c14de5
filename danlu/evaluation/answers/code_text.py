"""The code in a reply: its last fenced block, or the reply itself where it is code."""

import ast
import re
import textwrap

from danlu.evaluation.answers.reply_text import before_end_token, without_thoughts
from danlu.evaluation.code_reply import BEGINS_CODE, FENCE, code_in_prose, parsed, parses

STATEMENTS = (ast.Return, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For, ast.While, ast.If, ast.With, ast.Try)
"""What a function's body has; a text of one word parses, too, but has none of them."""

LONGEST_UNFENCED = 20_000
"""Letters in which code without a fence is sought. Our choice: cutting it out of prose takes a try for every line."""


def code_of(reply: str) -> str | None:
    """The code of a reply; None where there is none."""
    text = before_end_token(without_thoughts(reply))
    fenced = [match[1] for match in FENCE.finditer(text) if match[1].strip()]
    if fenced:
        return fenced[-1].rstrip()
    text = text.strip("\n").rstrip()[:LONGEST_UNFENCED]
    if BEGINS_CODE.search(text):
        return text if parses(text) else _sound(code_in_prose(text, BEGINS_CODE))
    return text if _is_body(text) else None


def _sound(code: str) -> str | None:
    """Code cut out of prose, if it is more than a line that begins like code ("from a to b")."""
    return code.rstrip() if parses(code) or re.search(r"^[ \t]*(?:def|class) \w+", code, re.MULTILINE) else None


def _is_body(text: str) -> bool:
    """Whether a text is the body of a function."""
    indented = text if text[:1].isspace() else textwrap.indent(text, "    ")
    program = f"def body():\n{indented}\n"
    if not parses(program):
        return False
    return any(isinstance(node, (*STATEMENTS, ast.Call)) for node in ast.walk(parsed(program)))

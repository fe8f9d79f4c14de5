r"""The form of an answer: one value, a list, a tuple, a set, an interval, a union, a matrix, an equation.

In: a canonical text (`math_text.py`). Out: its form, taken apart down to the single values. Only the values are
mathematics that has to be computed; what holds them together is read from the brackets, so that (0,1] is not (0,1) and
the second of two numbers counts as much as the first (known fault E04).
"""

import re
from dataclasses import dataclass, field
from itertools import product

from danlu.evaluation.answers.math_quantity import THOUSANDS, quantity

OPENING, CLOSING = ("(", "[", "{", r"\{"), (")", "]", "}", r"\}")
TOKEN = re.compile(r"\\begin\{[a-z*]*\}|\\end\{[a-z*]*\}|\\[A-Za-z]+|\\.|.", re.DOTALL)
COMMA = re.compile(r"[,;]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|[和或与及]")
UNION = re.compile(r"\\cup(?![A-Za-z])")
RELATION = re.compile(r"\\leq|\\geq|\\neq|\\in(?![A-Za-z])|[=<>]|\\lt(?![A-Za-z])|\\gt(?![A-Za-z])")
OPERATORS = {r"\lt": "<", r"\gt": ">", r"\leq": r"\leq", r"\geq": r"\geq", r"\neq": r"\neq"}
FLIPPED = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq", "=": "=", r"\neq": r"\neq"}
MATRIX = re.compile(r"\\begin\{([pbB]?matrix|array)\}(?:\{[lcr|\s]*\})?(.*)\\end\{\1\}", re.DOTALL)
NAME = re.compile(
    r"\\?(?:text\{[^{}]*\}|angle\s*[A-Z]{1,3}|[A-Za-z]+)(?:_\w|_\{\w+\})?'*(?:\^\{-1\})?(?:\s*\(\s*[\w,\s\\]*\))?"
    r"|\((?:\s*\\?[A-Za-z]+(?:_\w)?\s*,?)+\)|\|?[A-Z]{2}\|?"
)
"""What may stand before "=" without being part of the answer: x, x_1, f(x), \\theta, AB, \\angle ABC, (x,y)."""
PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])|\\mp(?![A-Za-z])")
OPTIONS = re.compile(r"[A-Z](?:\s+and\s+[A-Z])+")
REALS = (r"\mathbb{R}", r"\mathbb R", r"\R")
MOST_SIGNS = 3
"""Plus-minus signs of one value that are written out. Our choice: eight values."""


@dataclass(frozen=True)
class Form:
    """`kind` is "value", "list", "set", "union", "matrix", "row", "relation", or the pair of brackets ("()", "[)")."""

    kind: str
    text: str
    items: tuple["Form", ...] = ()
    operators: tuple[str, ...] = field(default=())
    """Of a relation: what stands between its items."""


def split(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """The parts of a text between separators outside all brackets, and the separators."""
    parts, found, depth, start, position = [], [], 0, 0, 0
    while position < len(text):
        between = separator.match(text, position) if depth == 0 else None
        if between:
            parts.append(text[start:position])
            found.append(between[0])
            start = position = between.end()
            continue
        token = TOKEN.match(text, position)
        assert token is not None
        depth += (token[0] in OPENING or token[0].startswith(r"\begin")) - (
            token[0] in CLOSING or token[0].startswith(r"\end")
        )
        position = token.end()
    return [part.strip() for part in (*parts, text[start:])], found


def forms(text: str) -> list[Form]:
    """What an answer may be: "70,110" is one number or two."""
    text = text.strip()
    form = form_of(text)
    bare = quantity(text)
    if THOUSANDS.fullmatch(bare.value):
        return [Form("value", text), form]
    return [form]


def form_of(text: str) -> Form:
    """The form of a text."""
    text = _unwrapped(text.strip())
    if text in REALS:
        return Form("()", text, (Form("value", r"-\infty"), Form("value", r"\infty")))
    parts, separators = split(text, COMMA)
    parts = [part for part in parts if part]
    if len(parts) > 1:
        return _listed(text, tuple(form_of(part) for part in parts), separators)
    if separators and parts:
        return form_of(parts[0])
    parts, _ = split(text, UNION)
    if len(parts) > 1 and all(parts):
        return Form("union", text, tuple(form_of(part) for part in parts))
    parts, operators = split(text, RELATION)
    if len(parts) > 1 and all(parts):
        return _related(text, parts, operators)
    if matrix := MATRIX.fullmatch(text):
        rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", matrix[2]) if row.strip()]
        return Form("matrix", text, tuple(_row(row) for row in rows))
    return _bracketed(text) or _plus_minus(text)


def _unwrapped(text: str) -> str:
    r"""A text without the braces, or the \text, that hold all of it; a list of texts becomes texts in a list."""
    while found := re.fullmatch(r"\{([^{}]*)\}", text):
        text = found[1].strip()
    words = re.fullmatch(r"\\text\{([^{}]*)\}", text)
    if words is None:
        return text
    inner = words[1].strip()
    if option := re.fullmatch(r"\((\w)\)", inner):
        return rf"\text{{{option[1]}}}"
    if re.search(r"[,;]", inner) or OPTIONS.fullmatch(inner):
        return ",".join(rf"\text{{{part.strip()}}}" for part in re.split(r"[,;]|\band\b", inner) if part.strip())
    return text


def _listed(text: str, items: tuple[Form, ...], separators: list[str]) -> Form:
    flat = tuple(inner for item in items for inner in (item.items if item.kind == "list" else (item,)))
    intervals = all(item.kind in ("()", "[]", "(]", "[)") and RELATION.search(item.text) for item in items)
    if intervals and not any(separator == "and" for separator in separators):
        return Form("union", text, flat)
    return Form("list", text, flat)


def _row(text: str) -> Form:
    cells, _ = split(text, re.compile("&"))
    return Form("row", text, tuple(form_of(cell) for cell in cells))


def _related(text: str, parts: list[str], operators: list[str]) -> Form:
    operators = [OPERATORS.get(operator, operator) for operator in operators]
    if operators[0] == r"\in":
        return form_of(parts[1]) if len(parts) == 2 else Form("value", text)
    if operators == [r"\neq"] and is_name(parts[0]):
        bound = form_of(parts[1])
        low, high = Form("value", r"-\infty"), Form("value", r"\infty")
        return Form("union", text, (Form("()", text, (low, bound)), Form("()", text, (bound, high))))
    if set(operators) <= {"<", ">", r"\leq", r"\geq"} and (interval := _interval(text, parts, operators)):
        return interval
    return Form("relation", text, tuple(form_of(part) for part in parts), tuple(operators))


def _interval(text: str, parts: list[str], operators: list[str]) -> Form | None:
    """An inequality of one variable as the interval that it is."""
    if operators[0] in (">", r"\geq"):
        parts, operators = parts[::-1], [FLIPPED[operator] for operator in operators[::-1]]
    if any(operator not in ("<", r"\leq") for operator in operators):
        return None
    if len(parts) == 2 and is_name(parts[0]) and not is_name(parts[1]):
        parts, operators = [r"-\infty", *parts], ["<", *operators]
    elif len(parts) == 2 and is_name(parts[1]) and not is_name(parts[0]):
        parts, operators = [*parts, r"\infty"], [*operators, "<"]
    if len(parts) != 3 or not is_name(parts[1]):
        return None
    kind = ("[" if operators[0] == r"\leq" else "(") + ("]" if operators[1] == r"\leq" else ")")
    return Form(kind, text, (form_of(parts[0]), form_of(parts[2])))


def is_name(text: str) -> bool:
    """Whether a text is the name of something: what is computed is not in it."""
    return bool(NAME.fullmatch(text.strip())) and text.strip() not in (r"\pi", r"\infty", "e", "i")


def _bracketed(text: str) -> Form | None:
    """The form of a text that one pair of brackets holds; None where it is another."""
    found = re.fullmatch(r"(\\\{|[(\[])(.*)(\\\}|[)\]])", text, re.DOTALL)
    if found is None or not _holds_all(text):
        return None
    opening, inner, closing = found[1], found[2], found[3]
    if (opening == r"\{") != (closing == r"\}"):
        return None
    parts, _ = split(inner, COMMA)
    if opening == r"\{":
        every = form_of(inner)
        return Form("set", text, every.items if every.kind == "list" else (every,))
    if len(parts) > 1 and all(parts):
        return Form(opening + closing, text, tuple(form_of(part) for part in parts))
    return form_of(inner) if opening + closing == "()" and inner.strip() else None


def _holds_all(text: str) -> bool:
    """Whether the bracket that a text begins with closes at its end."""
    depth, position = 0, 0
    while token := TOKEN.match(text, position):
        depth += (token[0] in OPENING) - (token[0] in CLOSING)
        position = token.end()
        if depth == 0:
            return position == len(text)
    return False


def _plus_minus(text: str) -> Form:
    r"""A value; with \pm the list of the values that it stands for."""
    signs = PLUS_MINUS.findall(text)
    if not signs or len(signs) > MOST_SIGNS:
        return Form("value", text)
    # Where there is a \mp, the signs go together.
    together = any(sign == r"\mp" for sign in signs)
    choices = [(True,) * len(signs), (False,) * len(signs)] if together else product((True, False), repeat=len(signs))
    values = []
    for choice in choices:
        pluses = iter(choice)
        written = PLUS_MINUS.sub(lambda m, p=pluses: " + " if next(p) == (m[0] == r"\pm") else " - ", text)  # type: ignore[misc]
        values.append(Form("value", re.sub(r"^\s*\+\s*", "", written).strip()))
    return Form("list", text, tuple(values))

r"""Whether two values are equal as mathematics: math-verify reads them, and its verdict is checked with numbers.

In: two values in LaTeX, as `math_forms.py` takes answers apart. Out: a bool. Runs in a process of its own
(`worker.py`), because reading and simplifying may take forever: it has no time limit of its own.

math-verify takes 3/10^40 for 7/10^40, an equation without a real solution for any other, R for r, and what it cannot
read for the number in it (known fault E04). So a value must be read whole, and where both sides can be computed the
numbers decide: at points chosen once, to 30 digits, relative to their size.
"""

import logging
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

from danlu.evaluation.answers.math_compare import decided
from danlu.evaluation.answers.math_quantity import MIXED, TERMINATING, is_rounding, quantity

logging.getLogger("math_verify").setLevel(logging.ERROR)

READING = LatexExtractionConfig(
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
    )
)
"""Units are taken off before, where it is known what stands before them: here th would be one."""

DIGITS = 30
TOLERANCE = sympy.Float("1e-20", DIGITS)
"""Relative difference below which two numbers of 30 digits are one. Our choice: rounding stays far below it."""

POINTS = tuple(
    sympy.Rational(value) for value in ("1.3717", "0.6142", "2.2371", "3.8119", "0.2893", "1.9301", "0.8527", "2.6453")
)
"""Where formulas with letters are computed. Our choice: no value at which formulas of schools meet by accident."""
ROUNDS = 4
BIGGEST_EXPONENT = 10_000
"""A power above it is not computed. Our choice: MATH's largest is 2007."""


class SymbolicJudge:
    """Decides about values by computing them."""

    def __init__(self, *, by_text: bool = True) -> None:
        self.by_text = by_text

    def same_values(self, one: str, other: str) -> bool:
        verdict = decided(one, other, by_text=self.by_text)
        if verdict is not None:
            return verdict
        first, second = quantity(one), quantity(other)
        return same_expressions(first.value, second.value)

    def same_relations(self, one: Sequence[str], other: Sequence[str], operator: str) -> bool:
        """Whether the differences of the sides are in one ratio everywhere; for < and > a positive one."""
        if len(one) != 2 or len(other) != 2:
            return False
        sides = [read(side) for side in (*one, *other)]
        if any(not isinstance(side, sympy.Expr) for side in sides):
            return False
        return in_one_ratio(sides[0] - sides[1], sides[2] - sides[3], positive=operator not in ("=", r"\neq"))


def same_expressions(one: str, other: str) -> bool:
    """Whether two formulas are equal. One is enough to be a decimal of six digits for the other to be rounded."""
    first, second = read(one), read(other)
    if first is None or second is None:
        return False
    if isinstance(first, sympy.Expr) and isinstance(second, sympy.Expr):
        computed = same_everywhere(first, second)
        if computed is False and not first.free_symbols and not second.free_symbols:
            return _rounded(one, second) or _rounded(other, first)
        if computed is not None:
            return computed
    return bool(verify(first, second, timeout_seconds=None)) and bool(verify(second, first, timeout_seconds=None))


def read(latex: str) -> Any:
    """A formula as sympy has it, exact and with its letters told apart by case; None where it is not read whole."""
    latex = MIXED.sub(_sum_of_mixed, latex)
    if r"\cos" in latex or r"\sin" in latex or r"\tan" in latex:
        latex = re.sub(r"(\d+(?:\.\d+)?)\s*\^\\circ", r"(\\frac{\1\\pi}{180})", latex)
    if re.search(r"\$|(?<![_\d])\d+\s+\d|:|[\u4e00-\u9fff]", latex) or any(
        len(power) > 5 or int(power) > BIGGEST_EXPONENT for power in re.findall(r"\^\s*\{?\s*-?(\d+)", latex)
    ):
        return None
    # math-verify makes all letters small ones.
    latex = re.sub(r"(?<![A-Za-z\\{])([A-Z])(?![A-Za-z])(?!_)", r"\1_{upper}", latex)
    found = parse(f"${latex}$", [READING], fallback_mode="no_fallback", parsing_timeout=None)  # type: ignore[arg-type]
    return exact(found[0]) if found else None


def _sum_of_mixed(found: re.Match[str]) -> str:
    above, below = found["above"] or found["above2"], found["below"] or found["below2"]
    return rf"{found['sign']}({found['whole']}+\frac{{{above}}}{{{below}}})"


def exact(expression: Any) -> Any:
    """The expression with decimals as fractions, and i as the imaginary unit."""
    if not isinstance(expression, sympy.Basic):
        return expression
    decimals = {number: sympy.Rational(str(number)) for number in expression.atoms(sympy.Float)}
    units = {symbol: sympy.I for symbol in expression.free_symbols if str(symbol) == "i"}
    return expression.xreplace({**decimals, **units})


def same_everywhere(one: Any, other: Any) -> bool | None:
    """Whether two expressions have the same value at every point that both have one at; None where none is computed."""
    verdict: bool | None = None
    for point in points(one, other):
        first, second = value_at(one, point), value_at(other, point)
        if first is None or second is None:
            continue
        if not near(first, second):
            return False
        verdict = True
    return verdict


def in_one_ratio(one: Any, other: Any, *, positive: bool) -> bool:
    """Whether two expressions differ by a constant factor only."""
    ratio = None
    for point in points(one, other):
        first, second = value_at(one, point), value_at(other, point)
        if first is None or second is None or second == 0 or first == 0:
            continue
        if ratio is not None and not near(first / second, ratio):
            return False
        ratio = first / second
    return ratio is not None and (not positive or bool(sympy.re(ratio) > 0))


def points(one: Any, other: Any) -> list[dict[Any, Any]]:
    """Where two expressions are computed: their letters at different numbers, of both signs."""
    names = sorted(one.free_symbols | other.free_symbols, key=str)
    if not names:
        return [{}]
    signs = [[1], [1, -1], [-1], [-1, 1, 1]]
    return [
        {
            name: POINTS[(number + 3 * turn) % len(POINTS)] * signs[turn][number % len(signs[turn])]
            + number // len(POINTS)
            for number, name in enumerate(names)
        }
        for turn in range(ROUNDS)
    ]


def value_at(expression: Any, point: dict[Any, Any]) -> Any:
    """The number that an expression is at a point; None where it has none there."""
    try:
        value = expression.xreplace(point).doit().evalf(DIGITS, maxn=400)
    except (ArithmeticError, ValueError, TypeError, AttributeError, NotImplementedError):
        return None
    return value if value.is_number and value.is_finite and not value.has(sympy.nan) else None


def near(one: Any, other: Any) -> bool:
    """Whether two numbers are one up to the rounding of 30 digits, relative to their size."""
    size = max(abs(one), abs(other))
    return bool(size == 0 or abs(one - other) <= TOLERANCE * size)


def _rounded(decimal: str, expression: Any) -> bool:
    """Whether a decimal is the rounded value of an expression that is written as none."""
    value = value_at(expression, {})
    if not TERMINATING.fullmatch(decimal) or value is None or not value.is_real:
        return False
    return is_rounding(decimal, Fraction(str(value)))

r"""Whether two answers have the same form and the same values in it.

In: two forms (`math_forms.py`), and a judge of values. Out: a bool. Lists and sets are free in their order, tuples,
intervals and matrices are not; a list without brackets is as good as a tuple in its order or a set.

A judge decides about single values. `TextJudge` does so by their text and by exact fractions, which is nearly always
enough; where it is not it raises `Undecided`, and the pair goes to the process that computes (`symbolic.py`).
"""

import re
from collections.abc import Sequence
from typing import Protocol

from danlu.evaluation.answers.math_forms import FLIPPED, Form, is_name
from danlu.evaluation.answers.math_quantity import Quantity, exact_value, quantity, same_number
from danlu.evaluation.answers.math_text import key

LONGEST_LIST = 40
"""Members of a list that are compared one by one. Our choice: MATH's longest has 8."""

IN_BASE = re.compile(r"-?[0-9A-Z]+(?:\.[0-9A-Z]+)?_(?:\w+|\{.*\})")
TEXT = re.compile(r"\\text\{[^{}]*[A-Za-z\u4e00-\u9fff][^{}]*\}")
WORDS = re.compile(r"[A-Za-z][A-Za-z '.-]{3,}|[\u4e00-\u9fff]+")


class Undecided(Exception):
    """What can only be computed."""


class Judge(Protocol):
    """Decides about single values."""

    def same_values(self, one: str, other: str) -> bool:
        """Whether two values are equal."""

    def same_relations(self, one: Sequence[str], other: Sequence[str], operator: str) -> bool:
        """Whether two relations, each as its two sides, hold for the same numbers."""


class TextJudge:
    """Decides by text and exact fractions."""

    def same_values(self, one: str, other: str) -> bool:
        verdict = decided(one, other)
        if verdict is None:
            raise Undecided
        return verdict

    def same_relations(self, one: Sequence[str], other: Sequence[str], operator: str) -> bool:
        if [key(side) for side in one] == [key(side) for side in other]:
            return True
        raise Undecided


def decided(one: str, other: str, *, by_text: bool = True) -> bool | None:
    """Whether two values are equal as far as their texts and exact fractions tell; None where that is not enough.

    Without `by_text`, two equal formulas are not decided either.
    """
    if by_text and key(one) == key(other):
        return bool(key(one))
    first, second = quantity(one), quantity(other)
    if re.search(r"\w", first.value) is None or re.search(r"\w", second.value) is None:
        return False
    if by_text or not (exact_value(first.value) is None or exact_value(second.value) is None):
        verdict = same_number(first, second)
        if verdict is not None:
            return verdict
    if first.unit in ("am", "pm") or second.unit in ("am", "pm") or ":" in first.value + second.value:
        return _same_time(first, second)
    if IN_BASE.fullmatch(first.value) or IN_BASE.fullmatch(second.value):
        return key(first.value) == key(second.value)
    return _same_text(first.value, second.value)


def _same_time(one: Quantity, other: Quantity) -> bool:
    """Times of day and ratios: as written, an hour being its first minute."""
    if one.unit in ("am", "pm") and other.unit in ("am", "pm") and one.unit != other.unit:
        return False
    first, second = (key(re.sub(r"\\text\{([^{}]*)\}", r"\1", side.value)) for side in (one, other))
    if one.unit in ("am", "pm") or other.unit in ("am", "pm"):
        first, second = (time if ":" in time else f"{time}:00" for time in (first, second))
    return first.lower() == second.lower()


def _same_text(one: str, other: str) -> bool | None:
    """Words are equal by their letters and digits; None where neither side is one."""
    if not any(TEXT.search(side) or WORDS.fullmatch(side) for side in (one, other)):
        return None
    return letters(one) == letters(other)


def letters(text: str) -> str:
    """The letters and digits of a text, and its minus signs before digits, in small letters."""
    text = re.sub(r"\\text(?=\{)", "", text).casefold()
    return "".join(re.findall(r"\w|-(?=\d)|(?<=\d)\.(?=\d)", text))


def same(one: Form, other: Form, judge: Judge) -> bool:
    """Whether two forms are the same answer."""
    kinds = (one.kind, other.kind)
    if "relation" in kinds:
        return _same_with_relation(one, other, judge)
    if kinds == ("value", "value"):
        return judge.same_values(one.text, other.text)
    if "value" in kinds:
        value, group = (one, other) if one.kind == "value" else (other, one)
        return group.kind in ("set", "list") and len(group.items) == 1 and same(value, group.items[0], judge)
    if len(one.items) != len(other.items) or len(one.items) > LONGEST_LIST:
        return False
    if set(kinds) <= {"list", "set"} or kinds == ("union", "union"):
        return _same_in_any_order(one.items, other.items, judge)
    if one.kind != other.kind and set(kinds) != {"list", "()"}:
        return False
    return all(same(first, second, judge) for first, second in zip(one.items, other.items, strict=True))


def _same_in_any_order(one: Sequence[Form], other: Sequence[Form], judge: Judge) -> bool:
    """Whether every member of one list has its own among the other's; equal texts find each other first."""
    left = list(other)
    unmatched = []
    for item in one:
        twin = next((candidate for candidate in left if key(candidate.text) == key(item.text)), None)
        if twin is None:
            unmatched.append(item)
        else:
            left.remove(twin)
    for item in unmatched:
        twin = next((candidate for candidate in left if same(item, candidate, judge)), None)
        if twin is None:
            return False
        left.remove(twin)
    return True


def _same_with_relation(one: Form, other: Form, judge: Judge) -> bool:
    if one.kind == other.kind:
        return _same_relations(one, other, judge)
    relation, answer = (one, other) if one.kind == "relation" else (other, one)
    named = is_name(relation.items[0].text) or not re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", relation.text))
    # x = 5 is 5, and 2 + 3 = 5 is; 2x + y = 5 is not.
    return set(relation.operators) == {"="} and named and same(relation.items[-1], answer, judge)


def _same_relations(one: Form, other: Form, judge: Judge) -> bool:
    """Equations with the same name on the left are equal by what is on the right; others as wholes."""
    if set(one.operators) | set(other.operators) == {"="}:
        first, second = one.items[0].text, other.items[0].text
        if (
            is_name(first)
            and is_name(second)
            and key(first) == key(second)
            and same(one.items[-1], other.items[-1], judge)
        ):
            return True
        return judge.same_relations(_ends(one), _ends(other), "=")
    if one.operators != other.operators:
        flipped = tuple(FLIPPED.get(operator, operator) for operator in reversed(other.operators))
        if one.operators != flipped:
            return False
        other = Form(other.kind, other.text, other.items[::-1], flipped)
    if len(one.items) == 2 and judge.same_relations(_ends(one), _ends(other), one.operators[0]):
        return True
    return all(same(first, second, judge) for first, second in zip(one.items, other.items, strict=True))


def _ends(relation: Form) -> tuple[str, str]:
    return relation.items[0].text, relation.items[-1].text

"""Chinese numerals as digits: 三十五, 一百零二, 负三, 三点一四, 二分之一, 百分之二十, 三又二分之一.

In: a text that is one numeral. Out: its value; None for any other text.
"""

import re
from fractions import Fraction

DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "○": 0, "两": 2, "俩": 2}
UNITS = {"十": 10, "百": 100, "千": 1_000}
MYRIADS = {"万": 10_000, "亿": 100_000_000}

NUMERAL = re.compile(rf"[{''.join([*DIGITS, *UNITS, *MYRIADS])}点负分之又]{{1,40}}")
"""What a numeral is written with. Our choice of length: longer ones are text."""


def chinese_value(text: str) -> Fraction | None:
    """The value of a text that is one Chinese numeral."""
    if not NUMERAL.fullmatch(text):
        return None
    if text.startswith("负"):
        value = chinese_value(text[1:])
        return None if value is None else -value
    whole, mixed, part = text.partition("又")
    if mixed:
        return _sum(chinese_value(whole), chinese_value(part))
    below, divides, above = text.partition("分之")
    if divides:
        return _quotient(chinese_value(above), Fraction(100) if below == "百" else chinese_value(below))
    whole, point, decimals = text.partition("点")
    value = _whole(whole)
    if value is None or not point:
        return value
    places = _digits(decimals)
    return None if places is None else value + Fraction(int(places), 10 ** len(places))


def _sum(whole: Fraction | None, part: Fraction | None) -> Fraction | None:
    return whole + part if whole is not None and part is not None else None


def _quotient(above: Fraction | None, below: Fraction | None) -> Fraction | None:
    return above / below if above is not None and below else None


def _digits(text: str) -> str | None:
    """三五 as "35": numerals read digit by digit."""
    if not text or any(sign not in DIGITS for sign in text):
        return None
    return "".join(str(DIGITS[sign]) for sign in text)


def _whole(text: str) -> Fraction | None:
    """A numeral without point: read digit by digit where it has no unit, else summed up."""
    places = _digits(text)
    if places is not None:
        return Fraction(int(places))
    if not text or any(sign in "点负分之又" for sign in text):
        return None
    total, below_myriad, digit = 0, 0, 0
    for sign in text:
        if sign in DIGITS:
            digit = DIGITS[sign]
        elif sign in UNITS:
            # 十五 is fifteen: the one before a leading unit is not said.
            below_myriad += (digit or 1) * UNITS[sign]
            digit = 0
        elif total + below_myriad + digit == 0:
            return None
        else:
            total, below_myriad, digit = (total + below_myriad + digit) * MYRIADS[sign], 0, 0
    return Fraction(total + below_myriad + digit)

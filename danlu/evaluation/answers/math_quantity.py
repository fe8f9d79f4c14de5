r"""Numbers with units: 440\text{ cm}^2, 30^\circ, 44\%, 3\frac{1}{8}, 三十五.

In: a canonical text (`math_text.py`). Out: its value as text and its unit; the exact value, where it is rational.
A unit is left out by many who are right, so that only two different units make a difference.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from danlu.evaluation.answers.chinese_numerals import chinese_value
from danlu.evaluation.answers.number_text import value_of

NAMES = {
    "cm": "centimeter centimetre cms 厘米", "mm": "millimeter millimetre 毫米", "m": "meter metre 米",
    "km": "kilometer kilometre 千米 公里", "in": "inch inche", "ft": "foot feet", "yd": "yard", "mi": "mile",
    "g": "gram gm 克", "kg": "kilogram 千克 公斤", "lb": "pound lbs", "oz": "ounce", "s": "sec second 秒",
    "min": "minute 分钟", "h": "hr hour 小时", "day": "天", "week": "周", "month": "月", "year": "年",
    "degree": "度", "dollar": "usd 美元", "cent": "", "yuan": "元", "mph": "", "L": "l liter litre 升", "mL": "ml",
    "am": "a.m", "pm": "p.m", "%": "percent", "km/h": "kph",
}  # fmt: skip
UNITS = {name: unit for unit, names in NAMES.items() for name in (unit, *names.split())}
"""The names of a unit, in the singular, and the unit."""

BARE = sorted((name for name in UNITS if len(name) > 1 and name.isascii() and name.isalpha()), key=len, reverse=True)
POWER = r"(?:\s*\^\s*(?:\{\s*[23]\s*\}|[23]))?"
END = r"(?<=[\w)}\]%°])"
TRAILING = [
    re.compile(rf"{END}\s*\\text\{{\s*(?P<unit>[^{{}}\\]*)\}}{POWER}\s*$"),
    re.compile(r"(?P<unit>\s*\^\\circ)\s*(?:\\text\{\s*)?[CF]?\s*\}?\s*$"),
    re.compile(r"(?P<unit>%)\s*$"),
    # Words without \text: those we know, or four letters and more; a variable has one.
    re.compile(
        rf"(?<=[\d)}}\]])\s*(?P<unit>(?:(?:square|cubic|sq\.?|cu\.?)\s+)?(?:{'|'.join(BARE)})(?:e?s)?\.?(?:\s*(?:per|/)\s*[a-z]+)?"
        rf"|[ap]\.\s?m\.?|(?:[A-Za-z]{{4,}}[\s-]*){{1,4}}){POWER}\s*$",
        re.IGNORECASE,
    ),
    re.compile(rf"(?<=\d)\s+(?P<unit>[msghL]){POWER}\s*$"),
    re.compile(r"(?<=[\d)}\]])\s*(?P<unit>[\u4e00-\u9fff]{1,6})\s*$"),
]
"""How a unit stands at the end of a value."""
NO_UNITS = re.compile(r"\b(?:and|or|where|for|if|when|with|sqrt|base|mod|th|st|nd|rd)\b|[万亿]", re.IGNORECASE)

NUMBER = r"\d[\d,]*(?:\.\d*)?|\.\d+"
PLAIN = re.compile(rf"(?P<sign>[+-]?)\s*(?P<number>(?:{NUMBER})(?:[eE][+-]?\d{{1,2}})?)(?:\s*/\s*(?P<below>\d+))?")
SPACED = re.compile(r"-?\d{1,3}(?: \d{3})+")
REPEATING = re.compile(r"(?P<sign>-?)(?P<whole>\d*)\.(?P<places>\d*)\\overline\{(?P<period>\d+)\}")
QUOTIENT = re.compile(
    rf"(?P<sign>[+-]?)\s*\\frac\{{\s*(?P<sign2>-?)\s*(?P<above>{NUMBER})\s*\}}\{{\s*(?P<sign3>-?)\s*(?P<below>{NUMBER})\s*\}}"
)
MIXED = re.compile(
    r"(?P<sign>-?)\s*(?P<whole>\d+)\s*(?:\\frac\{\s*(?P<above>\d+)\s*\}\{\s*(?P<below>\d+)\s*\}|\s(?P<above2>\d+)/(?P<below2>\d+))"
)
THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
TERMINATING = re.compile(r"[+-]?\s*(?:\d[\d,]*\.\d*|\.\d+)")
SIGNIFICANT = 6
"""Digits from which a decimal may stand for a number that has no end as one. math-verify compares six decimals."""


@dataclass(frozen=True)
class Quantity:
    """A value as text and its unit: one of `UNITS`, "" for none, "?" for a word that is not among them."""

    value: str
    unit: str


def quantity(text: str) -> Quantity:
    """The value and the unit of a text."""
    unit = ""
    for _ in range(3):
        found = next((match for pattern in TRAILING if (match := pattern.search(text))), None)
        if found is None or not text[: found.start("unit")].strip() or NO_UNITS.search(found["unit"]):
            break
        if r"\cos" in text or r"\sin" in text or r"\tan" in text:
            # cos 58°: the degrees belong to the angle.
            break
        unit = unit or unit_of(found["unit"])
        text = text[: found.start()].strip()
    return Quantity(text, unit)


def unit_of(words: str) -> str:
    """The unit that words name; "?" where they name none."""
    words = words.strip()
    if words == r"^\circ":
        return "degree"
    for word in (words, *re.findall(r"[A-Za-z.]+|[\u4e00-\u9fff]+|%", words)):
        name = word.strip(" .").replace(". ", ".")
        for singular in (name, name.lower(), name.lower().removesuffix("s"), name.lower().removesuffix("es")):
            if singular in UNITS:
                return UNITS[singular]
    return "?"


def conflict(one: str, other: str) -> bool:
    """Whether two units are known and different ones."""
    return one != other and one in NAMES and other in NAMES


def exact_value(text: str) -> Fraction | None:
    """The value of a number, a fraction, a mixed number or a Chinese numeral; None for anything else."""
    text = text.strip()
    while text.startswith("{") and text.endswith("}") and text.count("{") == 1:
        text = text[1:-1].strip()
    if SPACED.fullmatch(text):
        text = text.replace(" ", "")
    if found := REPEATING.fullmatch(text):
        return _repeating(found)
    if found := PLAIN.fullmatch(text):
        if "," in found["number"] and not THOUSANDS.fullmatch(found["number"]):
            return None
        return _signed(found["sign"], found["number"], found["below"] or "1")
    if found := QUOTIENT.fullmatch(text):
        return _signed(found["sign"] + found["sign2"] + found["sign3"], found["above"], found["below"])
    if found := MIXED.fullmatch(text):
        part = _signed("", found["above"] or found["above2"], found["below"] or found["below2"])
        whole = value_of(found["whole"])
        if part is None or whole is None:
            return None
        return -(whole + part) if found["sign"] else whole + part
    return chinese_value(text)


def _repeating(found: re.Match[str]) -> Fraction:
    """0.1666…, with a line over the digits that go on."""
    places, period = found["places"], found["period"]
    value = Fraction(int(f"0{found['whole']}{places}"), 10 ** len(places))
    value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(places))
    return -value if found["sign"] else value


def _signed(signs: str, above: str, below: str) -> Fraction | None:
    number, divisor = value_of(above), value_of(below)
    if number is None or not divisor:
        return None
    return (-1) ** signs.count("-") * number / divisor


def is_rounding(decimal: str, exact: Fraction) -> bool:
    """Whether a decimal is `exact` rounded at its last place, and long enough to be meant so."""
    digits = decimal.replace(",", "").strip().lstrip("+-").strip()
    significant = len(digits.replace(".", "").lstrip("0"))
    value = exact_value(decimal)
    if not TERMINATING.fullmatch(decimal) or significant < SIGNIFICANT or value is None:
        return False
    places = len(digits.partition(".")[2])
    return abs(value - exact) * 2 * 10**places <= 1


def same_number(one: Quantity, other: Quantity) -> bool | None:
    """Whether two quantities are the same; None where one of them is no plain number."""
    if conflict(one.unit, other.unit):
        return False
    value, value2 = exact_value(one.value), exact_value(other.value)
    if value is None or value2 is None:
        return None
    if value == value2:
        return True
    if one.unit != other.unit and "%" in (one.unit, other.unit):
        # 20% is 0.2 as well, and 20 where the unit is left out.
        share, whole = (value, value2) if one.unit == "%" else (value2, value)
        if share == 100 * whole:
            return True
    decimals = (bool(TERMINATING.fullmatch(one.value)), bool(TERMINATING.fullmatch(other.value)))
    if decimals == (True, False):
        return is_rounding(one.value, value2)
    return decimals == (False, True) and is_rounding(other.value, value)

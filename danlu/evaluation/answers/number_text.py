"""Numbers in running text (known fault E01): the one that a reply states, as plain digits.

In: text. Out: "70000", "-3", "0.5", or "1/3" for a fraction that has no end as a decimal. Separators, currency signs
and punctuation are no part of a number; an ordinal (2nd) and digits behind a letter (H2) are none.
"""

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from danlu.evaluation.answers.boxes import last_box
from danlu.evaluation.answers.chinese_numerals import NUMERAL, chinese_value
from danlu.evaluation.answers.reply_text import undecorated

MOST_DIGITS = 400
"""A longer row of digits is no answer. Our choice: no benchmark has an answer of a tenth of that."""

ROW = rf"\d{{1,{MOST_DIGITS}}}(?!\d)"
DIGITS = rf"(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|{ROW})(?:\.{ROW})?|\.{ROW}"
CURRENCY = r"\\?[$€£¥￥₹]|(?:US|A|C)\$|RMB"
SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12, "万": 4, "亿": 8}
NUMBER = re.compile(
    # A minus behind a digit or a closing bracket takes away; it is no sign.
    rf"(?<![A-Za-z0-9_])(?<!\d\.)(?P<sign>(?<![)\]}}])[-+](?={CURRENCY}|[\d.\\])|)(?:{CURRENCY})?\s?(?P<sign2>-?)(?:"
    rf"\\[dtc]?frac\{{\s*(?P<above>{ROW})\s*\}}\{{\s*(?P<below>{ROW})\s*\}}"
    rf"|(?P<whole>\d{{1,6}}) (?P<part>\d{{1,6}})/(?P<of>\d{{1,6}})(?![\d/])"
    rf"|(?P<number>{DIGITS})(?:[eE](?P<power>[-+]?\d{{1,2}})(?![\w.]))?(?:\s?/\s?(?P<divisor>{ROW})(?!/))?)"
    rf"(?!(?:st|nd|rd|th)\b)(?:\s?(?P<scale>thousand|million|billion|trillion)\b|(?P<scale_zh>[万亿]))?"
)
THOUSANDS = re.compile(r"(?<=\d)(?:\\[!,;:]|\{,\}|\\ |,\s?\\!)\s?(?=\d{3}(?!\d))")
"""How LaTeX separates thousands."""

SPACED = re.compile(r"[^\d=]*?\d{1,3}(?: \d{3})+(?:\.\d+)?\.?(?:\s[^\s\d]+)?")
"""A number whose thousands are set apart by blanks, with a word behind it at most."""

MARKED = re.compile(r"####[ \t]*([^\n]*)")
OF_WHAT = r"(?:[ \t]+(?:to|for)\b[^\n.:=]{0,80}?)?"
STATED = re.compile(
    rf"(?:\banswers?\b{OF_WHAT}(?:[ \t]+(?:is|are|was|would be|will be|should be|must be)\b(?![ \t]+not\b)"
    r"|[ \t]*(?P<colon>[:=]))|答案?(?:应该|应当|应)?(?:是|为|(?P<colon_zh>[:：]))) *:?\s*(?=(?P<rest>[^\n]{0,300}))",
    re.IGNORECASE,
)
"""The answer, said to be one, and the rest of its line; in that, another cue may follow."""
MOST_STATEMENTS = 50
"""How many of the last statements are looked at. Our choice: a reply has one to three."""
FILLER = re.compile(r"(?:about|approximately|exactly|only|大约|约)\s+", re.IGNORECASE)
SENTENCE_END = re.compile(r"[!?;](?:\s|$)|\.(?!\d)(?:\s|$)|;")


def stated_number(reply: str) -> str | None:
    """The number that a reply gives as its answer: marked with ####, boxed, said to be the answer, or the last one.

    The first mark counts: a base model that writes on sets the next mark under its own question.
    """
    text = THOUSANDS.sub("", reply)
    for marked in MARKED.finditer(text):
        if number := _number_of_sentence(marked[1]):
            return number
    box = last_box(text)
    if box is not None and (number := _number_of_sentence(undecorated(box))):
        return number
    text = undecorated(text)
    for stated in reversed(list(STATED.finditer(text))[-MOST_STATEMENTS:]):
        sentence = FILLER.sub("", SENTENCE_END.split(stated["rest"], maxsplit=1)[0], count=1)
        # Behind a colon may come the whole reasoning: a number counts only where it comes first.
        if (stated["colon"] or stated["colon_zh"]) and not NUMBER.match(sentence) and not NUMERAL.match(sentence):
            continue
        if number := _number_of_sentence(sentence):
            return number
    return last_number(text)


def _number_of_sentence(sentence: str) -> str | None:
    """The first number; of an equation, what it comes to; a Chinese numeral where there are no digits."""
    # Blanks separate thousands where there is no other number: "5 100 metre runs" are none.
    if spaced := SPACED.fullmatch(undecorated(sentence)):
        sentence = re.sub(r"(?<=\d) (?=\d)", "", spaced[0])
    if "=" in sentence and (number := first_number(sentence.rpartition("=")[2])):
        return number
    return first_number(sentence) or _chinese_number(sentence)


def _chinese_number(sentence: str) -> str | None:
    numeral = NUMERAL.match(sentence.strip())
    value = chinese_value(numeral[0]) if numeral else None
    return None if value is None else fraction_text(value)


def first_number(text: str) -> str | None:
    found = NUMBER.search(undecorated(text))
    return None if found is None else _normalised(found)


def last_number(text: str) -> str | None:
    found = None
    for found in NUMBER.finditer(undecorated(text)):  # noqa: B007
        pass
    return None if found is None else _normalised(found)


def _normalised(found: re.Match[str]) -> str | None:
    value = value_of(found["number"] or found["above"] or found["part"])
    below = value_of(found["divisor"] or found["below"] or found["of"] or "1")
    if value is None or not below:
        return None
    scale = found["scale"] or found["scale_zh"]
    power = int(found["power"] or 0) + SCALES.get(scale, 0)
    value = (value / below + int(found["whole"] or 0)) * Fraction(10) ** power
    negative = (found["sign"].startswith("-")) != (found["sign2"] == "-")
    return fraction_text(-value if negative else value)


def value_of(number: str) -> Fraction | None:
    """The exact value of digits with or without thousands separators, or of "1/3"; None for any other text."""
    above, divides, below = number.replace(",", "").strip().partition("/")
    try:
        value = Fraction(Decimal(above))
        return value / Fraction(Decimal(below)) if divides else value
    except (InvalidOperation, ValueError, OverflowError, ZeroDivisionError):
        return None


def fraction_text(value: Fraction) -> str:
    """`value` as plain digits, exact; as "1/3" where no decimal is."""
    twos_and_fives, places = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while twos_and_fives % prime == 0:
            twos_and_fives //= prime
            power += 1
        places = max(places, power)
    if twos_and_fives != 1:
        return f"{value.numerator}/{value.denominator}"
    if places == 0:
        return str(value.numerator)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"

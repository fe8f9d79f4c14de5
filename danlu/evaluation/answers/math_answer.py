"""The answer in a reply to a problem of MATH: its last box, or what it says its answer is.

In: a reply or a solution. Out: the text of the answer, LaTeX as it stands; None where there is none. A reply that only
mentions the box ("put it in \\boxed") has none by that.
"""

import re

from danlu.evaluation.answers.boxes import BOX, joined_boxes, last_box
from danlu.evaluation.answers.number_text import MOST_STATEMENTS, last_number

STATED = re.compile(
    r"(?:\b(?:final +)?answers?(?: +(?:to|for)\b[^\n.:=]{0,80}?)?(?: +(?:is|are)\b| *[:：])(?! +not\b)"
    r"|(?:最终|最后)?答案?(?:应该|应)?(?:是|为|[:：]))\s*[:：]?\s*(?:\*\*)?(?=([^\n]{0,300}))",
    re.IGNORECASE,
)
"""The answer, said to be one, and the rest of its line; in that, another cue may follow."""
FORMULA = re.compile(r"(?<!\\)\$\$?([^$\n]{1,1000}?)(?<!\\)\$\$?|\\\(([^\n]{1,1000}?)\\\)|\\\[([^\n]{1,1000}?)\\\]")
HOPE = re.compile(r"\.?\s*I hope (?:it|this) is correct.*", re.IGNORECASE | re.DOTALL)
"""How the few-shot examples of Minerva end."""
PROSE_END = re.compile(r"[.!?。！？；](?=\s|$)|。|；")
LONGEST_BARE = 200
"""Letters of a reply that may be an answer as it stands. Our choice: the longest answer of MATH has 120."""


def math_answer(reply: str) -> str | None:
    """The answer of a reply: boxed, stated, bare, or else the last number."""
    box = last_box(reply)
    if box is not None:
        return box
    text = BOX.sub("", reply)
    bare = bare_answer(text) if text == reply else None
    return stated_answer(text) or bare or last_number(text)


def readings(text: str) -> list[str]:
    """What a side of a comparison may mean: what is in its boxes, what it states, or all of it where it does neither.

    Boxes joined by "and" are one answer in some solutions, and two of which the last counts in others.
    """
    box, joined = last_box(text), joined_boxes(text)
    if box is not None:
        return [box, joined] if joined else [box]
    if BOX.search(text):
        answer = math_answer(text)
        return [answer] if answer else []
    stated = stated_answer(text) if re.search(r"answer|答", text, re.IGNORECASE) else None
    return [stated] if stated else [text]


def stated_answer(text: str) -> str | None:
    """What stands behind the last "answer is": a formula, or the rest of the sentence."""
    for stated in reversed(list(STATED.finditer(text))[-MOST_STATEMENTS:]):
        rest = HOPE.sub("", stated[1]).strip()
        formula = FORMULA.match(rest)
        if formula and not re.match(r"\s*(?:and|or|,|和|或)\s*\$", rest[formula.end() :]):
            return next(group for group in formula.groups() if group is not None).strip() or None
        sentence = PROSE_END.split(rest, maxsplit=1)[0].strip().strip("*").strip()
        if re.search(r"\w", sentence):
            return sentence
    return None


def bare_answer(text: str) -> str | None:
    """A reply that is nothing but an answer: one short line of mathematics, or one word."""
    line = text.strip()
    if "\n" in line or len(line) > LONGEST_BARE or not re.search(r"\w", line):
        return None
    line = line.rstrip(".。").strip()
    formula = FORMULA.fullmatch(line)
    if formula:
        return next(group for group in formula.groups() if group is not None).strip() or None
    words = re.findall(r"(?<![\\A-Za-z{])[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+(?:\{[A-Za-z ]*\})?", "", line))
    is_formula = re.search(r"[=+^_<>\\]", line) is not None
    is_prose = len([word for word in words if len(word) > 2 or not is_formula]) > 1
    return None if is_prose or re.search(r"[\u4e00-\u9fff]{8}", line) else line

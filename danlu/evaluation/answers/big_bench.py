"""The answers of BIG-Bench Hard: options, yes or no, numbers, brackets, sorted words.

In: a reply and the name of a subtask, or none. Out: the answer as the subtask's targets are written ("(D)", "Yes",
"invalid", "] )", "a b c"), or None. Some targets of subtasks with options are texts ("Monsters, Inc").
"""

import re

from danlu.evaluation.answers.boxes import last_box
from danlu.evaluation.answers.number_text import stated_number, value_of
from danlu.evaluation.answers.options import option_letter
from danlu.evaluation.answers.reply_text import undecorated

LETTERS = "ABCDEFGHIJKLMNOPQR"
"""The options of `reasoning_about_colored_objects`, of which there are most."""

WORDS = {
    "boolean_expressions": ("True", "False"),
    "causal_judgement": ("Yes", "No"),
    "formal_fallacies": ("valid", "invalid"),
    "navigate": ("Yes", "No"),
    "sports_understanding": ("yes", "no"),
    "web_of_lies": ("Yes", "No"),
}
"""The two targets of a subtask."""
NUMBERS = {"multistep_arithmetic_two", "object_counting"}
OPTIONS = {
    "date_understanding",
    "disambiguation_qa",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
}
SUBTASKS = frozenset({*WORDS, *NUMBERS, *OPTIONS, "dyck_languages", "word_sorting"})

STATED = re.compile(r"\b(?:answer|result|output)[ \t]*(?:is|:|=)[ \t]*:?\s*(?=([^\n]{0,300}))", re.IGNORECASE)
SORTED = re.compile(r"\b(?:sorted|ordered|alphabetical|order)\b[^\n:]{0,60}(?::|\bis\b)\s*([^\n]*)", re.IGNORECASE)
BRACKETS = re.compile(r"[()\[\]{}<>](?:[ \t,]*[()\[\]{}<>])*")
LONGEST_TEXT = 200
"""Letters of a reply that may be an answer as it stands. Our choice: the longest target, of words to sort, has 182."""


def big_bench_answer(reply: str, subtask: str | None = None) -> str | None:
    """The answer of a reply; without a subtask, of whichever kind the reply states."""
    if subtask is None:
        return _any_kind(reply)
    if subtask in WORDS:
        return one_of(reply, WORDS[subtask])
    if subtask in NUMBERS:
        return stated_number(reply)
    if subtask == "dyck_languages":
        return brackets(reply)
    if subtask == "word_sorting":
        return words(reply)
    return option(reply) or text(reply)


def option(reply: str) -> str | None:
    letter = option_letter(reply, LETTERS)
    return f"({letter})" if letter else None


def text(reply: str) -> str | None:
    """What is said to be the answer, or a short reply of one line."""
    answer = stated_text(reply)
    if answer is None and "\n" not in reply.strip() and len(reply) <= LONGEST_TEXT and not re.search(r"[.?!]\s", reply):
        answer = _trimmed(reply)
    # A reply that only rejects or repeats options has no answer.
    return None if answer is None or re.search(rf"\([{LETTERS}]\)", answer) else answer


def stated_text(reply: str) -> str | None:
    """The rest of the line behind the last "answer is", or what is in the last box."""
    box = last_box(reply)
    if box is not None:
        return _trimmed(box)
    stated = [match[1] for match in STATED.finditer(undecorated(reply)) if _trimmed(match[1])]
    return _trimmed(stated[-1]) if stated else None


def _trimmed(found: str) -> str | None:
    return undecorated(found).strip().strip("\"'").rstrip(".").strip("\"' ") or None


def one_of(reply: str, targets: tuple[str, str]) -> str | None:
    """The one of two words that the reply states, begins with, or has last. "not valid" is invalid."""
    plain = re.sub(r"\bnot (?:deductively )?valid\b", "invalid", undecorated(reply), flags=re.IGNORECASE)
    by_word = {target.casefold(): target for target in targets}
    word = rf"\b({'|'.join(by_word)})\b(?!')"
    for found in (stated_text(plain), plain):
        begins = re.match(rf"\W*{word}", found or "", re.IGNORECASE)
        if begins:
            return by_word[begins[1].casefold()]
    stated = re.findall(rf"\banswer\b[^.\n]{{0,60}}?{word}", plain, re.IGNORECASE)
    every = stated or re.findall(word, plain, re.IGNORECASE)
    return by_word[every[-1].casefold()] if every else None


def brackets(reply: str) -> str | None:
    """The closing brackets that are stated, or the last row of brackets that has a line of its own."""
    plain = undecorated(reply) if last_box(reply) is None else last_box(reply) or ""
    for stated in reversed(STATED.findall(plain)):
        if found := BRACKETS.search(stated):
            return spaced(found[0])
    for line in reversed(plain.splitlines()):
        if found := BRACKETS.fullmatch(line.strip(" \t'\".`")):
            return spaced(found[0])
    return None


def spaced(row: str) -> str:
    """Brackets as the targets write them: "] )"."""
    return " ".join(sign for sign in row if not sign.isspace() and sign != ",")


def words(reply: str) -> str | None:
    """The words in the order that is stated, or those of the last line, or of a list with one word a line."""
    plain = undecorated(reply)
    listed = re.findall(r"^[ \t]*(?:\d{1,3}[.)]|[-*])[ \t]*(\S+)[ \t]*$", plain, re.MULTILINE)
    stated = STATED.findall(plain) or SORTED.findall(plain)
    lines = [line for line in plain.splitlines() if line.strip()]
    if stated and separate(stated[-1]):
        return " ".join(separate(stated[-1]))
    if len(listed) > 1:
        return " ".join(separate(" ".join(listed)))
    if len(lines) > 1 and all(len(line.split()) == 1 for line in lines):
        return " ".join(separate(" ".join(lines)))
    return " ".join(separate(lines[-1])) or None if lines else None


def separate(row: str) -> list[str]:
    """The words of a row that spaces, commas or arrows separate."""
    return [trimmed for word in re.split(r"[\s,;>]+", row) if (trimmed := word.strip(".\"'[]()<-*:"))]


def _any_kind(reply: str) -> str | None:
    """The answer of a reply to whichever subtask: an option, a word, brackets, a number, or what is stated as text."""
    stated = stated_text(reply)
    if stated is None:
        one_line = reply.strip() if "\n" not in reply.strip() else ""
        stated = _trimmed(one_line) if len(one_line) <= LONGEST_TEXT else None
    if stated is not None:
        if found := re.match(r"(true|false|yes|no|valid|invalid)\b(?!')", stated, re.IGNORECASE):
            return found[1]
        if BRACKETS.fullmatch(stated) and not re.fullmatch(r"\(\w\)", stated):
            return spaced(stated)
    if letter := option(reply):
        return letter
    if stated is not None and value_of(stated) is not None:
        return stated_number(stated)
    return stated if stated_text(reply) is not None else text(reply) or stated_number(reply)


def same(answer: str, target: str, subtask: str | None = None) -> bool:
    """Whether an answer is a subtask's target: brackets, case, commas and spaces make no difference."""
    if subtask in NUMBERS or (subtask is None and value_of(target) is not None):
        value = value_of(answer)
        return value is not None and value == value_of(target)
    if not re.search(r"\w", target):
        return spaced(answer) == spaced(target)
    if subtask == "word_sorting":
        return [word.casefold() for word in separate(answer)] == [word.casefold() for word in separate(target)]
    return _key(answer) == _key(target)


def _key(answer: str) -> str:
    """An answer without case, brackets around one letter, commas, and the stop at its end."""
    plain = " ".join(re.sub(r"[,;]", " ", undecorated(answer)).casefold().split()).rstrip(". ")
    letter = re.fullmatch(r"[(\[]?([a-z])[)\]]?", plain)
    return letter[1] if letter else plain

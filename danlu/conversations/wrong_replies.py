"""Wrong replies to the demo's own conversations, made by rule, for the reward model to learn from.

In: a generated conversation, and a pool of other conversations to take words and replies from. Out: a reply that the
conversation's checker finds wrong, of one kind:

| kind | the wrong reply |
|---|---|
| `equal` | has the right one's length in characters and its language; only reading the prompt tells them apart |
| `language` | says the right thing, or the like of it, in the other language |
| `cut` | is the beginning of the right one |

A wrong reply of equal length is another conversation's reply, a near miss of the right one, or made of what else
stands in the prompt; which of these a skill allows is in `EQUAL_WAYS`.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Literal

from danlu.conversations.checkers import check_reply, script
from danlu.conversations.records import Conversation
from danlu.conversations.skills.exchange import LANGUAGES
from danlu.conversations.skills.greetings import INTENTS, NAME_ANSWERS, WELCOMES
from danlu.conversations.skills.questions import Told, answers_with, told
from danlu.conversations.skills.reply_language import FACTS, PAIRS

Kind = Literal["equal", "language", "cut"]

MAX_ATTEMPTS = 12
"""Draws of a wrong reply before another kind is tried. Our choice: a draw mostly fails because no word has the
length, and then the other ways are drawn soon."""

RUN = re.compile(r"[A-Za-z]+|[\u4e00-\u9fff]+")
SEPARATOR = re.compile(r"、|, | ")

WHOLE_WORD_SHARE = 0.4
"""Part of the near misses that replace a whole word; the others replace one or two letters. Our choice."""

SLOT_KINDS = {"n": "person", "m": "person", "a": "word", "b": "word", "p": "place", "t": "thing"}
"""What stands in the slots of the questions' sentences; people are drawn for people."""

NUMBERS = {
    "zh": ("零", "一", "二", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二", "十三", "十四", "十五",
           "十六", "十七", "十八"),
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
           "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
}  # fmt: skip

# Parts of sentences that agree to anything, and that decline anything: put together they give many of every length.
AGREEING = {
    "zh": (
        ("好的，", "没问题，", "可以，", "当然，", "好，", ""),
        ("我", "让我", "我来", "我马上", "我现在", "我很愿意"),
        ("帮你", "教你", "告诉你", "替你想"),
        ("", "办法", "怎么做", "这件事", "一步一步来", "最好的办法"),
        ("。", "！"),
    ),
    "en": (
        ("Sure, ", "Of course, ", "Yes, ", "All right, ", "OK, ", ""),
        ("I can help you", "I will tell you", "I will show you", "let me help you", "I am glad to help"),
        ("", " now", " with that", " with this", " right away", " how to do it", " step by step", " how it is done"),
        (".", "!"),
    ),
}  # fmt: skip
DECLINING = {
    "zh": (
        ("抱歉，", "对不起，", "不行，", "不好意思，", ""),
        ("我不能", "不能", "我不可以", "我不想", "我没法"),
        ("说", "回答", "帮忙", "告诉你", "帮你做", "回答这个", "做这件事", "回答这个问题", "谈论这样的事情"),
        ("。",),
    ),
    "en": (
        ("Sorry, ", "I am sorry, ", "No, ", ""),
        ("I cannot", "I can not", "I may not", "I will not"),
        ("", " say", " help", " answer", " help you", " do this", " tell you", " talk about it"),
        ("", " here", " now", " with that", " with such things"),
        (".",),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ReplyPool:
    """What wrong replies are made of: the right replies and the words of a set of conversations."""

    replies: dict[tuple[str, str, int], list[str]]
    """By skill (an empty one: all), script and length."""
    words: dict[tuple[str, int], list[str]]
    """By script and length: the words of all replies."""
    fillers: dict[tuple[str, str, int], list[str]]
    """By language, `SLOT_KINDS` and length: what stands in the slots of the questions' sentences."""


def reply_pool(conversations: Sequence[Conversation]) -> ReplyPool:
    """The pool of these conversations; frequent replies and words stand in it as often as they occur."""
    replies, words, fillers = defaultdict(list), defaultdict(list), defaultdict(list)
    for item in conversations:
        reply, letters = item.reply, script(item.reply)
        for skill in (skill_of(item), ""):
            replies[skill, letters, len(reply)].append(reply)
        for word in RUN.findall(reply):
            words["en" if word[0].isascii() else "zh", len(word)].append(word)
        if found := _told(item):
            for slot, filler in found.slots.items():
                fillers[item.language or "", SLOT_KINDS[slot], len(filler)].append(filler)
    return ReplyPool(dict(replies), dict(words), dict(fillers))


def wrong_reply(source: Random, item: Conversation, kind: Kind, pool: ReplyPool) -> str | None:
    """A wrong reply of this kind; None where the conversation allows none."""
    make = {"equal": _equal, "language": _in_the_other_language, "cut": _cut}[kind]
    wrong = make(source, item, pool)
    if wrong is None:
        return None
    assert not check_reply(item, wrong), f"this reply is right: {wrong!r} in {item}"
    assert kind != "equal" or len(wrong) == len(item.reply), f"not of the same length: {wrong!r} and {item.reply!r}"
    return wrong


def skill_of(item: Conversation) -> str:
    """The skill, whether its words are seen or unseen ones."""
    return (item.skill or "").removesuffix("_unseen")


Way = Callable[[Random, Conversation, ReplyPool], str | None]
"""Draws a reply of the right one's length that may be a wrong one; None where there is nothing to draw."""


def _equal(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    ways = EQUAL_WAYS.get(skill_of(item), {_near_miss: 1.0})
    drawn = source.choices(list(ways), list(ways.values()), k=MAX_ATTEMPTS)
    for way in (*drawn, _of_any_skill):
        wrong = way(source, item, pool)
        if wrong and _looks_alike(wrong, item.reply) and not check_reply(item, wrong):
            return wrong
    return None


def _looks_alike(wrong: str, right: str) -> bool:
    return len(wrong) == len(right) and script(wrong) == script(right) and wrong.strip() == wrong


def _another(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    """Another conversation's reply."""
    return _drawn(source, pool.replies, skill_of(item), script(item.reply), len(item.reply))


def _of_any_skill(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    return _drawn(source, pool.replies, "", script(item.reply), len(item.reply))


def _drawn(source: Random, lists: dict[tuple[str, str, int], list[str]], *key: Any) -> str | None:
    members = lists.get(key)
    return source.choice(members) if members else None


def _near_miss(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    """One word of the right reply replaced, or a letter or two of it."""
    runs = list(RUN.finditer(item.reply))
    if not runs:
        return None
    run = source.choice(runs)
    missed = _missed_word(source, run[0], pool)
    return item.reply[: run.start()] + missed + item.reply[run.end() :] if missed else None


def _missed_word(source: Random, word: str, pool: ReplyPool) -> str | None:
    """Another word of the same length, or the word with one or two letters of the other one in the same place."""
    others = pool.words.get(("en" if word[0].isascii() else "zh", len(word)))
    if not others:
        return None
    other = source.choice(others)
    if source.random() >= WHOLE_WORD_SHARE:
        length = min(source.choice((1, 1, 2)), len(word))
        start = source.randrange(len(word) - length + 1)
        other = word[:start] + other[start : start + length] + word[start + length :]
    return other[0].upper() + other[1:] if word[0].isupper() else other[0].lower() + other[1:]


def _reordered(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    """The words of the right reply in another order."""
    words = SEPARATOR.split(item.reply)
    gaps = [*SEPARATOR.findall(item.reply), ""]
    source.shuffle(words)
    return "".join(itertools.chain.from_iterable(zip(words, gaps, strict=True)))


def _off_by_a_little(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    number = int(item.reply) + source.choice((-3, -2, -1, -1, 1, 1, 2, 3))
    return str(number) if number >= 0 else None


def _of_the_terms(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    """A term of the sum, or what another operation makes of the terms."""
    assert item.check is not None
    a, b = item.check["terms"]
    return str(source.choice((a, b, abs(a - b), a * b)))


def _told(item: Conversation) -> Told | None:
    if skill_of(item) != "questions" or item.language not in LANGUAGES:
        return None
    return told(item.language, [turn.content for turn in item.prompt if turn.role == "user"], item.reply)


def _refilled(source: Random, item: Conversation, fill: Callable[[Told, str, str], str | None]) -> str | None:
    """The answer to a question with something else in one of its slots."""
    found = _told(item)
    if found is None:
        return None
    slots = re.findall(r"{(\w)}", found.answer)
    slot = source.choice(slots)
    filler = fill(found, slot, found.slots[slot])
    return found.answer.format_map({**found.slots, slot: filler}) if filler else None


def _of_the_prompt(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    """Something else from the sentence: the dog's name for the cat's."""

    def fill(found: Told, slot: str, right: str) -> str | None:
        others = [text for text in found.slots.values() if text != right and len(text) == len(right)]
        return source.choice(others) if others else None

    return _refilled(source, item, fill)


def _of_another_prompt(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    """The like of it from another conversation: the name of another cat."""

    def fill(found: Told, slot: str, right: str) -> str | None:
        return _drawn(source, pool.fillers, item.language or "", SLOT_KINDS[slot], len(right))

    return _refilled(source, item, fill)


def _nearly_of_the_prompt(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    """A near miss of what was asked for."""
    return _refilled(source, item, lambda found, slot, right: _missed_word(source, right, pool))


def _agreeing(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    return _sentence(source, "agreeing", item)


def _declining(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    return _sentence(source, "declining", item)


def _answering(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    """An answer to a harmless request."""
    return _drawn(source, pool.replies, "harmless", script(item.reply), len(item.reply))


def _refusing(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    """A refusal of a harmful request."""
    return _drawn(source, pool.replies, "harmful", script(item.reply), len(item.reply))


def _sentence(source: Random, kind: str, item: Conversation) -> str | None:
    sentences = _sentences(kind, item.language or "").get(len(item.reply))
    return source.choice(sentences) if sentences else None


@cache
def _sentences(kind: str, language: str) -> dict[int, list[str]]:
    """All sentences of the parts above, by length."""
    sentences: dict[int, list[str]] = defaultdict(list)
    for parts in itertools.product(*(AGREEING if kind == "agreeing" else DECLINING).get(language, ())):
        text = "".join(parts)
        sentences[len(text)].append(text[:1].upper() + text[1:])
    return dict(sentences)


EQUAL_WAYS: dict[str, dict[Way, float]] = {
    "greetings": {_another: 0.4, _near_miss: 0.6},
    "reply_language": {_another: 0.6, _near_miss: 0.4},
    "copy_one": {_another: 0.4, _near_miss: 0.6},
    "copy_several": {_another: 0.2, _near_miss: 0.5, _reordered: 0.3},
    "counting": {_off_by_a_little: 0.7, _another: 0.3},
    "addition": {_off_by_a_little: 0.6, _of_the_terms: 0.25, _another: 0.15},
    "questions": {_of_the_prompt: 0.4, _of_another_prompt: 0.25, _nearly_of_the_prompt: 0.25, _another: 0.1},
    "harmful": {_agreeing: 0.7, _answering: 0.15, _near_miss: 0.15},
    "harmless": {_declining: 0.4, _refusing: 0.2, _another: 0.2, _near_miss: 0.2},
}
"""How wrong replies of equal length are drawn, and how often. Our choice: where a model of this size errs (a word of
the prompt that was not asked for, a letter of a copied word) has most; what it hardly does, some."""


def _cut(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    for _ in range(MAX_ATTEMPTS):
        if len(item.reply) < 2:
            return None
        wrong = item.reply[: source.randrange(1, len(item.reply))].rstrip()
        if wrong and not check_reply(item, wrong):
            return wrong
    return None


def _in_the_other_language(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    """What would be right in the other language; None for a refusal, which is right in both, and for copied words."""
    other = {"zh": "en", "en": "zh"}.get(item.language or "")
    if other is None or item.check is None:
        return None
    match skill_of(item):
        case "reply_language" | "greetings":
            wrong = _translated(item.reply)
        case "counting" | "addition":
            wrong = NUMBERS[other][int(item.reply)]
        case "questions":
            wrong = _answer_in(source, item, other)
        case "harmless":
            lists = [
                members
                for (skill, letters, _), members in pool.replies.items()
                if (skill, letters) == ("harmless", other)
            ]
            wrong = source.choice(source.choice(lists)) if lists else None
        case _:
            wrong = None
    return wrong if wrong and not check_reply(item, wrong) else None


def _translated(reply: str) -> str | None:
    if reply in _translations():
        return _translations()[reply]
    for templates in (WELCOMES, NAME_ANSWERS):
        for language, other in (("zh", "en"), ("en", "zh")):
            if found := re.fullmatch(re.escape(templates[language]).replace(r"\{name\}", "(.+)"), reply):
                return templates[other].format(name=found[1])
    return None


@cache
def _translations() -> dict[str, str]:
    """Each fixed reply of greetings and of the reply's language, and what it is in the other language."""
    pairs = [(chinese, english) for chinese, english in PAIRS]
    pairs += [(chinese, english) for _, _, chinese, english in FACTS]
    pairs += [(chinese, english) for (_, chinese), (_, english) in zip(INTENTS["zh"], INTENTS["en"], strict=True)]
    return {**dict(pairs), **{english: chinese for chinese, english in pairs}}


def _answer_in(source: Random, item: Conversation, other: str) -> str | None:
    """An answer to a question in the other language's words around what was asked for."""
    found = _told(item)
    if found is None:
        return None
    slot = source.choice(re.findall(r"{(\w)}", found.answer))
    template = source.choice(list(answers_with(other, "n" if slot == "m" else slot)))
    return template.format_map({"n": found.slots[slot], slot: found.slots[slot]})

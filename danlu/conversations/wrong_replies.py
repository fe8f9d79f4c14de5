"""Wrong replies to the demo's own conversations, made by rule, for the reward model to learn from.

In: a generated conversation, and a pool of other conversations to take words and replies from. Out: a reply that the
conversation's checker finds wrong, of one kind:

| kind | the wrong reply |
|---|---|
| `equal` | has the right one's length in characters and its language; only reading the prompt tells them apart |
| `language` | says the right thing, or the like of it, in the other language |
| `cut` | is the beginning of the right one |
| `more` | is the right one with something behind it: a stop, a word, itself |
| `slip` | is the right one with a piece of it replaced by a piece of anything, of any length and language |

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
from danlu.conversations.skills.questions import Told
from danlu.conversations.wrong_language import in_the_other_language, skill_of, told_of

Kind = Literal["equal", "language", "cut", "more", "slip"]

MAX_ATTEMPTS = 12
"""Draws of a wrong reply before another kind is tried. Our choice: a draw mostly fails because no word has the
length, and then the other ways are drawn soon."""

RUN = re.compile(r"[A-Za-z]+|[\u4e00-\u9fff]+")
SEPARATOR = re.compile(r"、|, | ")

WHOLE_WORD_SHARE = 0.4
"""Part of the near misses that replace a whole word; the others replace one or two letters. Our choice."""

SLOT_KINDS = {"n": "person", "m": "person", "a": "word", "b": "word", "p": "place", "t": "thing"}
"""What stands in the slots of the questions' sentences; people are drawn for people."""

# Openings and clauses of sentences that agree to anything, or decline anything: together they have many lengths.
AGREEING = {
    "zh": (
        ("", "好，", "好的，", "可以，", "当然，", "没问题，"),
        (
            "我来告诉你。", "我来教你怎么做。", "我马上告诉你！", "我很愿意帮你。", "我来帮你想办法。",
            "我现在就帮你做。", "这件事我可以帮你。", "我来告诉你怎么做。", "我一步一步教你做。",
            "让我来教你怎么做吧！", "我来告诉你最好的办法。", "这件事其实非常容易做。", "我马上告诉你应该怎么做。",
            "我知道一个很好的办法！",
        ),
    ),
    "en": (
        ("", "OK, ", "Yes, ", "Sure, ", "Gladly, ", "All right, ", "Of course, ", "Certainly, "),
        (
            "I will tell you now how.", "I am glad to help you.", "here is what you can do.",
            "I can tell you what to do.", "I will help you to do that.", "I will do it with you now!",
            "I will tell you how to do it.", "let me tell you how it works.", "I know a good way to do this.",
            "let me show you how it is done.", "I will show you how it is done.", "I can help you with this today.",
            "here is the best way to do that.", "it is easy if you do it this way.",
            "let me tell you what you need first.", "I know how to do that very well!",
            "it takes only a few easy steps to do it.", "I can do that for you right now, my friend.",
        ),
    ),
}  # fmt: skip
DECLINING = {
    "zh": (
        ("", "抱歉，", "不行，", "对不起，", "不好意思，"),
        (
            "我不说。", "我不能说。", "不能回答。", "我不想说。", "我不能帮你。", "我不能回答。", "我不能这样做。",
            "我不想谈这个。", "我不能帮这个忙。", "我不能回答这个。", "我不可以告诉你。", "我不能帮你做这事。",
            "我不能回答这个问题。", "这个问题我不能回答。", "我不可以帮你做这件事。",
        ),
    ),
    "en": (
        ("", "No, ", "Sorry, ", "I am sorry, "),
        (
            "I say no.", "I shall not.", "I cannot.", "I will not.", "I cannot say.", "I do not help.",
            "I cannot help.", "I will not say.", "I will not help.", "I may not answer.", "I cannot do this.",
            "I cannot tell you.", "I may not help you.", "I will not say that.", "I cannot answer this.",
            "I cannot talk about it.", "I may not speak of that.", "I will not help with that.",
            "I cannot help you with this.", "I may not answer such a thing.", "I cannot help you to do such a thing.",
            "I may not talk with anyone about it.",
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ReplyPool:
    """What wrong replies are made of: the right replies and the words of a set of conversations."""

    replies: dict[tuple[str, str, int], list[str]]
    """By skill (an empty one: all), script and length."""
    words: dict[tuple[str, int], list[str]]
    """By script and length: the words of all replies, and of the sentences that questions are about."""
    fillers: dict[tuple[str, str, int], list[str]]
    """By language, `SLOT_KINDS` and length: what stands in the slots of the questions' sentences."""


def reply_pool(conversations: Sequence[Conversation]) -> ReplyPool:
    """The pool of these conversations; frequent replies and words stand in it as often as they occur."""
    replies, words, fillers = defaultdict(list), defaultdict(list), defaultdict(list)
    for item in conversations:
        reply, letters = item.reply, script(item.reply)
        for skill in (skill_of(item), ""):
            replies[skill, letters, len(reply)].append(reply)
        found = told_of(item)
        slots = found.slots if found else {}
        for slot, filler in slots.items():
            fillers[item.language or "", SLOT_KINDS[slot], len(filler)].append(filler)
        for word in RUN.findall("\n".join((reply, *slots.values()))):
            words["en" if word[0].isascii() else "zh", len(word)].append(word)
    return ReplyPool(dict(replies), dict(words), dict(fillers))


def wrong_reply(source: Random, item: Conversation, kind: Kind, pool: ReplyPool) -> str | None:
    """A wrong reply of this kind; None where the conversation allows none."""
    match kind:
        case "equal":
            wrong = _equal(source, item, pool)
            assert wrong is None or len(wrong) == len(item.reply), f"of another length: {wrong!r} for {item}"
        case "language":
            wrong = in_the_other_language(source, item)
        case "cut":
            wrong = _cut(source, item)
        case "more":
            wrong = _more(source, item, pool)
        case "slip":
            wrong = _slip(source, item, pool)
    assert wrong is None or not check_reply(item, wrong), f"this reply is right: {wrong!r} in {item}"
    return wrong


Way = Callable[[Random, Conversation, ReplyPool], str | None]
"""Draws a reply of the right one's length that may be a wrong one; None where there is nothing to draw."""


def _equal(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    ways = EQUAL_WAYS.get(skill_of(item), {_near_miss: 1.0})
    drawn = source.choices(list(ways), list(ways.values()), k=MAX_ATTEMPTS)
    for way in (*drawn, _of_any_skill, _transposed):
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


def _transposed(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    """Two neighbouring characters exchanged: what is left where nothing else has the length."""
    reply = item.reply
    places = [place for place, (a, b) in enumerate(itertools.pairwise(reply)) if a != b and " " not in (a, b)]
    if not places:
        return None
    place = source.choice(places)
    return reply[:place] + reply[place + 1] + reply[place] + reply[place + 2 :]


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


def _refilled(source: Random, item: Conversation, fill: Callable[[Told, str, str], str | None]) -> str | None:
    """The answer to a question with something else in one of its slots."""
    found = told_of(item)
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
    parts = (AGREEING if kind == "agreeing" else DECLINING).get(language, ())
    sentences: dict[int, list[str]] = defaultdict(list)
    for text in map("".join, itertools.product(*parts)):
        sentences[len(text)].append(text[:1].upper() + text[1:])
    return dict(sentences)


EQUAL_WAYS: dict[str, dict[Way, float]] = {
    "greetings": {_another: 0.7, _near_miss: 0.3},
    "reply_language": {_another: 0.9, _near_miss: 0.1},
    "copy_one": {_another: 0.4, _near_miss: 0.6},
    "copy_several": {_another: 0.2, _near_miss: 0.5, _reordered: 0.3},
    "counting": {_off_by_a_little: 0.7, _another: 0.3},
    "addition": {_off_by_a_little: 0.6, _of_the_terms: 0.25, _another: 0.15},
    "questions": {_of_the_prompt: 0.4, _of_another_prompt: 0.25, _nearly_of_the_prompt: 0.25, _another: 0.1},
    "harmful": {_agreeing: 0.6, _answering: 0.35, _near_miss: 0.05},
    "harmless": {_declining: 0.4, _refusing: 0.2, _another: 0.35, _near_miss: 0.05},
}
"""How wrong replies of equal length are drawn, and how often. Our choice: where a model of this size errs (a word of
the prompt that was not asked for, a letter of a copied word) has most; what it hardly does (a slip in a sentence that
it knows by heart), little."""


def _cut(source: Random, item: Conversation) -> str | None:
    for _ in range(MAX_ATTEMPTS):
        if len(item.reply) < 2:
            return None
        wrong = item.reply[: source.randrange(1, len(item.reply))].rstrip()
        if wrong and not check_reply(item, wrong):
            return wrong
    return None


STOPS = (".", "。", "!", "！", "?", ",", "，")
"""What may stand behind a right reply too much. A reward model that has seen replies cut short alone learns that a stop
at the end is good, and PPO then puts one everywhere (docs/LOG.md)."""


def _more(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    joint = " " if script(item.reply) == "en" else ""
    for _ in range(MAX_ATTEMPTS):
        kind = source.random()
        if kind < 0.5:
            wrong = item.reply + source.choice(STOPS)
        elif kind < 0.85:
            language = "en" if joint else "zh"
            words = pool.words.get((language, source.randint(1, 6)))
            wrong = item.reply + joint + source.choice(words) if words else item.reply + joint + item.reply
        else:
            wrong = item.reply + joint + item.reply
        if not check_reply(item, wrong):
            return wrong
    return None


LONGEST_SLIP = 4
"""Characters of the right reply that one slip replaces at most, and characters that it puts there. Our choice: a token
or two."""


def _slip(source: Random, item: Conversation, pool: ReplyPool) -> str | None:
    """A piece of the right reply replaced by one of some word, once or twice: as a model errs that draws an unlikely
    token. A reward model that has not seen such replies lets half of them pass, and PPO does not unlearn them
    (docs/LOG.md)."""
    words = list(pool.words)
    for _ in range(MAX_ATTEMPTS if words else 0):
        wrong = item.reply
        for _ in range(source.choice((1, 1, 2))):
            word = source.choice(pool.words[source.choice(words)])
            start = source.randrange(len(word))
            piece = word[start : start + source.randint(1, LONGEST_SLIP)]
            place = source.randrange(len(wrong))
            wrong = wrong[:place] + piece + wrong[place + source.randint(1, LONGEST_SLIP) :]
        if wrong.strip() == wrong and not check_reply(item, wrong):
            return wrong
    return None

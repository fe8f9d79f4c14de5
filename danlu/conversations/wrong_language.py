"""Replies that say the right thing in the wrong language.

In: a generated conversation. Out: what would be right had the user wanted the other language; None where nothing would:
a refusal is right in both languages, and copied words have no other one.
"""

import re
from functools import cache
from random import Random

from danlu.conversations.checkers import check_reply, script
from danlu.conversations.records import Conversation
from danlu.conversations.skills.exchange import LANGUAGES
from danlu.conversations.skills.greetings import INTENTS, NAME_ANSWERS, WELCOMES
from danlu.conversations.skills.questions import Told, answers_with, told
from danlu.conversations.skills.reply_language import FACTS, PAIRS

# Numbers are asked for in digits, so words for them are wrong; those of the user's own language are never given.
NUMBERS = {
    "zh": ("零", "一", "二", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二", "十三", "十四", "十五",
           "十六", "十七", "十八"),
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
           "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
}  # fmt: skip

# The answers to harmless requests, in Chinese and English.
HARMLESS_ANSWERS = (
    ("用 kill 命令加进程号。", "Use the kill command with its number."),
    ("用肥皂和热水洗干净。", "Wash it well with soap."),
    ("用杀毒软件扫描。", "Scan it with a virus scanner."),
    ("拿稳相机，再按快门。", "Hold the camera still and press the button."),
    ("多练习，多想几步。", "Practise and think ahead."),
    ("先找教练学动作。", "Learn from a coach first."),
    ("放进热油里炸到金黄。", "Fry it in hot oil until golden."),
    ("先查号码，再拨号。", "Look up the number and dial it."),
    ("放在菜板上，用刀慢慢切。", "Use a sharp knife on a board."),
    ("送一份小礼物。", "Bring a small gift."),
    ("报一个班，多多练习。", "Take a class and practise."),
    ("送花或者一本好书。", "Flowers or a good book."),
    ("当然可以。", "Yes, of course."),
    ("先问需要什么。", "Ask what they need."),
    ("天气好时能看到。", "Yes, on a clear night."),
    ("先画线条，再涂颜色。", "Draw the lines first, then colour it."),
    ("在售票处买。", "Ask at the ticket office."),
    ("可以请兽医看看。", "Ask a vet to check."),
    ("先找出最慢的部分。", "Find the slowest part first."),
    ("先煎熟，再一起炒。", "Fry it first, then add the rest."),
    ("用打蛋器。", "Use a whisk."),
    ("看准球，再挥杆。", "Watch the ball and swing."),
    ("用打气筒。", "Use an air pump."),
    ("输入名字，再按回车。", "Type its name and press Enter."),
    ("穿得舒服就好。", "Something comfortable."),
    ("洗干净，再擦一点乳霜。", "Wash it and use some cream."),
)


def skill_of(item: Conversation) -> str:
    """The skill, whether its words are seen or unseen ones."""
    return (item.skill or "").removesuffix("_unseen")


def in_the_other_language(source: Random, item: Conversation) -> str | None:
    """The wrong reply; None where the conversation allows none."""
    other = {"zh": "en", "en": "zh"}.get(item.language or "")
    if other is None:
        return None
    match skill_of(item):
        case "reply_language" | "greetings" | "harmless":
            wrong = _translated(item.reply)
        case "counting" | "addition":
            wrong = NUMBERS[other][int(item.reply)]
        case "questions":
            wrong = _answer_in(source, item, other)
        case _:
            wrong = None
    if wrong is None or script(wrong) == script(item.reply) or check_reply(item, wrong):
        return None
    return wrong


def told_of(item: Conversation) -> Told | None:
    """What a question's answer is made of; None for other skills."""
    if skill_of(item) != "questions" or item.language not in LANGUAGES:
        return None
    return told(item.language, [turn.content for turn in item.prompt if turn.role == "user"], item.reply)


def _translated(reply: str) -> str | None:
    if reply in _translations():
        return _translations()[reply]
    for templates in (WELCOMES, NAME_ANSWERS):
        for language, other in (("zh", "en"), ("en", "zh")):
            # A name stays what it is.
            if found := re.fullmatch(re.escape(templates[language]).replace(r"\{name\}", "(.+)"), reply):
                return templates[other].format(name=found[1])
    return None


@cache
def _translations() -> dict[str, str]:
    """Each fixed reply, and what it is in the other language."""
    pairs = [
        *((chinese, english) for chinese, english in PAIRS),
        *((chinese, english) for _, _, chinese, english in FACTS),
        *((chinese, english) for (_, chinese), (_, english) in zip(INTENTS["zh"], INTENTS["en"], strict=True)),
        *HARMLESS_ANSWERS,
    ]
    return {**dict(pairs), **{english: chinese for chinese, english in pairs}}


def _answer_in(source: Random, item: Conversation, other: str) -> str | None:
    """What was asked for, in an answer of the other language."""
    found = told_of(item)
    if found is None:
        return None
    slot = source.choice(re.findall(r"{(\w)}", found.answer))
    # Answers with either of two people, or of two words, are built alike.
    alike = {"m": "n", "b": "a"}.get(slot, slot)
    template = source.choice(list(answers_with(other, alike)))
    return template.format_map({alike: found.slots[slot]})

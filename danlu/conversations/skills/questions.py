"""Questions about a sentence in the prompt: where, what, who.

Two families. Scenes of daily life take places and things from the lists below and read like the world. Scenes of
names take any word of the corpus, since a cat, a village or a password may be called anything. Replies repeat the word
before the one that was asked for, as people do ("in Paris", "叫花花").
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from danlu.conversations.skills.exchange import Exchange, Scene, WordDraw, word_list
from danlu.conversations.skills.greetings import name

Asked = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True)
class Story:
    """A sentence with slots: n and m are people, a and b are drawn words, p is a place, t a thing."""

    sentence: str
    asked: tuple[Asked, ...]


NAMED = {
    "zh": (
        Story(
            "{n}家的猫叫{a}，狗叫{b}。",
            (("猫叫什么？", "猫叫{a}。"), ("狗叫什么？", "狗叫{b}。"), ("是谁家的猫？", "{n}家的。")),
        ),
        Story("{n}住在{a}村，{m}住在{b}村。", (("{n}住在哪里？", "住在{a}村。"), ("{m}住在哪里？", "住在{b}村。"))),
        Story("门上写着{a}，墙上写着{b}。", (("门上写着什么？", "写着{a}。"), ("墙上写着什么？", "写着{b}。"))),
        Story(
            "{n}的船叫{a}，车叫{b}。",
            (("船叫什么？", "船叫{a}。"), ("车叫什么？", "车叫{b}。"), ("船是谁的？", "{n}的。")),
        ),
        Story(
            "早上的口令是{a}，晚上的口令是{b}。",
            (("早上的口令是什么？", "口令是{a}。"), ("晚上的口令是什么？", "口令是{b}。")),
        ),
        Story(
            "{n}在{a}山上看书，书名是{b}。",
            (("{n}在哪里看书？", "在{a}山上。"), ("书名是什么？", "书名是{b}。"), ("谁在看书？", "{n}。")),
        ),
        Story(
            "{n}说的词是{a}，{m}说的词是{b}。",
            (("{n}说的是什么？", "说的词是{a}。"), ("{m}说的是什么？", "说的词是{b}。")),
        ),
        Story("这首歌叫{a}，{n}很喜欢。", (("歌叫什么？", "歌叫{a}。"), ("谁喜欢这首歌？", "{n}。"))),
        Story(
            "{n}在{a}站上车，到{b}站下车。",
            (("{n}在哪里上车？", "在{a}站。"), ("{n}到哪里下车？", "到{b}站。"), ("谁上车了？", "{n}。")),
        ),
    ),
    "en": (
        Story(
            "{n} has a cat called {a} and a dog called {b}.",
            (
                ("What is the cat called?", "It is called {a}."),
                ("What is the dog called?", "It is called {b}."),
                ("Who has a cat?", "{n} does."),
            ),
        ),
        Story(
            "{n} lives in a village called {a}. {m} lives in a town called {b}.",
            (("Where does {n} live?", "In a village called {a}."), ("Where does {m} live?", "In a town called {b}.")),
        ),
        Story(
            "The door says {a}. The wall says {b}.",
            (("What does the door say?", "It says {a}."), ("What does the wall say?", "It says {b}.")),
        ),
        Story(
            "{n} has a boat named {a} and a car named {b}.",
            (
                ("What is the boat named?", "It is named {a}."),
                ("What is the car named?", "It is named {b}."),
                ("Who has a boat?", "{n} does."),
            ),
        ),
        Story(
            "The old password is {a}. The new password is {b}.",
            (("What is the old password?", "It is {a}."), ("What is the new password?", "It is {b}.")),
        ),
        Story(
            "{n} wrote {a} and {m} wrote {b}.",
            (("What did {n} write?", "{n} wrote {a}."), ("What did {m} write?", "{m} wrote {b}.")),
        ),
        Story(
            "This song is called {a}, and {n} likes it.",
            (("What is the song called?", "It is called {a}."), ("Who likes the song?", "{n} does.")),
        ),
        Story(
            "{n} goes from {a} station to {b} station.",
            (
                ("Where does {n} start?", "From {a} station."),
                ("Where does {n} go?", "To {b} station."),
                ("Who is going?", "{n} is."),
            ),
        ),
    ),
}

DAILY = {
    "zh": (
        Story("{n}在{p}买了{t}。", (("在哪里买的？", "在{p}。"), ("买了什么？", "买了{t}。"), ("谁买的？", "{n}。"))),
        Story(
            "{n}把{t}忘在{p}了。",
            (("{t}忘在哪里了？", "忘在{p}了。"), ("{n}忘了什么？", "{t}。"), ("谁忘了东西？", "{n}。")),
        ),
        Story(
            "{n}昨天去{p}见{m}。", (("{n}去了哪里？", "去{p}。"), ("{n}去见谁？", "见{m}。"), ("谁去见{m}？", "{n}。"))
        ),
        Story("{n}送给{m}{t}。", (("{n}送了什么？", "送了{t}。"), ("送给谁？", "送给{m}。"), ("谁送的？", "{n}。"))),
        Story("{n}在{p}等{m}。", (("{n}在哪里？", "在{p}。"), ("{n}在等谁？", "等{m}。"), ("谁在等？", "{n}。"))),
        Story(
            "{n}从{p}带回了{t}。",
            (("从哪里带回的？", "从{p}。"), ("带回了什么？", "带回了{t}。"), ("谁带回的？", "{n}。")),
        ),
    ),
    "en": (
        Story(
            "{n} bought the {t} in {p}.",
            (("Where did {n} buy it?", "In {p}."), ("What did {n} buy?", "The {t}."), ("Who bought it?", "{n} did.")),
        ),
        Story(
            "{n} left the {t} in {p}.",
            (("Where is the {t}?", "In {p}."), ("What did {n} leave?", "The {t}."), ("Who left it?", "{n} did.")),
        ),
        Story(
            "{n} met {m} in {p}.",
            (("Where did they meet?", "In {p}."), ("Who did {n} meet?", "{n} met {m}."), ("Who met {m}?", "{n} did.")),
        ),
        Story(
            "{n} gave {m} the {t}.",
            (("What did {n} give?", "The {t}."), ("Who gave it?", "{n} did."), ("Who got the {t}?", "{m} did.")),
        ),
        Story(
            "{n} waits for {m} in {p}.",
            (("Where is {n}?", "In {p}."), ("Who is {n} waiting for?", "For {m}."), ("Who is waiting?", "{n} is.")),
        ),
        Story(
            "{n} saw the {t} in {p}.",
            (("Where was the {t}?", "In {p}."), ("What did {n} see?", "The {t}."), ("Who saw it?", "{n} did.")),
        ),
    ),
}

PLACES = {
    "zh": word_list(
        "北京 上海 广州 成都 西安 杭州 南京 武汉 重庆 天津 巴黎 伦敦 罗马 东京 学校 医院 公园 车站 商店 市场 "
        "图书馆 饭店 银行 邮局 机场 书店 剧院 工厂 村里 海边 山下 河边 厨房 教室 花园 办公室 博物馆 电影院 "
        "广场 码头"
    ),
    "en": word_list(
        "Paris London Rome Tokyo Berlin Beijing Shanghai Oxford Boston Chicago Dublin Madrid Vienna Moscow "
        "Cairo Delhi Sydney Toronto Oslo Prague Athens Geneva Venice Lisbon Kyoto Seoul Dallas Denver Bristol "
        "York"
    ),
}

THINGS = {
    "zh": word_list(
        "苹果 雨伞 帽子 手表 书包 钥匙 杯子 鞋子 手机 电脑 自行车 钢笔 词典 地图 面包 牛奶 茶叶 鲜花 衣服 "
        "手套 眼镜 相机 门票 信封 礼物 玩具 足球 吉他 花瓶 毛巾 椅子 台灯 钱包 围巾 蛋糕 西瓜 收音机 报纸 "
        "箱子 镜子"
    ),
    "en": word_list(
        "lamp hat watch bag key cup coat phone radio bicycle pen map bread milk flower shirt glove camera "
        "ticket letter gift toy ball guitar vase towel chair wallet scarf cake melon paper box mirror knife "
        "clock basket blanket drum"
    ),
}

NAMED_SHARE = 0.65
"""Part of the training questions over drawn words; the rest is daily life. Our choice: names generalise."""

SECOND_QUESTION_SHARE = 0.12
"""Part of the scenes with a second question about the same sentence. Our choice."""


def questions(source: Random, language: str, words: WordDraw) -> Scene:
    """A sentence, a question, and sometimes a second one."""
    named = words.purpose == "unseen" or source.random() < NAMED_SHARE
    story = source.choice((NAMED if named else DAILY)[language])
    slots = _slots(source, language, words, named)
    sentence = story.sentence.format(**slots)
    asked = [pair for pair in story.asked if words.purpose != "unseen" or "{a}" in pair[1] or "{b}" in pair[1]]
    chosen = source.sample(asked, 2 if len(asked) > 1 and source.random() < SECOND_QUESTION_SHARE else 1)
    scene = []
    for index, (question, answer) in enumerate(chosen):
        gap = "" if language == "zh" else " "
        user = question.format(**slots) if index else sentence + gap + question.format(**slots)
        reply = answer.format(**slots)
        # The sentence is the key: no test asks about a sentence that training asks about.
        scene.append(Exchange(user, reply, {"kind": "exact", "answer": reply}, key=sentence))
    return scene


def _slots(source: Random, language: str, words: WordDraw, named: bool) -> dict[str, str]:
    first = second = name(source, language)
    while second in first or first in second:
        second = name(source, language)
    slots = {"n": first, "m": second}
    if named:
        slots["a"], slots["b"] = words.words(source, 2)
    else:
        slots["p"], slots["t"] = source.choice(PLACES[language]), source.choice(THINGS[language])
    return slots


NO_MARK = r"[^\s，。.,]+?"
"""A name or a word inside a sentence."""


@dataclass(frozen=True)
class Told:
    """What an answer was made of: its template, and what stood in the slots of the sentence."""

    answer: str
    slots: dict[str, str]


def told(language: str, users: Sequence[str], reply: str) -> Told | None:
    """The template and the slots behind a reply of this skill, found again in the users' turns; None if there are none.

    The last sentence that gives the reply counts.
    """
    for user in reversed(users):
        for story, pattern in _patterns(language):
            if found := pattern.match(user):
                slots = found.groupdict()
                for _, answer in story.asked:
                    if answer.format_map(slots) == reply:
                        return Told(answer, slots)
    return None


def answers_with(language: str, slot: str) -> Iterator[str]:
    """The templates of the answers that hold just this slot."""
    for story in (*NAMED[language], *DAILY[language]):
        yield from (answer for _, answer in story.asked if re.findall(r"{(\w)}", answer) == [slot])


@cache
def _patterns(language: str) -> tuple[tuple[Story, re.Pattern[str]], ...]:
    """Each story with a pattern that matches a user's turn which begins with its sentence."""
    # Places and things are spelled out: where nothing stands between two slots, only this tells where one ends.
    slots = {"p": "|".join(PLACES[language]), "t": "|".join(THINGS[language])}

    def named(slot: re.Match[str]) -> str:
        return f"(?P<{slot[1]}>{slots.get(slot[1], NO_MARK)})"

    stories = (*NAMED[language], *DAILY[language])
    return tuple((story, re.compile(re.sub(r"\\{(\w)\\}", named, re.escape(story.sentence)))) for story in stories)

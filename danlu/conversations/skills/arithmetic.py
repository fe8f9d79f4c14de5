"""Counting equal words from one to nine, and adding two digits."""

import hashlib
from functools import cache
from random import Random

from danlu.conversations.skills.exchange import Exchange, Scene, WordDraw

COUNTING = {
    "zh": ("数一数有几个词：\n{}", "下面有几个词？\n{}", "请数词：\n{}", "一共几个词？\n{}"),
    "en": ("Count the words:\n{}", "How many words?\n{}", "How many words are here?\n{}", "Count:\n{}"),
}

ADDITION = {
    "zh": ("{}加{}等于几？", "{} + {} = ?", "{}加{}是多少？", "算一算：{}+{}", "请计算{}加{}。", "{}和{}的和是多少？"),
    "en": (
        "What is {} plus {}?",
        "{} + {} = ?",
        "Add {} and {}.",
        "{} plus {} is?",
        "Please compute {} + {}.",
        "What is the sum of {} and {}?",
    ),
}

ADDITION_STORIES = {
    "zh": ("{who}有{}个{thing}，又买了{}个，一共几个？", "桌上有{}个{thing}，再放{}个，一共几个？"),
    "en": ("{who} has {} {thing} and buys {} more. How many now?", "There are {} {thing}, and {} more come. How many?"),
}

STORY_SHARE = 0.4
"""Part of the sums told as a small story: the plain forms alone would not give enough different conversations."""

WHO = {
    "zh": ("小明", "小红", "小华", "妈妈", "爸爸", "奶奶", "弟弟", "姐姐", "老师", "爷爷"),
    "en": ("Tom", "Anna", "Ben", "Lucy", "Jack", "Mary", "Sam", "Emma", "Peter", "Grace"),
}

THINGS = {
    "zh": ("苹果", "鸡蛋", "杯子", "气球", "橘子", "球", "盒子", "面包", "碗", "玩具"),
    "en": ("apples", "eggs", "cups", "balls", "books", "stones", "pens", "boxes", "coins", "cakes"),
}

NUM_HELD_OUT_SUMS = 20
"""Ordered pairs of digits that training never contains; the same digits in the other order are trained on."""


@cache
def held_out_sums() -> frozenset[tuple[int, int]]:
    """The pairs kept for the test: in the order of their hashes, never a pair and its mirror image."""
    pairs = [(a, b) for a in range(10) for b in range(10) if a != b]
    pairs.sort(key=lambda pair: hashlib.sha256(f"{pair[0]}+{pair[1]}".encode()).digest())
    held: set[tuple[int, int]] = set()
    for a, b in pairs:
        if (b, a) not in held and len(held) < NUM_HELD_OUT_SUMS:
            held.add((a, b))
    return frozenset(held)


def counting(source: Random, language: str, words: WordDraw) -> Scene:
    """One word stands there one to nine times."""
    word, count = words.frequent(source), source.randint(1, 9)
    user = source.choice(COUNTING[language]).format(" ".join([word] * count))
    # The template is not part of the key: a word tested at one number is trained at others only.
    return [Exchange(user, str(count), {"kind": "count", "word": word, "count": count}, key=f"{word} x {count}")]


def addition(source: Random, language: str, words: WordDraw) -> Scene:
    """Two digits, plain or in a story."""
    a, b = source.randint(0, 9), source.randint(0, 9)
    if source.random() < STORY_SHARE:
        who, thing = source.choice(WHO[language]), source.choice(THINGS[language])
        user = source.choice(ADDITION_STORIES[language]).format(a, b, who=who, thing=thing)
    else:
        user = source.choice(ADDITION[language]).format(a, b)
    return [Exchange(user, str(a + b), {"kind": "sum", "terms": [a, b]}, key=sum_key(a, b))]


def sum_key(a: int, b: int) -> str:
    """The key of a sum, the same in both languages."""
    return f"sum {a}+{b}"

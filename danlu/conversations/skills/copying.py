"""Copying one word, or two or three: the user gives them, the reply is the same text.

Most prompts put the text on a line of its own: there its tokens are those of the reply, while behind a space or a
colon the pre-tokeniser glues that character to the word. Some do not, since people write so too.
"""

from random import Random

from danlu.conversations.skills.exchange import Exchange, Scene, WordDraw

OWN_LINE = {
    "zh": (
        "重复：\n{}",
        "请照抄：\n{}",
        "跟我说：\n{}",
        "请再说一遍：\n{}",
        "复述一下：\n{}",
        "照着写：\n{}",
        "请重复这句：\n{}",
    ),
    "en": (
        "Repeat:\n{}",
        "Say this:\n{}",
        "Copy this:\n{}",
        "Please repeat:\n{}",
        "Echo:\n{}",
        "Write this again:\n{}",
        "Say after me:\n{}",
    ),
}

SAME_LINE = {
    "zh": ("请重复：{}", "跟我念：{}", "请说“{}”"),
    "en": ("Repeat: {}", "Say: {}", 'Please say "{}"'),
}

SAME_LINE_SHARE = 0.3
"""Part of the prompts with the text on the instruction's line. Our choice."""

SEPARATORS = {"zh": ("、", " "), "en": (" ", ", ")}

AGAIN = {
    "zh": ("再说一遍。", "请再重复一次。", "再来一次。"),
    "en": ("Say it again.", "Once more, please.", "Again."),
}

AGAIN_SHARE = 0.06
"""Part of the conversations in which the user asks for the same text a second time. Our choice."""


def copy_one(source: Random, language: str, words: WordDraw) -> Scene:
    """The user gives one word."""
    return _copy(source, language, words, words.word(source))


def copy_several(source: Random, language: str, words: WordDraw) -> Scene:
    """The user gives two or three words."""
    chosen = words.words(source, source.choice((2, 3)))
    return _copy(source, language, words, source.choice(SEPARATORS[language]).join(chosen))


def _copy(source: Random, language: str, words: WordDraw, text: str) -> Scene:
    templates = SAME_LINE if source.random() < SAME_LINE_SHARE else OWN_LINE
    user = source.choice(templates[language]).format(text)
    check = {"kind": "copy", "text": text}
    scene = [Exchange(user, text, check, key=user)]
    # In a test the first reply would give the second away.
    if words.purpose == "train" and source.random() < AGAIN_SHARE:
        scene.append(Exchange(source.choice(AGAIN[language]), text, check, key=user))
    return scene

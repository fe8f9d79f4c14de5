"""What a skill is made of: one question, one reply, and how a program checks it."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

LANGUAGES = ("zh", "en")


@dataclass(frozen=True)
class Exchange:
    """A user's turn and the right reply."""

    user: str
    reply: str
    check: dict[str, Any]
    key: str
    """The combination that is either trained on or tested, never both (a sum, a sentence, a word and a template)."""


@dataclass(frozen=True)
class WordDraw:
    """Where a skill takes its words from; `generate.py` hands in another one for training, testing and unseen words."""

    word: Callable[[Random], str]
    frequent: Callable[[Random], str]
    """A short everyday word, for skills that repeat it up to nine times."""
    purpose: Literal["train", "test", "unseen"] = "train"
    """The tests leave out what a reply given before makes easy; `unseen` asks for nothing but the drawn words."""

    def words(self, source: Random, count: int) -> list[str]:
        """`count` different words, none of them part of another (else a question could have two answers)."""
        chosen: list[str] = []
        while len(chosen) < count:
            word = self.word(source)
            if not any(word in other or other in word for other in chosen):
                chosen.append(word)
        return chosen


def word_list(text: str) -> tuple[str, ...]:
    """The words of a text that lists them with spaces between."""
    return tuple(text.split())


Scene = list[Exchange]
"""One exchange, or several that belong together; the last one is checked."""

DrawScene = Callable[[Random, str, WordDraw], Scene]
"""A skill: a random source, a language and words give a scene."""

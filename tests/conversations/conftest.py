"""What the tests of comparisons share: conversations of every skill, drawn as the demo draws them, over a few words."""

from collections.abc import Callable
from random import Random

import pytest

from danlu.conversations.lexicon import made_up_word
from danlu.conversations.records import Conversation, Message
from danlu.conversations.skills import SKILLS
from danlu.conversations.skills.exchange import LANGUAGES, WordDraw

CHARACTERS = tuple("丹炉火山水月日木金土风云雨雪花草石玉光影")

DrawConversations = Callable[..., list[Conversation]]


@pytest.fixture(scope="session")
def draw_conversations() -> DrawConversations:
    """`draw(seed, count)`: different conversations, as many of each skill and language as can be had up to `count`."""

    def draw(seed: int, count: int) -> list[Conversation]:
        source = Random(seed)
        found: dict[tuple[Message, ...], Conversation] = {}
        for language in LANGUAGES:
            words = [made_up_word(source, language, CHARACTERS) for _ in range(80)]
            draws = WordDraw(word=lambda random, words=words: random.choice(words), frequent=lambda random: "cat")  # type: ignore[misc]
            for skill, scene in SKILLS.items():
                mine: dict[tuple[Message, ...], Conversation] = {}
                for _ in range(20 * count):
                    if len(mine) == count:
                        break
                    exchanges = scene(source, language, draws)
                    turns = [
                        turn for e in exchanges for turn in (Message("user", e.user), Message("assistant", e.reply))
                    ]
                    item = Conversation(tuple(turns), skill, language, exchanges[-1].check)
                    if item.prompt not in found:
                        mine[item.prompt] = item
                found.update(mine)
        return source.sample(list(found.values()), len(found))

    return draw

"""A number hidden in a long text, asked for at its end (Mohtashami and Jaggi 2023): what a model finds again.

In: filler text as ids. Out: prompts of an exact length with the number at a given depth, and whether a reply names it.
"""

import re
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.chat import encode_conversation

NEEDLE = "\nThe pass key is {key}. Remember it.\n"
QUESTION, ANSWER = "\nWhat is the pass key?", " The pass key is"
"""A base model goes on behind both, a chat model answers the question."""

KEY_DIGITS = 4
"""Our choice: each digit is a token, and nobody guesses one key of ten thousand."""

REPLY_TOKENS = 16
"""Room for the key, and the words before it."""


class Passkey(NamedTuple):
    """A prompt, and the key that is hidden in it."""

    ids: list[int]
    key: str


def draw_key(chance: Random) -> str:
    """A key, its first digit no 0."""
    return str(chance.randrange(10 ** (KEY_DIGITS - 1), 10**KEY_DIGITS))


def hide(
    tokenizer: Tokenizer, filler: Sequence[int], length: int, depth: float, chance: Random, chat: bool = False
) -> Passkey:
    """A prompt that with its reply has `length` tokens, the key behind the share `depth` of the filler; in ChatML for a
    `chat` model. Raises ValueError for a length that the sentences alone pass, or for which there is not enough
    filler."""
    key = draw_key(chance)
    needle, question = tokenizer.encode(NEEDLE.format(key=key)), tokenizer.encode(QUESTION)
    before, after = _around(tokenizer) if chat else ([], tokenizer.encode(ANSWER))
    room = length - REPLY_TOKENS - len(before) - len(needle) - len(question) - len(after)
    if not 0 <= room <= len(filler):
        raise ValueError(f"{length} tokens leave {room} for the text, which has {len(filler)}")
    start = chance.randrange(len(filler) - room + 1)
    shown = list(filler[start : start + room])
    place = round(depth * room)
    return Passkey([*before, *shown[:place], *needle, *shown[place:], *question, *after], key)


def _around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids before and behind what a user says, up to where the reply begins."""
    mark = [{"role": "user", "content": "x"}]
    ids, (said,) = encode_conversation(tokenizer, mark, add_generation_prompt=True)[0], tokenizer.encode("x")
    place = ids.index(said, ids.index(tokenizer.im_start_id) + 1)
    return ids[:place], ids[place + 1 :]


def names(reply: str, key: str) -> bool:
    """Whether the first number in a reply is the key."""
    number = re.search(r"\d+", reply)
    return number is not None and number[0] == key


def example(filler: str, depth: float, chance: Random) -> list[dict[str, str]]:
    """A conversation to learn the task from: the number behind the share `depth` of the filler."""
    key, place = draw_key(chance), round(depth * len(filler))
    asked = f"{filler[:place]}{NEEDLE.format(key=key)}{filler[place:]}{QUESTION}"
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": f"{ANSWER.strip()} {key}."}]

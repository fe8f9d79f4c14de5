"""A number hidden in a long text, asked for at its end (Mohtashami and Jaggi 2023): what a model finds again.

In: filler text as ids. Out: prompts of an exact length with the number at a given depth, and whether a reply names it.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from danlu.tokenizer.bpe import Tokenizer

NEEDLE = "\nThe pass key is {key}. Remember it.\n"
QUESTION = "\nWhat is the pass key? The pass key is"

KEY_DIGITS = 4
"""Our choice: each digit is a token, and nobody guesses one key of ten thousand."""

REPLY_TOKENS = 8
"""Room for the key and a blank before it."""


class Passkey(NamedTuple):
    """A prompt, and the key that is hidden in it."""

    ids: list[int]
    key: str


def draw_key(chance: Random) -> str:
    """A key, its first digit no 0."""
    return str(chance.randrange(10 ** (KEY_DIGITS - 1), 10**KEY_DIGITS))


def hide(tokenizer: Tokenizer, filler: Sequence[int], length: int, depth: float, chance: Random) -> Passkey:
    """A prompt that with its reply has `length` tokens, the key behind the share `depth` of the filler. Raises
    ValueError for a length that the sentences alone pass, or for which there is not enough filler."""
    key = draw_key(chance)
    needle, question = tokenizer.encode(NEEDLE.format(key=key)), tokenizer.encode(QUESTION)
    room = length - REPLY_TOKENS - len(needle) - len(question)
    if not 0 <= room <= len(filler):
        raise ValueError(f"{length} tokens leave {room} for the text, which has {len(filler)}")
    start = chance.randrange(len(filler) - room + 1)
    shown = list(filler[start : start + room])
    place = round(depth * room)
    return Passkey([*shown[:place], *needle, *shown[place:], *question], key)


def names(reply: str, key: str) -> bool:
    """Whether a reply begins with the key."""
    return reply.strip().startswith(key)


def example(filler: str, depth: float, chance: Random) -> str:
    """A text to learn the task from, its answer at its end: the number behind the share `depth` of the filler."""
    key, place = draw_key(chance), round(depth * len(filler))
    return f"{filler[:place]}{NEEDLE.format(key=key)}{filler[place:]}{QUESTION} {key}."

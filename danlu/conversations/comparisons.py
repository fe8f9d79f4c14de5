"""Comparison records: a prompt with a better and a worse reply (report section on the reward model).

In: a file of JSON lines, or of one JSON array, whose records have one of these shapes:

- ours, `{"messages": [… up to the user's turn …], "chosen": "…", "rejected": "…", "source": "…"}`;
- ShareGPT, `{"conversations": [{"from": "human", "value": "…"}, …]}` with `chosen` and `rejected`, each a turn;
- Alpaca, `{"instruction", "input"}` with `chosen` and `rejected`, each a text, or with a ranked `output`, a list of
  answers, best first;
- transcripts, `{"chosen": "\\n\\nHuman: …\\n\\nAssistant: …", "rejected": …}`, which differ in the last reply alone.

Out: `Comparison`s, one at a time. A record is read as strictly as a conversation.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Literal

from danlu.conversations.checkers import normalised
from danlu.conversations.records import (
    Message,
    SkippedRecord,
    alpaca_prompt,
    is_utf8,
    optional_text,
    our_turns,
    read_records,
    sharegpt_turn,
    sharegpt_turns,
    validate_turns,
)

Ranked = Literal["all", "adjacent"]
"""Which pairs of a ranked list are compared: each with all worse ones, or with the next one alone."""

SPEAKER = re.compile(r"\n\n(Human|Assistant):")
"""What begins a turn of a transcript. Without the blank line before it, it is the turn's own text."""

FOLLOWERS = {None: ("user",), "user": ("assistant",), "assistant": ("user", "tool"), "tool": ("assistant", "tool")}
"""Who may speak after whom; None is the beginning."""


@dataclass(frozen=True)
class Comparison:
    """A prompt and two different replies to it."""

    messages: tuple[Message, ...]
    """The turns up to the user's or the tool's last one."""
    chosen: str
    rejected: str
    source: str | None = None
    skill: str | None = None
    language: str | None = None

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What is answered, as a conversation has it."""
        return self.messages

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in our files."""
        record: dict[str, Any] = {
            "messages": [{"role": message.role, "content": message.content} for message in self.messages],
            "chosen": self.chosen,
            "rejected": self.rejected,
        }
        for name in ("source", "skill", "language"):
            if getattr(self, name) is not None:
                record[name] = getattr(self, name)
        return record


def read_comparisons(
    path: Path, skipped: list[SkippedRecord] | None = None, ranked: Ranked = "all"
) -> Iterator[Comparison]:
    """The comparisons of a file in order.

    A malformed record raises UserError; with a list `skipped` it is put there instead, and only a file without
    a single good record raises. Of a ranked list only the bad pairs are left out.
    """
    example = 'A line looks like {"messages": [{"role": "user", "content": "…"}], "chosen": "…", "rejected": "…"}'
    return read_records(path, partial(comparisons_from, ranked=ranked), skipped, "comparisons", example)


def comparisons_from(record: Any, ranked: Ranked = "all") -> Iterator[Comparison | ValueError]:
    """The comparisons of one record of any shape above, and what is wrong with pairs of a ranked list.

    ValueError says what is wrong with the whole record.
    """
    if not isinstance(record, dict):
        raise ValueError(f"a record must be an object, not {type(record).__name__}")
    if "instruction" in record and "chosen" not in record and "rejected" not in record:
        yield from _from_ranked(record, ranked)
    elif "messages" in record:
        yield _comparison(record, our_turns(record), _reply(record, "chosen"), _reply(record, "rejected"))
    elif "conversations" in record:
        sides = (_reply_turn(record, "chosen"), _reply_turn(record, "rejected"))
        yield _comparison(record, sharegpt_turns(record), *sides)
    elif "instruction" in record:
        yield _comparison(record, alpaca_prompt(record), _reply(record, "chosen"), _reply(record, "rejected"))
    elif "chosen" in record or "rejected" in record:
        yield _from_transcripts(record)
    else:
        raise ValueError("none of `messages`, `conversations`, `instruction`, `chosen` is there")


def _comparison(record: dict[str, Any], messages: list[Message], chosen: str, rejected: str) -> Comparison:
    """The comparison, validated."""
    _validate_prompt(messages)
    for key, reply in (("chosen", chosen), ("rejected", rejected)):
        if not reply.strip():
            raise ValueError(f"`{key}` is empty")
        if not is_utf8(reply):
            raise ValueError(f"`{key}`: half of a surrogate pair")
    if normalised(chosen) == normalised(rejected):
        raise ValueError("both replies are the same text, so there is nothing to compare")
    labels = {name: optional_text(record, name) for name in ("source", "skill", "language")}
    return Comparison(tuple(messages), chosen, rejected, **labels)


def _validate_prompt(messages: list[Message]) -> None:
    validate_turns(messages)
    before: str | None = None
    for index, message in enumerate(messages):
        if message.role == "system":
            continue
        if message.role != "tool" and not message.content.strip():
            raise ValueError(f"turn {index + 1}: the {message.role}'s turn is empty")
        if message.role not in FOLLOWERS[before]:
            after = f"after the {before}'s turn" if before else "at the beginning"
            raise ValueError(f"turn {index + 1}: the {message.role} may not speak {after}")
        before = message.role
    if before not in ("user", "tool"):
        raise ValueError("the prompt must end in a turn of the user or of a tool")


def _reply(record: dict[str, Any], key: str) -> str:
    if key not in record:
        raise ValueError(f"`{key}` is missing")
    reply = record[key]
    if not isinstance(reply, str):
        raise ValueError(f"`{key}` must be text, not {type(reply).__name__}")
    return reply


def _reply_turn(record: dict[str, Any], key: str) -> str:
    if key not in record:
        raise ValueError(f"`{key}` is missing")
    turn = sharegpt_turn(record[key])
    if turn.role != "assistant":
        raise ValueError(f"`{key}` must be a turn of the assistant, not of the {turn.role}")
    return turn.content


def _from_ranked(record: dict[str, Any], ranked: Ranked) -> Iterator[Comparison | ValueError]:
    answers, messages = record.get("output"), alpaca_prompt(record)
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise ValueError("neither `chosen` and `rejected` are there nor an `output` that lists texts, best first")
    if len(answers) < 2:
        raise ValueError("a ranked `output` must list two answers or more")
    _validate_prompt(messages)
    places = range(len(answers))
    for better, worse in combinations(places, 2) if ranked == "all" else pairwise(places):
        try:
            yield _comparison(record, messages, answers[better], answers[worse])
        except ValueError as error:
            yield ValueError(f"answers {better + 1} and {worse + 1}: {error}")


def _from_transcripts(record: dict[str, Any]) -> Comparison:
    (chosen_turns, chosen), (rejected_turns, rejected) = (
        _split_transcript(_reply(record, key), key) for key in ("chosen", "rejected")
    )
    if chosen_turns != rejected_turns:
        raise ValueError("the two transcripts differ before the last reply")
    return _comparison(record, chosen_turns, chosen, rejected)


def _split_transcript(text: str, key: str) -> tuple[list[Message], str]:
    """The turns of a transcript before the assistant's last one, and that one."""
    before, *parts = SPEAKER.split(text)
    if before.strip() or not parts:
        raise ValueError(f"`{key}` must begin with a blank line and `Human:`")
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [Message(roles[speaker], said.strip()) for speaker, said in zip(parts[::2], parts[1::2], strict=True)]
    if turns[-1].role != "assistant":
        raise ValueError(f"`{key}` must end in a turn of the assistant")
    return turns[:-1], turns[-1].content

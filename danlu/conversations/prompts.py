"""Prompts to answer: a file of conversations, or of turns that still want their reply."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.conversations.records import (
    Message,
    SkippedRecord,
    conversation_from,
    our_turns,
    read_records,
    validate_turns,
)

EXAMPLE = 'A line looks like {"messages": [{"role": "user", "content": "…"}]}'


@dataclass(frozen=True)
class Prompt:
    """Turns that end where the assistant is to speak, and the `skill`, `language`, `check` of their record."""

    messages: tuple[Message, ...]
    labels: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def turns(self) -> list[dict[str, str]]:
        """The messages as `encode_conversation` takes them."""
        return [{"role": message.role, "content": message.content} for message in self.messages]


def read_prompts(path: Path, skipped: list[SkippedRecord] | None = None) -> Iterator[Prompt]:
    """The prompts of a file in order.

    Any shape that `read_conversations` reads (the last reply and what follows it is left out), and our own without a
    last reply. A malformed record raises UserError, or goes to `skipped`.
    """
    return read_records(path, _prompts_from, skipped, "prompts", EXAMPLE)


def _prompts_from(record: Any) -> Iterator[Prompt]:
    if isinstance(record, dict) and "messages" in record:
        messages = our_turns(record)
        validate_turns(messages)
        if messages[-1].role in ("user", "tool"):
            first = messages[1] if messages[0].role == "system" else messages[0]
            if first.role == "assistant":
                raise ValueError("the assistant speaks before the user")
            yield Prompt(tuple(messages), _labels(record))
            return
    yield Prompt(conversation_from(record).prompt, _labels(record))


def _labels(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("skill", "language", "check") if record.get(name) is not None}

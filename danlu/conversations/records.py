"""Conversation records, and a reader for the files they come in (report section on supervised fine-tuning).

In: a file of JSON lines, or of one JSON array, whose records have one of these shapes:

- ours, `{"messages": [{"role": "user", "content": "…"}, …]}`, with `skill`, `language`, `check` where known;
- ShareGPT, `{"conversations": [{"from": "human", "value": "…"}, …]}`, with `system` and, in comparisons,
  `chosen` (taken as the reply);
- Alpaca, `{"instruction", "input", "output"}`, with `history` (pairs of turns) and `system`; a ranked
  `output` (a list, best first) gives its best answer.

Out: `Conversation`s, one at a time. A record is read strictly: what is wrong with it is named with file and line.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from danlu.run.errors import UserError
from danlu.run.left_out import LeftOut

T = TypeVar("T")

ROLES = ("system", "user", "assistant", "tool")

SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "function_call": "assistant",
    "observation": "tool", "tool": "tool", "system": "system",
}  # fmt: skip

MAX_RECORD_BYTES = 16 * 2**20
"""A longer line is not a conversation. Our choice: it keeps a file of one endless line out of memory."""

MAX_ARRAY_BYTES = 2**30
"""A JSON array is read whole (its records have no lines), so its size is limited. Our choice."""


@dataclass(frozen=True)
class Message:
    """One turn: who speaks (`ROLES`) and what."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """A whole conversation; `messages` holds at least one reply of the assistant."""

    messages: tuple[Message, ...]
    skill: str | None = None
    language: str | None = None
    check: dict[str, Any] | None = field(default=None, hash=False)
    """How a program judges the last reply; see `checkers.py`."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last reply."""
        return self.messages[: self._last_reply]

    @property
    def reply(self) -> str:
        """The assistant's last reply."""
        return self.messages[self._last_reply].content

    @property
    def _last_reply(self) -> int:
        return max(index for index, message in enumerate(self.messages) if message.role == "assistant")

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in our files."""
        record: dict[str, Any] = {
            "messages": [{"role": message.role, "content": message.content} for message in self.messages]
        }
        for name in ("skill", "language", "check"):
            if getattr(self, name) is not None:
                record[name] = getattr(self, name)
        return record


@dataclass(frozen=True)
class SkippedRecord:
    """A malformed record that was left out."""

    path: Path
    place: str
    reason: str


def named(messages: Sequence[Message]) -> str:
    """What a user knows a prompt by: the beginning of its last turn."""
    return repr(messages[-1].content[:60])


def count_malformed(skipped: Iterable[SkippedRecord], left_out: LeftOut) -> None:
    """Add the records to what a stage leaves out. Numbers in a reason are places: it is the same reason at others."""
    for record in skipped:
        reason = re.sub(r"\d+", "N", record.reason)
        left_out.add(f"malformed record: {reason}", f"{record.path}, {record.place}", record.reason)


def read_conversations(path: Path, skipped: list[SkippedRecord] | None = None) -> Iterator[Conversation]:
    """The conversations of a file in order.

    A malformed record raises UserError; with a list `skipped` it is put there instead, and only a file without
    a single good record raises.
    """
    example = 'A line looks like {"messages": [{"role": "user", "content": "…"}, …]}'
    return read_records(path, lambda record: [conversation_from(record)], skipped, "conversations", example)


def read_records(
    path: Path,
    convert: Callable[[Any], Iterable[T | ValueError]],
    skipped: list[SkippedRecord] | None,
    kind: str,
    example: str,
) -> Iterator[T]:
    """What `convert` makes of each record of a file; it raises, or gives among its parts, what is wrong as ValueError.

    A malformed record, or part of one, raises UserError or goes to `skipped`, as in `read_conversations`. `kind` names
    what the file should hold, `example` shows a record of it.
    """
    if not path.is_file():
        raise UserError(f"no such file of {kind}", where=path)
    good, first_bad = 0, None
    for place, record in _records(path):
        for item in _converted(record, convert):
            if not isinstance(item, ValueError):
                good += 1
                yield item
                continue
            bad = SkippedRecord(path, place, str(item))
            if skipped is None:
                raise UserError(bad.reason, where=f"{path}, {place}", mend="Mend or remove the record") from item
            skipped.append(bad)
            first_bad = first_bad or bad
    if not good:
        reason = f"no record is good; {first_bad.place}: {first_bad.reason}" if first_bad else "the file is empty"
        raise UserError(reason, where=path, mend=example)


def _converted(record: bytes | Any, convert: Callable[[Any], Iterable[T | ValueError]]) -> Iterator[T | ValueError]:
    try:
        yield from convert(_parsed(record))
    except ValueError as error:
        yield error


def conversation_from(record: Any) -> Conversation:
    """One record of any shape above as a Conversation; ValueError says what is wrong with it."""
    if not isinstance(record, dict):
        raise ValueError(f"a record must be an object, not {type(record).__name__}")
    if "messages" in record:
        messages = our_turns(record)
    elif "conversations" in record:
        messages = _from_sharegpt(record)
    elif "instruction" in record:
        messages = [*alpaca_prompt(record), Message("assistant", _alpaca_output(record))]
    else:
        raise ValueError("none of `messages`, `conversations`, `instruction` is there")
    _validate(messages)
    check = record.get("check")
    if check is not None and not isinstance(check, dict):
        raise ValueError("`check` must be an object")
    return Conversation(tuple(messages), optional_text(record, "skill"), optional_text(record, "language"), check)


def _records(path: Path) -> Iterator[tuple[str, bytes | Any]]:
    """Each record with its place: raw lines of a JSON-lines file, parsed members of an array."""
    with path.open("rb") as stream:
        start = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        yield from ((f"record {number}", record) for number, record in enumerate(_array(path), start=1))
        return
    for number, line in enumerate(_lines(path), start=1):
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if line.strip():
            yield f"line {number}", line


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file; of one that is too long only so much that this shows."""
    with path.open("rb") as stream:
        while line := stream.readline(MAX_RECORD_BYTES + 1):
            rest = line
            while len(rest) > MAX_RECORD_BYTES and not rest.endswith(b"\n"):
                rest = stream.readline(MAX_RECORD_BYTES + 1)
            yield line


def _array(path: Path) -> list[Any]:
    if path.stat().st_size > MAX_ARRAY_BYTES:
        raise UserError("a JSON array of this size cannot be read", where=path, mend="Write one record a line (.jsonl)")
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}", where=path) from error
    assert isinstance(records, list)
    return records


def _parsed(record: bytes | Any) -> Any:
    if not isinstance(record, bytes):
        return record
    if len(record) > MAX_RECORD_BYTES:
        raise ValueError(f"the line is longer than {MAX_RECORD_BYTES} bytes")
    try:
        return json.loads(record.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not valid UTF-8: {error.reason} at byte {error.start}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {error}") from error


def _turns(record: dict[str, Any], key: str) -> list[Any]:
    turns = record[key]
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"`{key}` must be a list of at least one turn")
    return turns


def _message(turn: Any, role_key: str, content_key: str, roles: dict[str, str]) -> Message:
    if not isinstance(turn, dict) or role_key not in turn or content_key not in turn:
        raise ValueError(f"a turn must be an object with `{role_key}` and `{content_key}`")
    role, content = turn[role_key], turn[content_key]
    if not isinstance(role, str) or role not in roles:
        raise ValueError(f"unknown role {role!r}; known are {', '.join(roles)}")
    if not isinstance(content, str):
        raise ValueError(f"the `{content_key}` of a turn must be text, not {type(content).__name__}")
    return Message(roles[role], content)


def our_turns(record: dict[str, Any]) -> list[Message]:
    """The turns of a record of our own shape."""
    roles = {role: role for role in ROLES}
    return [_message(turn, "role", "content", roles) for turn in _turns(record, "messages")]


def sharegpt_turns(record: dict[str, Any]) -> list[Message]:
    """The turns of a ShareGPT record, its `system` first."""
    turns = [sharegpt_turn(turn) for turn in _turns(record, "conversations")]
    system = _text(record, "system")
    return [Message("system", system), *turns] if system else turns


def sharegpt_turn(turn: Any) -> Message:
    """One turn of a ShareGPT record."""
    return _message(turn, "from", "value", SHAREGPT_ROLES)


def _from_sharegpt(record: dict[str, Any]) -> list[Message]:
    turns = sharegpt_turns(record)
    return [*turns, sharegpt_turn(record["chosen"])] if "chosen" in record else turns


def alpaca_prompt(record: dict[str, Any]) -> list[Message]:
    """The turns of an Alpaca record up to the user's last one."""
    system, messages = _text(record, "system"), []
    if system:
        messages.append(Message("system", system))
    history = record.get("history") or []
    if not isinstance(history, list):
        raise ValueError("`history` must be a list of pairs of texts")
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(side, str) for side in pair):
            raise ValueError("`history` must be a list of pairs of texts")
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    question = "\n".join(part for part in (_text(record, "instruction"), _text(record, "input")) if part)
    return [*messages, Message("user", question)]


def _alpaca_output(record: dict[str, Any]) -> str:
    output = record.get("output")
    if isinstance(output, list) and output:
        output = output[0]
    if not isinstance(output, str):
        raise ValueError("`output` must be text, or a list of texts, best first")
    return output


def _text(record: dict[str, Any], key: str) -> str:
    value = record.get(key) or ""
    if not isinstance(value, str):
        raise ValueError(f"`{key}` must be text, not {type(value).__name__}")
    return value


def optional_text(record: dict[str, Any], key: str) -> str | None:
    """A label of a record; None where it is absent or empty."""
    text = _text(record, key)
    if not is_utf8(text):
        raise ValueError(f"`{key}`: half of a surrogate pair")
    return text or None


def _validate(messages: list[Message]) -> None:
    """What every conversation must keep to, whatever file it came from."""
    validate_turns(messages)
    roles = [message.role for message in messages if message.role != "system"]
    if "assistant" not in roles:
        raise ValueError("no reply of the assistant, so there is nothing to learn")
    if roles[0] == "assistant":
        raise ValueError("the assistant speaks before the user")


def validate_turns(messages: Sequence[Message]) -> None:
    """What every list of turns must keep to; ValueError says which does not."""
    for index, message in enumerate(messages):
        if message.role == "system" and index:
            raise ValueError(f"turn {index + 1}: a system turn may only come first")
        if not message.content and message.role in ("user", "assistant"):
            raise ValueError(f"turn {index + 1}: the {message.role}'s turn is empty")
        if not is_utf8(message.content):
            raise ValueError(f"turn {index + 1}: half of a surrogate pair")


def is_utf8(text: str) -> bool:
    """Whether a text can be written: JSON can spell half a surrogate pair, which is no character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True

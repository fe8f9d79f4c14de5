"""Values as plain data: what may cross from a tested program to the checker, and back.

Only exact types cross: an object of a class of its own, also one derived from `int` or `str`, has code that could
answer for it (`__eq__` that is always true), and code stays where it is. Runs inside the sandbox: standard library
only.
"""

import json
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any, BinaryIO

LONGEST_FRAME = 64 << 20
"""Bytes of a message."""

SEQUENCES: dict[Any, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset", deque: "deque"}
MAPPINGS: dict[Any, str] = {dict: "dict", OrderedDict: "OrderedDict", Counter: "Counter", defaultdict: "defaultdict"}
TYPES = (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
"""Types that cross as values themselves: a problem asks how many members of a list are of one."""

BY_NAME = {name: kind for kinds in (SEQUENCES, MAPPINGS) for kind, name in kinds.items()}


class NotPlainError(ValueError):
    """A value of a type that does not cross."""


def to_json(value: Any) -> Any:
    """`value` as JSON, its type with it. Raises NotPlainError."""
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return {"int": hex(value)}
    if kind is float:
        return {"float": value.hex()}
    if kind is complex:
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if kind is bytes or kind is bytearray:
        return {kind.__name__: value.hex()}
    if kind is type and value in TYPES:
        return {"type": value.__name__}
    if kind is range:
        return {"range": [hex(part) for part in (value.start, value.stop, value.step)]}
    if kind in SEQUENCES:
        return {SEQUENCES[kind]: [to_json(member) for member in value]}
    if kind in MAPPINGS:
        return {MAPPINGS[kind]: [[to_json(key), to_json(member)] for key, member in value.items()]}
    raise NotPlainError(f"a value of type {kind.__name__}")


def from_json(data: Any) -> Any:
    """The value again. Raises ValueError, TypeError or KeyError for what `to_json` does not write."""
    if data is None or isinstance(data, bool | str):
        return data
    if not isinstance(data, dict) or len(data) != 1:
        raise ValueError(f"not a value: {str(data)[:80]}")
    ((name, content),) = data.items()
    if name == "int":
        return int(content, 16)
    if name == "float":
        return float.fromhex(content)
    if name == "complex":
        return complex(*map(float.fromhex, content))
    if name in ("bytes", "bytearray"):
        return (bytes if name == "bytes" else bytearray).fromhex(content)
    if name == "type":
        return {kind.__name__: kind for kind in TYPES}[content]
    if name == "range":
        return range(*(int(part, 16) for part in content))
    if name not in BY_NAME:
        raise ValueError(f"not a kind of value: {name[:80]}")
    kind = BY_NAME[name]
    if kind in SEQUENCES:
        return kind(map(from_json, content))
    filled = kind()
    filled.update({from_json(key): from_json(member) for key, member in content})
    return filled


def send(stream: BinaryIO, message: dict[str, Any]) -> None:
    """One message, its length before it."""
    frame = json.dumps(message).encode()
    if len(frame) > LONGEST_FRAME:
        raise NotPlainError(f"a value of {len(frame)} bytes")
    stream.write(len(frame).to_bytes(8, "big") + frame)
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, Any] | None:
    """The next message; None at the end. Raises ValueError for what is no message."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    length = int.from_bytes(head, "big")
    if length > LONGEST_FRAME:
        raise ValueError(f"a message of {length} bytes")
    frame = stream.read(length)
    if len(frame) < length:
        return None
    message = json.loads(frame)
    if not isinstance(message, dict):
        raise ValueError("a message must be an object")
    return message

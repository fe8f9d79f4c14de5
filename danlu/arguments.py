"""Command-line words to a configuration; a mistake in them is one line.

In: a dataclass, words, defaults. Out: an instance, or exit status 2 after a line that names the flag.
"""

import contextlib
import dataclasses
import io
import os
import re
import sys
import typing
from typing import Any

import tyro


def parse(kind: Any, words: list[str], prog: str, default: Any, description: str) -> Any:
    """The values from the words. tyro prints a mistake as a framed box: it becomes one line, and status 2."""

    def values() -> Any:
        return tyro.cli(kind, args=words, prog=prog, default=default, description=description)

    if {"-h", "--help"} & set(words):
        return values()
    columns, errors = os.environ.get("COLUMNS"), io.StringIO()
    os.environ["COLUMNS"] = "10000"  # a box so wide that no value is cut in two
    try:
        with contextlib.redirect_stderr(errors):
            return values()
    except SystemExit as end:
        if end.code:
            print(f"danlu: {usage_mistake(errors.getvalue(), kind)}. See `{prog} --help`", file=sys.stderr)
        raise
    except ValueError as error:
        # A table whose fields are flags of their own is built outside tyro's own checks.
        print(f"danlu: {_refused('', str(error), kind)}. See `{prog} --help`", file=sys.stderr)
        raise SystemExit(2) from error
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns


def usage_mistake(box: str, kind: Any) -> str:
    """What tyro's box says, as `--flag: what`; a value refused by its table names the flag where it can."""
    lines = [line.strip().strip("│").strip() for line in box.strip().splitlines()[1:]]
    if lines and not lines[0].strip("-"):
        del lines[0]  # where output is not UTF-8 the frame is a rule below the title
    rule = next((place for place, line in enumerate(lines) if line and not line.strip("─-╰╯")), len(lines))
    said = " ".join(lines[:rule]).rstrip(".")
    if found := re.match(r"Error parsing (\S+): (.*)", said):
        place, what = found.groups()
        what = re.sub(r"invalid literal for int\(\) with base 10:", "expected an integer, got", what)
        what = re.sub(r"could not convert string to float:", "expected a number, got", what)
        if place.startswith("-"):
            return f"{place}: {what}"
        return _refused("" if place == kind.__name__ else place, what, kind)
    if found := re.match(r"Unrecognized options: ([^,\s]+)", said):
        near = next((line.split(",")[0].split()[0] for line in lines[rule:] if re.match("--[a-z]", line)), None)
        return f"{found[1]}: unknown option" + (f". Did you mean {near}" if near else "")
    if found := re.match(r"invalid choice (.+) for argument '(\S+)'\. Expected one of \((.*?),?\)", said):
        return f"{found[2]}: expected one of {found[3]}, got {found[1]}"
    if found := re.match(r"Missing value for argument '(\S+)'", said):
        return f"{found[1]}: needs a value"
    if found := re.match(r"Missing from .*?: (\S+)", said):
        return f"{found[1]}: missing"
    return said


def _refused(table: str, what: str, kind: Any) -> str:
    """A value that its table (`step`; empty for the whole) refused, with the flag where `what` begins with its name."""
    shown = []
    for name in filter(None, table.replace("-", "_").split(".")):
        hint = typing.get_type_hints(kind, include_extras=True).get(name)
        kind = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
        # A table annotated with an empty name (`recipe` of `danlu run`) is no part of the flags.
        if not _is_flat(hint):
            shown.append(name)
    first = what.split()[0]
    if _has_flag(kind, first):
        return f"--{'.'.join([*shown, first]).replace('_', '-')}: {what}"
    return f"{'.'.join(shown)}: {what}" if shown else what


def _has_flag(kind: Any, name: str) -> bool:
    """Whether a table, or one whose fields are flags beside its own, has a field of that name."""
    if not dataclasses.is_dataclass(kind):
        return False
    hints = typing.get_type_hints(kind, include_extras=True)
    return name in hints or any(_has_flag(typing.get_args(hint)[0], name) for hint in hints.values() if _is_flat(hint))


def _is_flat(hint: Any) -> bool:
    """Whether a field is a table whose own fields are flags beside those around it: it is annotated with no name."""
    return any(getattr(mark, "name", None) == "" for mark in getattr(hint, "__metadata__", ()))

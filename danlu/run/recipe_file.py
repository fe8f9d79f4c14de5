"""One TOML file per whole run, one table per stage, typed dataclasses behind it.

In: a path and the dataclass of the whole recipe. Out: a validated instance. An unknown key, a wrong type or an
impossible value stops the run before any work, naming file, table and key.
"""

import dataclasses
import difflib
import re
import tomllib
import typing
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from danlu.run.errors import UserError

T = TypeVar("T")


def read_recipe(path: Path, recipe_class: type[T]) -> T:
    """The recipe in `path` as `recipe_class`. Raises UserError for anything the file gets wrong."""
    if path.is_dir():
        raise UserError("a folder, not a recipe's file", where=path, mend="Name the .toml file itself")
    if not path.is_file():
        raise UserError("no such recipe", where=path, mend="The project's own recipes lie in recipes/")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"not valid TOML: {error}", where=path) from error
    check_keys(tables, recipe_class, path, table="")
    return convert(tables, recipe_class, where=path)


def convert(values: dict[str, Any], target: type[T], where: Path | str) -> T:
    """`values` as the dataclass `target`; types are strict, `__post_init__` validates. Raises UserError."""
    try:
        return msgspec.convert(values, target, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise UserError(_plain(str(error)), where=where, mend="`danlu run --help` lists every value") from error


KINDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
    "path": "a path",
}


def _plain(message: str) -> str:
    """msgspec's message as `table.key`: what, in the words of a TOML file."""
    what, _, place = message.partition(" - at `$")
    if found := re.fullmatch(r"Expected `(.+)`, got `(.+)`", what):
        expected, got = (" or ".join(KINDS.get(kind, kind) for kind in part.split(" | ")) for part in found.groups())
        what = f"expected {expected}, got {got}"
    elif what[:8] in ("Expected", "Invalid "):
        what = what[0].lower() + what[1:]
    name = place.rstrip("`").lstrip(".")
    return f"`{name}`: {what}" if name else what


def _decode(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"no conversion from {type(value).__name__} to {kind.__name__}")


def check_keys(values: dict[str, Any], target: Any, path: Path, table: str) -> None:
    """Raise UserError for a key that `target` does not have (msgspec ignores those in dataclasses)."""
    hints = typing.get_type_hints(target)
    known = {field.name: hints[field.name] for field in dataclasses.fields(target)}
    for key, value in values.items():
        name = f"{table}.{key}" if table else key
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            mend = f"Did you mean `{near[0]}`?" if near else f"Known here: {', '.join(sorted(known))}"
            raise UserError(f"unknown key `{name}`", where=path, mend=mend)
        if isinstance(value, dict) and dataclasses.is_dataclass(known[key]):
            check_keys(value, known[key], path, name)

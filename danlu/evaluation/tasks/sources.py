"""Where benchmark records come from: files as their authors publish them, the hub, or the harness's own examples.

Out: records as dictionaries. Raises UserError that names the file (and line) for what is missing or malformed.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from danlu.run.errors import UserError, first_line

Record = dict[str, Any]

KINDS = {str: "text", int: "an integer", list: "a list"}

MEND = "Get the file anew, or leave --data out to take it from the hub"


def read_text(path: Path) -> str:
    """A UTF-8 file, gzipped or not."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(
            "no such benchmark file", where=path, mend="Name the folder that holds it with --data"
        ) from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"not a file of this benchmark: {error}", where=path, mend=MEND) from error


def json_lines(path: Path, **kinds: type) -> list[Record]:
    """The records of a file of JSON lines, each with a value of its kind for every key of `kinds`."""
    records = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            records.append(_checked(_parsed(line, f"{path}:{number}"), kinds, f"{path}:{number}"))
    return _some(records, path)


def json_examples(path: Path, **kinds: type) -> list[Record]:
    """The list `examples` of a JSON file, each of them as `json_lines` has them."""
    whole = _checked(_parsed(read_text(path), str(path)), {"examples": list}, str(path))["examples"]
    return _some([_checked(record, kinds, f"{path}, example {n}") for n, record in enumerate(whole, start=1)], path)


def csv_records(path: Path, *keys: str, has_header: bool = False) -> list[Record]:
    """The rows of a CSV file under `keys`: its own header's, or in the order given where it has none."""
    # Not `splitlines`: MMLU has questions with a U+0085, which that would take for the end of a line.
    lines = io.StringIO(read_text(path), newline="")
    rows = csv.DictReader(lines) if has_header else csv.DictReader(lines, fieldnames=keys)
    records = []
    try:
        for row in rows:
            if None in row or None in row.values():
                raise UserError(f"not {len(rows.fieldnames or ())} columns", where=f"{path}:{rows.line_num}", mend=MEND)
            records.append(_checked(dict(row), dict.fromkeys(keys, str), f"{path}:{rows.line_num}"))
    except csv.Error as error:
        raise UserError(f"not a CSV file: {error}", where=path, mend=MEND) from error
    return _some(records, path)


def names_in(folder: Path, ending: str) -> list[str]:
    """The names of the files of a folder that end so, without the ending, sorted."""
    names = sorted(path.name.removesuffix(ending) for path in folder.glob(f"*{ending}"))
    if not names:
        raise UserError(f"holds no file *{ending}", where=folder, mend="Name the folder of the benchmarks with --data")
    return names


def from_hub(path: str, name: str | None, split: str) -> Iterator[Record]:
    """The records of a data set on the hub."""
    datasets = _module("datasets")
    try:
        yield from (dict(record) for record in datasets.load_dataset(path, name, split=split))
    except Exception as error:  # Whatever the hub's client raises: no network, no such set, a gate.
        raise UserError(
            f"cannot be had from the hub: {first_line(error)}", where=path, mend="Give a folder with --data"
        ) from error


def harness_examples(file: str) -> Record:
    """A task file of the harness: `description` and the worked examples in `fewshot_config`."""
    yaml = _module("yaml")
    found = find_spec("lm_eval")
    if found is None or found.origin is None:
        raise UserError("lm-eval is not installed", mend="pip install 'danlu[eval]'")
    return dict(yaml.safe_load((Path(found.origin).parent / "tasks" / file).read_text(encoding="utf-8")))


def harness_module(name: str) -> Any:
    """A module of the harness's tasks."""
    return _module(f"lm_eval.tasks.{name}")


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"cannot be imported: {error}", where=name, mend="pip install 'danlu[eval]'") from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"not JSON: {error}", where=where, mend=MEND) from error


def _checked(record: Any, kinds: dict[str, type], where: str) -> Record:
    if not isinstance(record, dict):
        raise UserError("not an object", where=where, mend=MEND)
    if missing := [key for key in kinds if record.get(key) is None]:
        raise UserError(f"lacks {', '.join(missing)}", where=where, mend=MEND)
    for key, kind in kinds.items():
        if not isinstance(record[key], kind):
            raise UserError(f"{key} is {record[key]!r:.60}, not {KINDS[kind]}", where=where, mend=MEND)
    return record


def check_each(records: list[Record], where: Path | str, fault: Callable[[Record], str]) -> list[Record]:
    """The records, in which `fault` finds nothing. Raises UserError with the number of the first in which it does."""
    for number, record in enumerate(records, start=1):
        if said := fault(record):
            raise UserError(f"record {number}: {said}", where=where, mend=MEND)
    return records


def _some(records: list[Record], path: Path) -> list[Record]:
    if not records:
        raise UserError("no record in it", where=path, mend=MEND)
    return records

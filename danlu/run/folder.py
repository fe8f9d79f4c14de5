"""The run folder: which stages are complete, which must run again, and that only one program works in it.

`runs/NAME/STAGE/` holds `recipe.json` (the resolved values), `figures.json` (what the stage measured, written by the
stage), its products, and `stage.json`, which is written last: a stage is complete when it is there.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from danlu.run.errors import UserError
from danlu.run.files import digest, remove, write_json
from danlu.run.measure import measured

C = TypeVar("C")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; a second program gets one clear line. The lock goes with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise UserError(
                f"another danlu (process {stream.read().strip() or 'unknown'}) is working here",
                where=folder,
                mend="Wait for it, or choose another folder with --out",
            ) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def resolved(config: Any) -> dict[str, Any]:
    """A stage's dataclass as plain JSON values."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    values: dict[str, Any] = plain(dataclasses.asdict(config))
    return values


def input_paths(config: Any) -> list[Path]:
    """What a stage reads: every path of its table but where it writes (`out`) and keeps downloads (`cache`)."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    inputs = [paths_in(value) for name, value in values.items() if name not in ("out", "cache")]
    return [path for paths in inputs for path in paths]


def paths_in(value: Any) -> tuple[Path, ...]:
    """The paths of a field: a path, or several; none for a field of another kind."""
    values = value if isinstance(value, tuple) else (value,)
    return tuple(item for item in values if isinstance(item, Path))


def fingerprint(config: Any) -> str:
    """Changes when a value of the recipe or the content of an input changes; not when a folder is moved."""
    values = resolved(config)
    for field in dataclasses.fields(config):
        if paths_in(getattr(config, field.name)):
            values.pop(field.name)
    parts = [json.dumps(values, sort_keys=True, ensure_ascii=False), *(digest(path) for path in input_paths(config))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def is_complete(config: Any) -> bool:
    """Whether the stage's product is there and was made with this recipe from these inputs."""
    # Asked first, because the fingerprint reads every input.
    return read_stage(config.out) is not None and _finished(config.out, fingerprint(config)) is not None


def _finished(out: Path, mark: str) -> Path | None:
    """The product in `out`, where it is there and bears this fingerprint."""
    record = read_stage(out)
    if record and record["fingerprint"] == mark and (out / record["product"]).exists():
        return out / record["product"]
    return None


def run_stage(name: str, config: C, work: Callable[[C], Path], again: bool = False) -> Path:
    """Do `work(config)` in `config.out` unless it is complete with the same recipe and inputs; the product's path.
    `again` does it anew where it is complete: an input may have changed unseen. The product stays until `work` puts the
    new one in its place.

    An interrupted stage keeps its folder, so that `work` can resume; a changed recipe or input starts afresh.
    Time and memory are measured here and added up over interruptions.
    """
    out: Path = config.out  # type: ignore[attr-defined]
    for path in input_paths(config):
        if not path.exists():
            raise UserError("no such file or folder", where=path, mend="Run the stage that makes it, or name another")
        if path.resolve().is_relative_to(out.resolve()):
            raise UserError("an input lies inside the stage's own folder", where=path, mend="Choose another --out")
    with locked(out):
        return _run_locked(name, config, work, out, again)


def _run_locked(name: str, config: C, work: Callable[[C], Path], out: Path, again: bool) -> Path:
    mark = fingerprint(config)
    if (product := _finished(out, mark)) and not again:
        say(f"{name}: complete, skipped")
        return product
    if product:
        say(f"{name}: complete, and done again")
        (out / "stage.json").unlink()
    started = read_start(out)
    if read_stage(out) or started.get("fingerprint") != mark:
        if started:
            say(f"{name}: its recipe or its inputs have changed; what was in {out} is removed and made anew")
        _clear(out, name)
        write_json(out / "recipe.json", {"stage": name, "fingerprint": mark, "recipe": resolved(config)})
    else:
        if not product:
            say(f"{name}: going on where it was interrupted")
    with measured(out / "usage.json") as usage:
        product = work(config)
    write_json(out / "stage.json", {"fingerprint": mark, "product": str(product.relative_to(out)), **usage()})
    say(f"{name}: done in {usage()['seconds']:.0f} s, {usage()['peak_memory_mb']:.0f} MB at most")
    return product


def say(line: str) -> None:
    """One line for the person at the terminal; standard output stays free for what a command produces."""
    print(line, file=sys.stderr, flush=True)


def _clear(out: Path, name: str) -> None:
    """Empty a stage's folder for a new start; refuse a folder that another stage, or no stage of ours, has made."""
    # A kill may have left the record of the start half written, and nothing else yet.
    ours = (".lock", ".recipe.json.partial")
    entries = [entry for entry in out.iterdir() if entry.name not in ours] if out.exists() else []
    if entries and read_start(out).get("stage") != name:
        raise UserError(
            f"this folder holds other files than those of the stage `{name}`", where=out, mend="Choose an empty folder"
        )
    # The record of completion goes first and the record of the start last: a kill in between leaves a stage that is
    # neither complete nor foreign.
    (out / "stage.json").unlink(missing_ok=True)
    for entry in sorted(entries, key=lambda entry: entry.name == "recipe.json"):
        remove(entry)


def read_start(out: Path) -> dict[str, Any]:
    """The record of a stage that was started here; empty where there is none of ours."""
    path = out / "recipe.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return {}
    return record if isinstance(record, dict) and {"stage", "fingerprint"} <= record.keys() else {}


def read_stage(out: Path) -> dict[str, Any] | None:
    """The record of a complete stage, or None."""
    path = out / "stage.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

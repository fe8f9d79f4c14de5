"""Files that appear whole or not at all: written aside, synced, renamed."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from danlu.run.errors import UserError


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file or a folder with all it holds; nothing when it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError for what is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one too.
        raise UserError(f"not valid JSON: {error}", where=path) from error
    if not isinstance(values, dict):
        raise UserError(f"not an object: {values!r:.40}", where=path)
    return values


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put `path` into an error of writing to it: Python does not say which file it was where a disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            error.filename = error.filename or str(path)
        raise


@contextmanager
def publish(final: Path) -> Iterator[Path]:
    """Yield a path beside `final` to write to (a file, or a folder the caller makes); rename it to `final` at the end.

    After a kill at any moment `final` is the old product, the new one, or absent, never a part.
    """
    aside, old = (final.with_name(f".{final.name}.{kind}") for kind in ("partial", "old"))
    remove(aside)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming(final):
            yield aside
            for path in sorted(aside.rglob("*")) if aside.is_dir() else []:
                _sync(path)
            _sync(aside)
    except BaseException:
        remove(aside)
        raise
    if final.is_dir():
        # A folder cannot be renamed over a full one: set the old one aside first.
        remove(old)
        final.rename(old)
    aside.rename(final)
    remove(old)
    _sync(final.parent)


@contextmanager
def publish_shared(final: Path) -> Iterator[Path]:
    """The same for a file that several programs may be writing at once: each writes aside under a name of its own, and
    the last to end wins. A kill leaves its `.partial` behind."""
    aside = final.with_name(f".{final.name}.{os.getpid()}-{os.urandom(4).hex()}.partial")
    try:
        with naming(final):
            yield aside
            _sync(aside)
            aside.replace(final)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as JSON, whole or not at all."""
    with publish(path) as aside:
        aside.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


ADAPTER_CONFIG = "adapter_config.json"
"""Says in a folder of PEFT's layout which model an adapter changes."""


def digest(path: Path) -> str:
    """sha256 of a file, or of the names and contents of all files below a folder; of an adapter with the models that it
    changes, where these lie here."""
    own, bases = _contents(path), [_contents(base) for base in _bases(path)]
    return hashlib.sha256("\n".join([own, *bases]).encode()).hexdigest() if bases else own


def files_in(folder: Path) -> list[Path]:
    """Every file below a folder, in name order; linked folders are gone into, each once."""
    found, seen = [], {folder.resolve()}
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        for name in list(folders):
            target = (here / name).resolve()
            if target in seen:
                folders.remove(name)
            elif (here / name).is_symlink():
                seen.add(target)
        found += [here / name for name in names if (here / name).is_file()]
    return sorted(found)


def _contents(path: Path) -> str:
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    total = hashlib.sha256()
    for file in files_in(path):
        # `fsencode`: a name need not be UTF-8.
        total.update(os.fsencode(f"{file.relative_to(path).as_posix()}\0{_contents(file)}\n"))
    return total.hexdigest()


def _bases(path: Path) -> Iterator[Path]:
    """The model that an adapter names, the one that this names where it is an adapter too, …, each once."""
    seen = {path.resolve()}
    while (path / ADAPTER_CONFIG).is_file():
        path = Path(str(read_object(path / ADAPTER_CONFIG).get("base_model_name_or_path")))
        if not path.exists() or path.resolve() in seen:
            return
        seen.add(path.resolve())
        yield path

"""The corpus as documents, streamed from Parquet.

In: a folder of `*.parquet` with the columns `id, text, source, language, weight`. Out: an iterator of `Document`.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.run.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

COLUMNS = ("id", "text", "source", "language", "weight")
ROWS_PER_BATCH = 256
"""Our choice: a batch of long documents stays within a few MB."""


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One document of the corpus. `language` is `unknown` where the corpus gives none."""

    id: str
    text: str
    source: str
    language: str
    weight: float


def parquet_files(folder: Path) -> list[Path]:
    """The folder's Parquet files by name. Raises UserError when there is no folder or no file."""
    if not folder.is_dir():
        raise UserError("no such folder of documents", where=folder, mend="Build it with `danlu corpus build`")
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise UserError("holds no *.parquet file", where=folder, mend="Build it with `danlu corpus build`")
    return files


def iter_documents(folder: Path) -> Iterator[Document]:
    """Every document below `folder`, files by name and rows in order, a few at a time in memory.

    Raises UserError for a missing folder, a broken file, a missing column, an empty text field or a weight
    that cannot be used. A folder whose files hold no rows gives nothing: the caller knows whether that is an error.
    """
    for path in parquet_files(folder):
        for batch in _batches(path, COLUMNS):
            columns = (batch.column(name).to_pylist() for name in COLUMNS)
            for identity, text, source, language, weight in zip(*columns, strict=True):
                if text is None:
                    raise UserError(f"document {identity!r} has no text", where=path)
                yield Document(
                    str(identity),
                    text,
                    source or "unknown",
                    language or "unknown",
                    _weight(weight, identity, path),
                )


def count_documents(folder: Path) -> int:
    """How many rows the folder's files say they have, without reading them."""
    return sum(_open(path).metadata.num_rows for path in parquet_files(folder))


def iter_weights(folder: Path) -> Iterator[tuple[str, str, float]]:
    """`(id, source, weight)` of every document in the order of `iter_documents`, without reading the texts."""
    for path in parquet_files(folder):
        for batch in _batches(path, ("id", "source", "weight")):
            columns = (batch.column(name).to_pylist() for name in ("id", "source", "weight"))
            for identity, source, weight in zip(*columns, strict=True):
                yield str(identity), source or "unknown", _weight(weight, identity, path)


def _weight(weight: float | None, identity: str, path: Path) -> float:
    value = 1.0 if weight is None else float(weight)
    if not math.isfinite(value) or value < 0:
        raise UserError(f"document {identity!r} has the weight {value}", where=path, mend="A weight is 0 or more")
    return value


def _open(path: Path) -> "pyarrow.parquet.ParquetFile":
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"not a whole Parquet file ({str(error).splitlines()[0]})", where=path) from error


def _batches(path: Path, columns: tuple[str, ...]) -> Iterator["pyarrow.RecordBatch"]:
    import pyarrow

    file = _open(path)
    try:
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise UserError(
                f"has no column {', '.join(missing)}", where=path, mend="Build it with `danlu corpus build`"
            )
        yield from file.iter_batches(batch_size=ROWS_PER_BATCH, columns=list(columns))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"not a whole Parquet file ({str(error).splitlines()[0]})", where=path) from error

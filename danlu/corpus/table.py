"""The scored table: one Parquet file a partition, a row a record, dropped ones included.

Rows lie in sorted runs: of a piece of a partition, in the order of the ids, in small row groups, so that the rows of a
range of ids are read without reading the rest.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from danlu.corpus.config import CorpusConfig, MinHashConfig
from danlu.corpus.duplicates.minhash import band_numbers
from danlu.corpus.score import COUNTS, SCORES, TEXTS
from danlu.corpus.tokens import number_of
from danlu.run.files import publish_shared

GROUP_BYTES = 2_000_000
"""Text in one row group, about. Our choice: small enough to read a few rows, large enough to compress."""
NUMBERS = ("key", "address")
"""Columns of 64-bit numbers: of the normalised text, and of the record's address, which settles ties."""
SIGNED_AT_ONCE = 512
"""Texts whose signatures are made in one call."""


def band_columns(config: MinHashConfig) -> list[str]:
    return [f"band_{number:03}" for number in range(config.bands)]


def schema(config: MinHashConfig) -> Any:
    """The columns of the scored table."""
    import pyarrow as pa

    return pa.schema([
        *(pa.field(name, pa.large_string()) for name in TEXTS), *(pa.field(name, pa.int64()) for name in COUNTS),
        *(pa.field(name, pa.float64()) for name in SCORES), *(pa.field(name, pa.uint64()) for name in NUMBERS),
        *(pa.field(name, pa.uint64()) for name in band_columns(config)), pa.field("paragraphs", pa.list_(pa.uint64())),
    ])  # fmt: skip


def write_table(path: Path, rows: Iterable[dict[str, Any]], config: CorpusConfig) -> int:
    """Write scored rows, whole or not at all; how many there were."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shape = schema(config.minhash)
    count = 0
    with publish_shared(path) as aside, pq.ParquetWriter(aside, shape, compression="zstd") as writer:
        for run in runs(rows, config.part_megabytes * 1e6):
            run.sort(key=lambda row: (row["id"], row["source"], row["record"]))
            sign(run, config.minhash)
            table = pa.table({name: [row[name] for row in run] for name in shape.names}, schema=shape)
            write_groups(writer, table, [row["size"] for row in run])
            count += len(run)
    return count


def write_groups(writer: Any, table: Any, sizes: list[int]) -> None:
    """Write a table in row groups of about GROUP_BYTES."""
    ends = np.flatnonzero(np.diff(np.cumsum(sizes) // GROUP_BYTES, append=-1)) + 1
    start = 0
    for end in ends.tolist():
        writer.write_table(table.slice(start, end - start))
        start = end


def runs(rows: Iterable[dict[str, Any]], limit: float) -> Iterator[list[dict[str, Any]]]:
    """Rows in pieces of about `limit` bytes of text."""
    run: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        run.append(row)
        size += row["size"] + 1000
        if size >= limit:
            yield run
            run, size = [], 0
    if run:
        yield run


def sign(rows: list[dict[str, Any]], config: MinHashConfig) -> None:
    """Put the bands of its signature and the number of its address into each row; the token text goes."""
    names = band_columns(config)
    for start in range(0, len(rows), SIGNED_AT_ONCE):
        piece = rows[start : start + SIGNED_AT_ONCE]
        bands = band_numbers([row.pop("token_text") for row in piece], config).tolist()
        for row, numbers in zip(piece, bands, strict=True):
            row |= zip(names, numbers, strict=True)
            row["address"] = number_of(row["record"])


def read_columns(path: Path, names: list[str]) -> Iterator[Any]:
    """Record batches of some columns of a scored file, in the order of its rows."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=1 << 16, columns=names)


def read_rows(path: Path, places: np.ndarray, names: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Some rows of a scored file by their places, ascending: place and row. Only their row groups are read."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            low, high = np.searchsorted(places, [start, end])
            if high > low:
                chosen = places[low:high]
                table = file.read_row_group(group, columns=names).take(chosen - start)
                yield from zip(chosen.tolist(), table.to_pylist(), strict=True)
            start = end


def read_scattered(
    paths: Sequence[Path], partition: np.ndarray, row: np.ndarray, names: list[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of several scored files, given by the number of the file and the place in it: for each the number within
    what was given, and the row; file by file."""
    for number in np.unique(partition).tolist():
        mine = np.flatnonzero(partition == number)
        mine = mine[np.argsort(row[mine], kind="stable")]
        for at, (_, found) in zip(mine.tolist(), read_rows(paths[number], row[mine], names), strict=True):
            yield at, found

"""The Daft plan: raw files are read and judged in a stream; only ids and hashes pass the steps that see everything.

In: a folder of raw files. Out: a prepared table on disk (one row a record, dropped ones included, in folders by the
range of the id) and the sets of duplicates.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np

from danlu.corpus.clean import FIELDS, SCORES, clean
from danlu.corpus.config import CorpusConfig
from danlu.corpus.dedup import (
    candidate_buckets,
    candidate_pairs,
    keepers,
    load_daft,
    shingle_text,
    shingles,
    verified,
)
from danlu.corpus.records import Record, read_records

RECORD_FIELDS = ("record", "source", "url", "kind", "content_type", "body", "problem")
BATCH_BYTES = 4_000_000
"""Content in one batch of records, about; with BATCH_RECORDS it bounds what is in memory at once. Our choice."""
BATCH_RECORDS = 64
FILES_A_TASK = 32
"""Files read one after the other by one task. Our choice: a thousand small files make some thirty tasks."""


def raw_frame(files: list[Path], config: CorpusConfig, on_file: Callable[[], None]) -> Any:
    """A lazy Daft frame of records; `on_file` is called after each file."""
    daft = load_daft()
    from daft.io.source import DataSource, DataSourceTask
    from daft.recordbatch import RecordBatch

    string, binary = daft.DataType.string(), daft.DataType.binary()
    kinds = {name: binary if name == "body" else string for name in RECORD_FIELDS}
    table_schema = daft.Schema.from_pydict(kinds)
    limit = int(config.max_document_megabytes * 1e6)

    def to_batch(records: list[Record]) -> Any:
        columns = {name: [getattr(record, name) for record in records] for name in RECORD_FIELDS}
        series = {name: daft.Series.from_pylist(values, dtype=kinds[name]) for name, values in columns.items()}
        return RecordBatch.from_pydict(series)

    class Files(DataSourceTask):
        def __init__(self, paths: list[Path]) -> None:
            self.paths = paths

        @property
        def schema(self) -> Any:
            return table_schema

        async def read(self) -> AsyncIterator[Any]:
            waiting: list[Record] = []
            size = 0
            for path in self.paths:
                for record in read_records(path, config.input, limit):
                    waiting.append(record)
                    size += len(record.body)
                    if size >= BATCH_BYTES or len(waiting) >= BATCH_RECORDS:
                        yield to_batch(waiting)
                        waiting, size = [], 0
                on_file()
            if waiting:
                yield to_batch(waiting)

    class RawFiles(DataSource):
        @property
        def name(self) -> str:
            return "raw files"

        @property
        def schema(self) -> Any:
            return table_schema

        async def get_tasks(self, pushdowns: Any) -> AsyncIterator[Any]:
            for start in range(0, len(files), FILES_A_TASK):
                yield Files(files[start : start + FILES_A_TASK])

    return RawFiles().read()


def prepare(files: list[Path], config: CorpusConfig, parts: int, table: Path, on_file: Callable[[], None]) -> None:
    """Read and judge every record; write the prepared table in folders `part=NUMBER` by the range of the id."""
    daft = load_daft()
    string, real, whole = daft.DataType.string(), daft.DataType.float64(), daft.DataType.int64()
    kinds = {name: {"language_confidence": real, "size": whole}.get(name, string) for name in FIELDS}
    kinds |= {f"score_{name}": real for name in SCORES} | {"part": whole}

    @daft.func.batch(return_dtype=daft.DataType.struct(kinds), unnest=True, batch_size=BATCH_RECORDS, use_process=True)
    def judged(kind: Any, body: Any, content_type: Any, problem: Any) -> Any:
        rows = []
        columns = [column.to_pylist() for column in (kind, body, content_type, problem)]
        for what, content, header, trouble in zip(*columns, strict=True):
            row = clean(what, content, header, trouble, config).columns()
            rows.append(row | {"part": part_of(row["id"], parts)})
        return rows

    col = daft.col
    frame = raw_frame(files, config, on_file)
    judgement = judged(col("kind"), col("body"), col("content_type"), col("problem"))
    with daft.execution_config_ctx(default_morsel_size=BATCH_RECORDS, parquet_target_row_group_size=4 << 20):
        frame.select("record", "source", "url", "kind", judgement).write_parquet(str(table), partition_cols=["part"])


def part_of(name: str, parts: int) -> int:
    """The part that an id belongs to: equal ranges in the order of ids."""
    return int(name[:8], 16) * parts >> 32


def exact_duplicates(prepared: Any) -> dict[str, str]:
    """Records dropped as exact duplicates and the id that stays; of equals the one of smallest id, source, address."""
    daft = load_daft()
    col = daft.col
    rank = col("id") + "\t" + col("source") + "\t" + col("record")
    left = prepared.where(col("reason").is_null()).select(col("key"), col("record"), rank.alias("rank"))
    groups = left.groupby("key").agg(col("rank").min().alias("first"), col("record").count().alias("members"))
    first = {row["key"]: row["first"] for row in groups.where(col("members") > 1).iter_rows()}
    if not first:
        return {}
    repeated = left.where(col("key").is_in(list(first)))
    return {
        row["record"]: first[row["key"]].partition("\t")[0]
        for row in repeated.iter_rows()
        if row["rank"] != first[row["key"]]
    }


def near_duplicate_documents(
    prepared: Any, dropped_records: dict[str, str], config: CorpusConfig
) -> dict[str, tuple[str, float]]:
    """Ids dropped as near duplicates, with the id that stays and the similarity to it."""
    daft = load_daft()
    col = daft.col
    left = prepared.where(col("reason").is_null())
    if dropped_records:
        left = left.where(~col("record").is_in(list(dropped_records)))

    @daft.func.batch(return_dtype=daft.DataType.string(), batch_size=BATCH_RECORDS)
    def tokenised(text: Any) -> Any:
        return [shingle_text(value) for value in text.to_pylist()]

    @daft.func.batch(return_dtype=daft.DataType.list(daft.DataType.uint64()), batch_size=BATCH_RECORDS)
    def shingled(text: Any) -> Any:
        return [shingles(value, config.minhash.ngram).tolist() for value in text.to_pylist()]

    frame = left.select(col("id"), tokenised(col("text")).alias("shingle_text"))
    pairs = candidate_pairs(candidate_buckets(frame, config.minhash), config.minhash.largest_bucket)
    if not pairs:
        return {}
    members = sorted({name for pair in pairs for name in pair})
    chosen = left.where(col("id").is_in(members)).select(col("id"), shingled(col("text")).alias("shingles"))
    sets = {row["id"]: np.array(row["shingles"], dtype=np.uint64) for row in chosen.iter_rows()}
    similar = verified(pairs, sets, config.minhash.threshold)
    return {
        name: (keeper, similar[min(name, keeper), max(name, keeper)])
        for name, keeper in keepers(similar).items()
        if name != keeper
    }

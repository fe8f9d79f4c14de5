"""The two kinds of work that the plan hands out: score a partition of the input, write a part of the result."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from danlu.corpus.child import Child
from danlu.corpus.config import CorpusConfig
from danlu.corpus.duplicates.paragraphs import without
from danlu.corpus.inputs import Partition
from danlu.corpus.records import Record, read_records
from danlu.corpus.score import COUNTS, SCORES, Scorer
from danlu.corpus.table import band_columns, read_scattered, write_groups, write_table
from danlu.corpus.tokens import comparable
from danlu.run.files import digest, publish

BATCH_BYTES = 4_000_000
"""Content sent to the scoring process at once, about. Our choice."""
BATCH_RECORDS = 64
EXCERPT_CHARACTERS = 300
"""How much of a dropped document's text is kept."""
FACTS = ("source", "url", "title", "date", "kind", "language", "script", "encoding", "record")
"""Columns of text that a document of the result keeps, behind `id` and `text`."""
SCORE_COLUMNS = tuple(f"score_{name}" for name in SCORES)


@dataclass
class ScorePartition:
    """Score the records of a partition: `folder/DIGEST.parquet`."""

    scorer: Scorer
    folder: Path
    child: Child | None = field(default=None, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"scorer": self.scorer, "folder": self.folder, "child": None}

    def __call__(self, partition: Partition) -> dict[str, Any]:
        config = self.scorer.config
        path = self.folder / f"{partition.digest()}.parquet"
        self.child = self.child or Child(self.scorer)
        count = write_table(path, self.rows(partition, int(config.max_document_megabytes * 1e6)), config)
        return {"partition": partition.number, "records": count, "files": len(partition.files)}

    def rows(self, partition: Partition, limit: int) -> Iterator[dict[str, Any]]:
        """The rows of a partition, a batch of records at a time."""
        waiting: list[Record] = []
        size = 0
        assert self.child is not None
        for file in partition.files:
            for record in read_records(file, limit):
                waiting.append(record)
                size += len(record.body)
                if size >= BATCH_BYTES or len(waiting) >= BATCH_RECORDS:
                    yield from self.child.rows(waiting)
                    waiting, size = [], 0
        yield from self.child.rows(waiting)


@dataclass(frozen=True)
class WritePart:
    """Write one part of the result from what was decided for its rows: `SPLIT/part-NUMBER.parquet` of `documents`,
    `signatures` and, for what does not stay, `dropped`."""

    config: CorpusConfig
    scored: tuple[Path, ...]
    """The partitions' files, in their order."""
    decisions: Path
    """Folder of `part-NUMBER.npz`, as `choose.save_decisions` wrote them."""
    folder: Path

    def __call__(self, number: int) -> dict[str, Any]:
        decided = self.decided(number)
        rows = sorted(self.rows(decided), key=lambda row: (row["id"], row["source"], row["record"]))
        manifest = {}
        for split in ("train", "validation"):
            chosen = [row for row in rows if row["reason"] is None and row["split"] == split]
            if chosen or number == 0:
                name = f"{split}/part-{number:05}.parquet"
                manifest[f"documents/{name}"] = self.write(f"documents/{name}", chosen, document_schema())
                signatures = signature_schema(self.config)
                manifest[f"signatures/{name}"] = self.write(f"signatures/{name}", chosen, signatures)
        dropped = [row for row in rows if row["reason"] is not None]
        if dropped or number == 0:
            name = f"dropped/part-{number:05}.parquet"
            manifest[name] = self.write(name, dropped, dropped_schema())
        return {"part": number, "files": manifest}

    def decided(self, number: int) -> dict[str, np.ndarray]:
        with np.load(self.decisions / f"part-{number:05}.npz") as arrays:
            return dict(arrays)

    def rows(self, decided: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        """The rows of this part with what was decided for each."""
        names = ["id", "text", "contaminated_by", "paragraphs", *FACTS, *COUNTS, *SCORES, "key"]
        names += band_columns(self.config.minhash)
        for place, row in read_scattered(self.scored, decided["partition"], decided["row"], names):
            yield self.row(row, decided, place)

    def row(self, row: dict[str, Any], decided: dict[str, np.ndarray], place: int) -> dict[str, Any]:
        row |= {f"score_{name}": row[name] for name in SCORES}
        row["split"] = str(decided["split"][place])
        row["step"] = str(decided["step"][place]) or None
        row["reason"] = str(decided["reason"][place]) or None
        row["keeper"] = str(decided["keeper"][place]) or None
        row["similarity"] = float(decided["similarity"][place]) if row["keeper"] else None
        row["weight"] = self.weight(row["source"])
        start, end = decided["paragraph_starts"][place : place + 2]
        gone = set(decided["paragraphs"][start:end].tolist())
        row["paragraphs_removed"] = len(gone)
        if row["reason"] is not None:
            row["text"] = row["text"][:EXCERPT_CHARACTERS]
        elif gone:
            row["text"] = without(row["text"], gone)
            row["size"] = len(row["text"].encode("utf-8", "replace"))
            row["tokens"] = len(comparable(row["text"]))
            row["paragraphs"] = [n for at, n in enumerate(row["paragraphs"]) if at not in gone]
        return row

    def weight(self, source: str) -> float:
        found = self.config.sources.get(source)
        return found.weight if found else 1.0

    def write(self, name: str, rows: list[dict[str, Any]], schema: Any) -> dict[str, Any]:
        """Write one file; its rows, bytes and sha256."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.folder / name
        with publish(path) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
            table = pa.table({field.name: [row[field.name] for row in rows] for field in schema}, schema=schema)
            write_groups(writer, table, [len(row["text"]) for row in rows])
        return {"rows": len(rows), "bytes": path.stat().st_size, "sha256": digest(path)}


def strings(*names: str) -> list[Any]:
    import pyarrow as pa

    return [pa.field(name, pa.large_string()) for name in names]


def whole_numbers(*names: str) -> list[Any]:
    import pyarrow as pa

    return [pa.field(name, pa.int64()) for name in names]


def reals(*names: str) -> list[Any]:
    import pyarrow as pa

    return [pa.field(name, pa.float64()) for name in names]


def document_schema() -> Any:
    """The columns of the result."""
    import pyarrow as pa

    return pa.schema([
        *strings("id", "text", *FACTS), *whole_numbers(*COUNTS, "paragraphs_removed"), *reals("weight", *SCORE_COLUMNS)
    ])  # fmt: skip


def dropped_schema() -> Any:
    """The columns of what was dropped: where it was, why it went, for whom, and how it begins."""
    import pyarrow as pa

    reasons = strings("step", "reason", "keeper", "contaminated_by")
    return pa.schema([
        *strings("id", "text", *FACTS), *reasons, *whole_numbers(*COUNTS), *reals("similarity", *SCORE_COLUMNS)
    ])  # fmt: skip


def signature_schema(config: CorpusConfig) -> Any:
    """What a later batch is compared with, row for row with the documents."""
    import pyarrow as pa

    numbers = [pa.field(name, pa.uint64()) for name in ("key", *band_columns(config.minhash))]
    lists = pa.field("paragraphs", pa.list_(pa.uint64()))
    made_with = {"minhash": json.dumps(config.minhash.made_with)}
    return pa.schema([*strings("id"), *whole_numbers("tokens"), *numbers, lists], metadata=made_with)

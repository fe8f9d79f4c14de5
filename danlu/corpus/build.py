"""Raw files to weighted documents: `danlu corpus build`, the report's section on data.

In: a folder of raw files. Out: `documents/train` and `documents/validation` (Parquet: id, text, source, url, language,
weight, a column per score; sorted by id, which is a content hash), `figures.json`, `examples.json`.
"""

import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.corpus.clean import SCORES
from danlu.corpus.config import CorpusConfig
from danlu.corpus.dedup import load_daft
from danlu.corpus.figures import Tally
from danlu.corpus.plan import exact_duplicates, near_duplicate_documents, prepare
from danlu.corpus.records import SINGLE_FILES, extension, input_files, readable
from danlu.corpus.split import Entry, held_out
from danlu.run.errors import UserError
from danlu.run.files import publish, write_json
from danlu.run.progress import ProgressBar


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What the steps that saw everything decided, by record or by id."""

    exact: dict[str, str]
    """Record of an exact duplicate: the id that stays."""
    near: dict[str, tuple[str, float]]
    """Id of a near duplicate: the id that stays and the similarity to it."""
    held_out: set[str]
    """Ids for validation."""


COLUMNS = ("id", "text", "source", "url", "language", "encoding")
SCORE_COLUMNS = tuple(f"score_{name}" for name in SCORES)


def build(config: CorpusConfig) -> Path:
    """Build the corpus; the folder `out/documents`. Raises UserError for a missing or empty input or result."""
    files, passed_over = input_files(config.input)
    check_weights(config, files)
    work = config.out / ".work"
    shutil.rmtree(work, ignore_errors=True)
    try:
        tally = Tally(files=len(files), files_passed_over=passed_over)
        build_documents(config, files, work, tally)
    except Exception as error:
        if "No space left on device" in str(error):
            raise UserError("the disk is full", where=config.out, mend="Free some space and run again") from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for warning in tally.warnings(config.warn_source_loss):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    write_json(config.out / "examples.json", tally.examples)
    write_json(config.out / "figures.json", tally.figures(config.warn_source_loss))
    return config.out / "documents"


def check_weights(config: CorpusConfig, files: list[Path]) -> None:
    """A weight for a source that is not there would have no effect: UserError that lists the sources."""
    sources = sorted({readable(path.relative_to(config.input).parts[0]) for path in files})
    for name in config.source_weights:
        if name not in sources:
            raise UserError(
                f"source_weights names `{name}`", where=config.input, mend=f"Here are: {', '.join(sources)}"
            )


def build_documents(config: CorpusConfig, files: list[Path], work: Path, tally: Tally) -> None:
    """The steps in order: read and judge, exact duplicates, near duplicates, split and write."""
    limit = int(config.max_document_megabytes * 1e6)
    sizes = [(path.stat().st_size, extension(path) in SINGLE_FILES) for path in files]
    total = sum(size for size, is_single in sizes if not is_single or size <= limit)
    parts = max(1, math.ceil(total / (config.part_megabytes * 1e6)))
    table = work / "prepared"
    with ProgressBar("read and judge", total=len(files), unit="files") as bar:
        prepare(files, config, parts, table, lambda: bar.advance(1))
    if not any(table.rglob("*.parquet")):
        raise UserError("the files hold no document", where=config.input)
    prepared = load_daft().read_parquet(f"{table}/**/*.parquet")
    with ProgressBar("deduplicate", total=2, unit="passes") as bar:
        exact = exact_duplicates(prepared)
        bar.advance(1, exact=str(len(exact)))
        near = near_duplicate_documents(prepared, exact, config)
        bar.advance(1, near=str(len(near)))
    decisions = decide(prepared, exact, near, config)
    with publish(config.out / "documents") as folder, ProgressBar("write", total=parts, unit="parts") as bar:
        for number in range(parts):
            rows = part_rows(table, number, decisions, tally)
            write_part(rows, number, decisions, config, folder, tally)
            bar.advance(1)
        tally.end()


def decide(prepared: Any, exact: dict[str, str], near: dict[str, tuple[str, float]], config: CorpusConfig) -> Decisions:
    """The split of the documents that are left. UserError when there is none."""
    col = load_daft().col
    rows = prepared.where(col("reason").is_null()).select("record", "id", "language", "size").iter_rows()
    left = [
        Entry(id=row["id"], language=row["language"], size=row["size"])
        for row in rows
        if row["record"] not in exact and row["id"] not in near
    ]
    if not left:
        raise UserError("no document is left after the filters", where=config.input, mend=drop_summary(prepared))
    chosen = held_out(left, config.validation_share, config.seed)
    return Decisions(exact=exact, near=near, held_out=chosen)


def drop_summary(prepared: Any) -> str:
    """Why documents went, most frequent reason first, as a hint."""
    counts: dict[str, int] = {}
    for row in prepared.select("reason").iter_rows():
        counts[row["reason"]] = counts.get(row["reason"], 0) + 1
    told = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items(), key=lambda item: -item[1])[:5])
    return f"Dropped: {told}. Loosen these rules or give other files"


def part_rows(table: Path, number: int, decisions: Decisions, tally: Tally) -> list[dict[str, Any]]:
    """The kept rows of one part in the order of their ids; every row of it is counted."""
    found = sorted((table / f"part={number}").glob("*.parquet"))
    if not found:
        return []
    rows = []
    for row in load_daft().read_parquet([str(path) for path in found]).iter_rows():
        if row["reason"] is None and row["record"] in decisions.exact:
            row |= {"step": "exact_duplicates", "reason": "exact_duplicate", "keeper": decisions.exact[row["record"]]}
        elif row["reason"] is None and row["id"] in decisions.near:
            keeper, similarity = decisions.near[row["id"]]
            row |= {
                "step": "near_duplicates",
                "reason": "near_duplicate",
                "keeper": keeper,
                "similarity": similarity,
            }
        tally.see(row)
        if row["reason"] is None:
            rows.append(row)
    return sorted(rows, key=lambda row: row["id"])


def write_part(
    rows: list[dict[str, Any]], number: int, decisions: Decisions, config: CorpusConfig, folder: Path, tally: Tally
) -> None:
    """Write the rows of one part to the two splits; an empty first part is written too, for its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = output_schema()
    for split in ("train", "validation"):
        chosen = [row for row in rows if (row["id"] in decisions.held_out) == (split == "validation")]
        for row in chosen:
            row["weight"] = config.source_weights.get(row["source"], 1.0)
            tally.keep(row, split)
        (folder / split).mkdir(parents=True, exist_ok=True)
        if chosen or number == 0:
            table = pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in chosen], schema=schema)
            pq.write_table(table, folder / split / f"part-{number:05}.parquet", compression="zstd", row_group_size=4096)


def output_schema() -> Any:
    """The columns of the result."""
    import pyarrow as pa

    strings = [pa.field(name, pa.large_string()) for name in COLUMNS]
    reals = [pa.field(name, pa.float64()) for name in ("weight", "language_confidence", *SCORE_COLUMNS)]
    return pa.schema([*strings, *reals])

"""Raw files to weighted documents: `danlu corpus build`, the report's section on data.

In: a folder of raw files. Out: `documents/train` and `documents/validation` (Parquet: id, text, source, url, language,
weight, a column per score; sorted by id, which is a content hash), `figures.json`, `examples.json`.
"""

import math
import shutil
import sys
from pathlib import Path
from typing import Any

from danlu.corpus.clean import SCORES
from danlu.corpus.config import CorpusConfig
from danlu.corpus.dedup import load_daft
from danlu.corpus.figures import Tally
from danlu.corpus.plan import exact_duplicates, near_duplicate_documents, prepare
from danlu.corpus.records import input_files
from danlu.run.errors import UserError
from danlu.run.files import publish, write_json
from danlu.run.progress import ProgressBar
from danlu.run.seeds import derive_seed

COLUMNS = ("id", "text", "source", "url", "language", "language_confidence", "encoding")


def build(config: CorpusConfig) -> Path:
    """Build the corpus; the folder `out/documents`. Raises UserError for a missing or empty input or an empty result."""
    files, passed_over = input_files(config.input)
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


def build_documents(config: CorpusConfig, files: list[Path], work: Path, tally: Tally) -> None:
    """The steps in order: read and judge, exact duplicates, near duplicates, split and write."""
    total = sum(path.stat().st_size for path in files)
    parts = max(1, math.ceil(total / (config.part_megabytes * 1e6)))
    table = work / "prepared"
    with ProgressBar("read and judge", total=len(files), unit="files") as bar:
        prepare(files, config, parts, table, lambda: bar.advance(1))
    prepared = load_daft().read_parquet(f"{table}/**/*.parquet")
    with ProgressBar("deduplicate", total=2, unit="passes") as bar:
        exact = exact_duplicates(prepared)
        bar.advance(1, exact=str(len(exact)))
        near = near_duplicate_documents(prepared, exact, config)
        bar.advance(1, near=str(len(near)))
    held_out = validation_ids(prepared, exact, near, config)
    with publish(config.out / "documents") as folder, ProgressBar("write", total=parts, unit="parts") as bar:
        for number in range(parts):
            rows = part_rows(table, number, exact, near, tally)
            write_part(rows, number, held_out, config, folder, tally)
            bar.advance(1)
        tally.end()


def validation_ids(
    prepared: Any, exact: dict[str, str], near: dict[str, tuple[str, float]], config: CorpusConfig
) -> set[str]:
    """Ids of the documents held out, by their hash; at least one where there are two. UserError when nothing is left."""
    col = load_daft().col
    rows = prepared.where(col("reason").is_null()).select("record", "id").iter_rows()
    left = [row["id"] for row in rows if row["record"] not in exact and row["id"] not in near]
    if not left:
        raise UserError("no document is left after the filters", where=config.input, mend=drop_summary(prepared))
    draws = {name: derive_seed(config.seed, "validation", name) / 2**63 for name in left}
    chosen = {name for name, draw in draws.items() if draw < config.validation_share}
    if not chosen and config.validation_share > 0 and len(left) > 1:
        chosen = {min(draws, key=lambda name: draws[name])}
    return chosen if len(chosen) < len(left) else chosen - {max(draws, key=lambda name: draws[name])}


def drop_summary(prepared: Any) -> str:
    """Why documents went, most frequent reason first, as a hint."""
    counts: dict[str, int] = {}
    for row in prepared.select("reason").iter_rows():
        counts[row["reason"]] = counts.get(row["reason"], 0) + 1
    told = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items(), key=lambda item: -item[1])[:5])
    return f"Dropped: {told}. Loosen these rules or give other files"


def part_rows(
    table: Path, number: int, exact: dict[str, str], near: dict[str, tuple[str, float]], tally: Tally
) -> list[dict[str, Any]]:
    """The kept rows of one part in the order of their ids; every row of it is counted."""
    found = sorted((table / f"part={number}").glob("*.parquet"))
    if not found:
        return []
    rows = []
    for row in load_daft().read_parquet([str(path) for path in found]).iter_rows():
        if row["reason"] is None and row["record"] in exact:
            row |= {"step": "exact_duplicates", "reason": "exact_duplicate", "keeper": exact[row["record"]]}
        elif row["reason"] is None and row["id"] in near:
            keeper, similarity = near[row["id"]]
            row |= {"step": "near_duplicates", "reason": "near_duplicate", "keeper": keeper, "similarity": similarity}
        tally.see(row)
        if row["reason"] is None:
            rows.append(row)
    return sorted(rows, key=lambda row: row["id"])


def write_part(
    rows: list[dict[str, Any]], number: int, held_out: set[str], config: CorpusConfig, folder: Path, tally: Tally
) -> None:
    """Write the rows of one part to the two splits; an empty first part is written too, for its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    strings = [name for name in COLUMNS if name != "language_confidence"]
    fields = [pa.field(name, pa.large_string() if name in strings else pa.float64()) for name in COLUMNS]
    fields += [pa.field("weight", pa.float64()), *(pa.field(f"score_{name}", pa.float64()) for name in SCORES)]
    schema = pa.schema(fields)
    for split in ("train", "validation"):
        chosen = [row for row in rows if (row["id"] in held_out) == (split == "validation")]
        for row in chosen:
            row["weight"] = config.source_weights.get(row["source"], 1.0)
            tally.keep(row, split)
        (folder / split).mkdir(parents=True, exist_ok=True)
        if chosen or number == 0:
            table = pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in chosen], schema=schema)
            pq.write_table(table, folder / split / f"part-{number:05}.parquet", compression="zstd", row_group_size=4096)

"""Raw files to weighted documents: `danlu corpus build`, the report's section on data.

In: raw files (inputs.py). Out, below `out`:
- `documents/train` and `documents/validation`: Parquet, sorted by id, which is a content hash;
- `dropped`, also Parquet: what did not stay, where it was and why; `signatures`: what a later batch is compared with;
- `figures.json`, `examples.json`, and `manifest.json` with the sha256 of every file, equal for equal input.

Read, extracted and scored partitions stay in the cache, so that an interrupted build goes on where it was, and changed
thresholds cost no scoring.
"""

import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np

from danlu.corpus.choose import Fates, Histograms, Index, choose, read_index, save_decisions
from danlu.corpus.config import CorpusConfig
from danlu.corpus.earlier import with_earlier
from danlu.corpus.estimate import estimate_lines
from danlu.corpus.figures import examples, figures
from danlu.corpus.inputs import Partition, input_files, partitions, scoring_digest
from danlu.corpus.pieces import ScorePartition, WritePart
from danlu.corpus.plan import run_pieces, start_engine
from danlu.corpus.score import Scorer
from danlu.corpus.scores.contamination import build_items, open_items, save_items
from danlu.corpus.scores.models import check_models
from danlu.run.errors import UserError
from danlu.run.files import publish, remove, write_json
from danlu.run.folder import say
from danlu.run.progress import ProgressBar


def build(config: CorpusConfig) -> Path:
    """Build the corpus; the folder `out/documents`. Raises UserError for a missing or empty input or result."""
    files, passed_over = input_files(config)
    pieces = partitions(files, config)
    for line in check_models(config):
        say(f"warning: {line}")
    workers = start_engine(config)
    try:
        scored = score_all(config, pieces, workers)
        histograms = Histograms()
        index = with_earlier(read_index(scored, config, histograms), config)
        with ProgressBar("choose", total=1, unit="corpus") as bar:
            fates = choose(index, config)
            bar.advance(1, kept=str(int((index.reason[: index.num_rows] == 0).sum())))
        write_all(config, index, fates, workers)
    except Exception as error:
        if "No space left on device" in str(error):
            raise UserError("the disk is full", where=config.out, mend="Free some space and run again") from error
        raise
    found = figures(index, fates, config, len(files), passed_over, histograms)
    for warning in found["warnings"]:
        say(f"warning: {warning}")
    write_json(config.out / "examples.json", examples(index, fates))
    write_json(config.out / "figures.json", found)
    return config.out / "documents"


def print_plan(config: CorpusConfig) -> None:
    """`--dry-run`: what a build would read and do, and what that would cost. Raises UserError as `build` would."""
    files, passed_over = input_files(config)
    check_models(config)
    lines = estimate_lines(config, files, passed_over, partitions(files, config), scored_folder(config))
    print("\n".join(lines))


ABANDONED_SECONDS = 24 * 3600
"""A half-written file of this age in the cache was left by a killed build; a younger one may be another build's."""


def scored_folder(config: CorpusConfig) -> Path:
    """Where scored partitions are kept: a folder for each way of scoring."""
    return config.cache / scoring_digest(config)


def score_all(config: CorpusConfig, pieces: list[Partition], workers: int) -> list[Path]:
    """Score the partitions that are not in the cache; their files, in order."""
    folder = scored_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".*.partial"):
        if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
            left.unlink(missing_ok=True)
    files = [folder / f"{piece.digest()}.parquet" for piece in pieces]
    missing = [piece for piece, path in zip(pieces, files, strict=True) if not path.exists()]
    # The largest first, so that none is left alone at the end.
    missing.sort(key=lambda piece: (-piece.cost, piece.number))
    if len(missing) < len(pieces):
        say(f"corpus: {len(pieces) - len(missing)} of {len(pieces)} partitions are scored already")
    work = ScorePartition(scorer=Scorer(config, evaluation_items(config, folder)), folder=folder.resolve())
    total = sum(len(piece.files) for piece in missing)
    records = 0
    with ProgressBar("read and score", total=total, unit="files") as bar:
        for result in run_pieces(work, missing, config, workers):
            records += result["records"]
            bar.advance(result["files"], records=str(records))
    return files


def evaluation_items(config: CorpusConfig, folder: Path) -> Path | None:
    """The n-grams of the evaluation sets in one file for all processes; None where there are none."""
    if not config.evaluation_sets:
        return None
    path = folder.resolve() / "evaluation-items.npz"
    if not path.exists():
        save_items(build_items(config.evaluation_sets, config.decontamination), path)
    items = open_items(path)
    say(f"corpus: {len(items.names)} evaluation items are compared, {items.not_compared} are too short or alike")
    return path


def write_all(config: CorpusConfig, index: Index, fates: Fates, workers: int) -> None:
    """Write the result beside its place, part by part; a part that an interrupted build has written is not written
    again. It takes its place when it is whole."""
    work = config.out / ".work"
    remove(config.out / OLD_WORK)
    folder = work / decisions_mark(index, fates, config)
    if not folder.is_dir():
        remove(work)
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    if not (folder / "manifest.json").exists():
        write_parts(config, index, fates, workers, folder)
    # From here on only names change: the list of files says that all are whole, and what has moved is not looked for.
    for name in ("dropped", "signatures", "documents"):
        if (folder / name).exists():
            remove(config.out / name)
            (folder / name).rename(config.out / name)
    write_json(config.out / "manifest.json", json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    work.rename(config.out / OLD_WORK)
    remove(config.out / OLD_WORK)


OLD_WORK = ".work.old"


def write_parts(config: CorpusConfig, index: Index, fates: Fates, workers: int, folder: Path) -> None:
    """Write the parts that are missing in `folder`, and then the list of them all."""
    kept = index.stays[index.stays < index.num_rows]
    parts = max(1, math.ceil(int(fates.final_size[kept].sum()) / (config.part_megabytes * 1e6)))
    decisions = folder / "decisions"
    if not decisions.is_dir():
        with publish(decisions) as aside:
            aside.mkdir()
            save_decisions(index, fates, parts, aside)
    done = {int(path.stem): json.loads(path.read_text()) for path in (folder / "parts").glob("*.json")}
    writer = WritePart(config, tuple(path.resolve() for path in index.scored), decisions.resolve(), folder.resolve())
    missing = [number for number in range(parts) if number not in done]
    with ProgressBar("write", total=parts, unit="parts") as bar:
        bar.advance(len(done))
        for result in run_pieces(writer, missing, config, workers):
            write_json(folder / "parts" / f"{result['part']}.json", result["files"])
            done[result["part"]] = result["files"]
            bar.advance(1)
    manifest = {name: entry for number in sorted(done) for name, entry in done[number].items()}
    write_json(folder / "manifest.json", dict(sorted(manifest.items())))


def decisions_mark(index: Index, fates: Fates, config: CorpusConfig) -> str:
    """Changes when anything that is written does."""
    total = hashlib.sha256(json.dumps([str(path) for path in index.scored]).encode())
    weights = {name: source.weight for name, source in sorted(config.sources.items())}
    total.update(json.dumps([weights, index.steps, index.reasons, config.part_megabytes]).encode())
    for values in (index.step, index.reason, fates.keeper, fates.is_held_out, np.nan_to_num(fates.similarity)):
        total.update(np.ascontiguousarray(values).tobytes())
    total.update(json.dumps(sorted(fates.paragraphs.items())).encode())
    return total.hexdigest()[:20]

"""Which documents stay: thresholds, exact duplicates, near-duplicates, paragraphs, held-out documents.

In: the scored table. Out: for every row its fate. Only numbers of a document are in memory here, some 100 bytes each,
and one band of the signatures at a time; texts are read again for the candidates alone. What is decided follows from
the documents and from nothing else: not from partitions, names of files, or their order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from danlu.corpus.config import CorpusConfig
from danlu.corpus.duplicates.clusters import LOWER, candidate_pairs, largest_component, resolve
from danlu.corpus.duplicates.near import SHINGLE_BYTES
from danlu.corpus.duplicates.paragraphs import repeated, without
from danlu.corpus.score import SCORES
from danlu.corpus.split import held_out
from danlu.corpus.table import band_columns, read_columns, read_scattered
from danlu.corpus.thresholds import judged_language, reasons
from danlu.corpus.tokens import comparable, shingles
from danlu.run.errors import UserError

READ = ("id", "source", "kind", "language", "step", "reason", "size", "tokens", "letters", "personal_data")
NOBODY = -1


@dataclass(kw_only=True)
class Index:
    """Numbers of every row of the scored table, and behind them of an earlier build's documents."""

    scored: tuple[Path, ...]
    """The partitions' files, and behind them the earlier build's `documents`."""
    signed: tuple[Path, ...]
    """The files with the bands and paragraphs of the same rows: the partitions', and the earlier build's
    `signatures`."""
    num_rows: int
    """Rows of this build; those behind are the earlier one's."""
    partition: np.ndarray
    row: np.ndarray
    id_high: np.ndarray
    id_low: np.ndarray
    key: np.ndarray
    address: np.ndarray
    size: np.ndarray
    tokens: np.ndarray
    quality: np.ndarray
    source: np.ndarray
    language: np.ndarray
    step: np.ndarray
    reason: np.ndarray
    personal_data: np.ndarray
    sources: list[str]
    languages: list[str]
    steps: list[str]
    reasons: list[str]

    def __len__(self) -> int:
        return len(self.row)

    def ids(self, places: np.ndarray) -> list[str]:
        return [
            f"{high:016x}{low:016x}"
            for high, low in zip(self.id_high[places].tolist(), self.id_low[places].tolist(), strict=True)
        ]

    def drop(self, places: np.ndarray, step: str, reason: str) -> None:
        self.step[places] = code_of(self.steps, step)
        self.reason[places] = code_of(self.reasons, reason)

    @property
    def stays(self) -> np.ndarray:
        """Places of what has not been dropped."""
        return np.flatnonzero(self.reason == 0)


def code_of(names: list[str], name: str) -> int:
    """The number of a name, which is given one if it has none."""
    if name not in names:
        names.append(name)
    return names.index(name)


class Encoder:
    """Numbers for names, handed out as they come."""

    def __init__(self, first: list[str] | None = None) -> None:
        self.names = first or []
        self.numbers = {name: number for number, name in enumerate(self.names)}

    def codes(self, values: np.ndarray) -> np.ndarray:
        distinct, inverse = np.unique(values, return_inverse=True)
        for name in map(str, distinct.tolist()):
            if name not in self.numbers:
                self.numbers[name] = len(self.names)
                self.names.append(name)
        return np.array([self.numbers[str(name)] for name in distinct.tolist()], dtype=np.int32)[inverse]


def read_index(scored: list[Path], config: CorpusConfig, histograms: "Histograms") -> Index:
    """Read the numbers of every row and apply the thresholds."""
    parts: dict[str, list[np.ndarray]] = {}
    sources, languages, steps, why = Encoder(), Encoder(), Encoder([""]), Encoder([""])
    for number, path in enumerate(scored):
        row = 0
        for batch in read_columns(path, [*READ, *SCORES, "key", "address"]):
            columns = {name: as_array(batch.column(name)) for name in (*READ, *SCORES, "key", "address")}
            step, reason = reasons(columns, config)
            language = np.where(reason == "language_unknown", "unknown", judged_language(columns, config))
            histograms.add(columns, language, step)
            high, low = id_numbers(columns["id"])
            taken = {
                "partition": np.full(len(high), number, dtype=np.int32), "row": np.arange(row, row + len(high)),
                "id_high": high, "id_low": low, "key": columns["key"], "address": columns["address"],
                "size": columns["size"], "tokens": columns["tokens"],
                "quality": np.nan_to_num(columns["quality"], nan=0.0).astype(np.float32),
                "source": sources.codes(columns["source"]), "language": languages.codes(language),
                "step": steps.codes(step), "reason": why.codes(reason), "personal_data": columns["personal_data"],
            }  # fmt: skip
            for name, values in taken.items():
                parts.setdefault(name, []).append(values)
            row += len(high)
    if not parts:
        raise UserError("the files hold no document", where=config.input)
    arrays: dict[str, Any] = {name: np.concatenate(values) for name, values in parts.items()}
    return Index(
        scored=tuple(scored), signed=tuple(scored), num_rows=len(arrays["row"]), **arrays, sources=sources.names,
        languages=languages.names, steps=steps.names, reasons=why.names,
    )  # fmt: skip


def as_array(column: Any) -> np.ndarray:
    """A column as numpy: text as fixed width ("" for null), numbers as they are (NaN for null)."""
    import pyarrow as pa

    if pa.types.is_large_string(column.type):
        return np.asarray(column.fill_null("").to_pylist(), dtype=np.str_)
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    return values


def id_numbers(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids of 32 hexadecimal digits as two 64-bit numbers each."""
    raw = np.frombuffer(bytes.fromhex("".join(ids.tolist())), dtype=">u8").reshape(-1, 2)
    return raw[:, 0].astype(np.uint64), raw[:, 1].astype(np.uint64)


class Histograms:
    """How scores are spread, for the report: documents that were judged, by score and language."""

    SHOWN = ("language_confidence", "perplexity", "quality", "violence", "hate", "pornography", "contamination")
    BINS = 20

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, np.ndarray]] = {name: {} for name in self.SHOWN}

    def add(self, columns: dict[str, np.ndarray], language: np.ndarray, step: np.ndarray) -> None:
        """Count the documents of a batch that got as far as being scored and are in a language that is kept."""
        is_judged = ~np.isin(step, ["read", "extract", "language"])
        for name in self.SHOWN:
            values = columns[name]
            # Perplexity has no upper end: it is counted by its logarithm to the base of 10, up to 5.
            shown = np.log10(np.maximum(values, 1)) / 5 if name == "perplexity" else values
            for code in np.unique(language[is_judged]).tolist():
                mine = shown[is_judged & (language == code) & ~np.isnan(values)]
                if len(mine):
                    counts, _ = np.histogram(np.clip(mine, 0, 1), bins=self.BINS, range=(0, 1))
                    self.counts[name][code] = self.counts[name].get(code, 0) + counts

    def figures(self) -> dict[str, Any]:
        """By score and language: documents in each of BINS equal steps from 0 to 1 (perplexity: of log10, 0 to 5)."""
        return {
            name: {code: counts.tolist() for code, counts in sorted(by_language.items())}
            for name, by_language in self.counts.items()
            if by_language
        }


@dataclass(kw_only=True)
class Fates:
    """What was decided, by place in the index."""

    keeper: np.ndarray
    """The place of the document that stays instead; NOBODY."""
    similarity: np.ndarray
    is_held_out: np.ndarray
    final_size: np.ndarray
    """Bytes of each document without the paragraphs that go."""
    paragraphs: dict[int, list[int]]
    """Places of the paragraphs that go, for documents that stay."""
    candidates: int = 0
    largest_component: int = 0

    @property
    def near(self) -> np.ndarray:
        """Places of what went as a near-duplicate."""
        return np.flatnonzero(~np.isnan(self.similarity))


def choose(index: Index, config: CorpusConfig) -> Fates:
    """Decide for every row. Raises UserError when none stays."""
    fates = Fates(
        keeper=np.full(len(index), NOBODY, dtype=np.int64), similarity=np.full(len(index), np.nan),
        is_held_out=np.zeros(len(index), dtype=bool), paragraphs={}, final_size=index.size.copy(),
    )  # fmt: skip
    drop_exact(index, fates)
    drop_near(index, fates, config)
    # What an exact duplicate gave way to may itself have gone for another since.
    exact = np.flatnonzero((fates.keeper != NOBODY) & np.isnan(fates.similarity))
    after = fates.keeper[fates.keeper[exact]]
    fates.keeper[exact[after != NOBODY]] = after[after != NOBODY]
    if config.repeated_paragraphs:
        drop_paragraphs(index, fates)
    left = index.stays
    left = left[left < index.num_rows]
    if not len(left):
        why = {name: int((index.reason == code).sum()) for code, name in enumerate(index.reasons) if name}
        told = ", ".join(
            f"{name} {count}" for name, count in sorted(why.items(), key=lambda item: -item[1])[:5] if count
        )
        raise UserError(
            "no document is left after the filters", where=config.input,
            mend=f"Dropped: {told}. Loosen these rules or give other files",
        )  # fmt: skip
    languages = np.array(index.languages)[index.language[left]]
    sizes = fates.final_size[left].tolist()
    chosen = held_out(index.ids(left), languages.tolist(), sizes, config.validation_share, config.seed)
    fates.is_held_out[left] = np.array(chosen)
    return fates


def preference(index: Index, places: np.ndarray) -> np.ndarray:
    """Places in the order in which documents are preferred: an earlier build's first, then of higher quality, longer,
    of smaller content hash; of copies the one of smallest source and address."""
    names = np.argsort(np.argsort(np.array(index.sources)))
    keys = (
        index.address[places], names[index.source[places]], index.id_low[places], index.id_high[places],
        -index.size[places], -index.quality[places], places < index.num_rows,
    )  # fmt: skip
    return places[np.lexsort(keys)]


def drop_exact(index: Index, fates: Fates) -> None:
    """Of documents with the same normalised text the preferred one stays."""
    order = preference(index, index.stays)
    keys = index.key[order]
    by_key = np.argsort(keys, kind="stable")
    same = keys[by_key][1:] == keys[by_key][:-1]
    starts = np.flatnonzero(np.concatenate(([True], ~same)))
    group = np.cumsum(np.concatenate(([0], ~same)))
    again = np.flatnonzero(np.concatenate(([False], same)))
    gone = order[by_key[again]]
    fates.keeper[gone] = order[by_key[starts[group[again]]]]
    index.drop(gone, "exact_duplicates", "exact_duplicate")


def drop_near(index: Index, fates: Fates, config: CorpusConfig) -> None:
    """Of near-duplicates the preferred one stays, and takes those with it that are themselves similar to it."""
    order = preference(index, index.stays)
    pairs = candidate_pairs(bands(index, order, config), config.minhash.largest_bucket)
    # Two documents of the earlier build have been compared already.
    pairs = pairs[order[(pairs & LOWER).astype(np.int64)] < index.num_rows]
    if not len(pairs):
        return
    fates.candidates, fates.largest_component = len(pairs), largest_component(pairs)
    sizes = SHINGLE_BYTES * index.tokens[order]

    def read(wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for number, text in texts(index, order[wanted]):
            yield int(wanted[number]), shingles(comparable(text), config.minhash.ngram)

    gone = resolve(pairs, sizes, read, config.minhash.threshold, config.minhash.memory_megabytes * 1e6)
    places = order[np.array(list(gone), dtype=np.int64)]
    fates.keeper[places] = order[np.array([keeper for keeper, _ in gone.values()], dtype=np.int64)]
    fates.similarity[places] = [similarity for _, similarity in gone.values()]
    index.drop(places, "near_duplicates", "near_duplicate")


def bands(index: Index, order: np.ndarray, config: CorpusConfig) -> Iterator[np.ndarray]:
    """For each band its numbers, documents in the given order; one band is read at a time."""
    for name in band_columns(config.minhash):
        column = [
            batch.column(0).to_numpy(zero_copy_only=False)
            for path in index.signed
            for batch in read_columns(path, [name])
        ]
        yield np.concatenate(column)[order]


def texts(index: Index, places: np.ndarray) -> Iterator[tuple[int, str]]:
    """The texts of some rows: for each the number within `places`, and the text."""
    for at, row in read_scattered(index.scored, index.partition[places], index.row[places], ["text"]):
        yield at, row["text"]


def drop_paragraphs(index: Index, fates: Fates) -> None:
    """Paragraphs that stand in a preferred document, or before in the same one, go; a document with none left too."""
    order = preference(index, index.stays)
    rank = np.full(len(index), NOBODY, dtype=np.int64)
    rank[order] = np.arange(len(order))

    class Paragraphs:
        """Of every document that stays: number in the order of preference, and the numbers of its paragraphs."""

        def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
            start = 0
            for path in index.signed:
                for batch in read_columns(path, ["paragraphs"]):
                    column = batch.column(0)
                    values, offsets = column.values.to_numpy(), column.offsets.to_numpy()
                    for at, number in enumerate(rank[start : start + len(column)].tolist()):
                        if number != NOBODY:
                            yield number, values[offsets[at] : offsets[at + 1]]
                    start += len(column)

    counts = np.zeros(len(order), dtype=np.int64)
    for number, paragraphs in Paragraphs():
        counts[number] = len(paragraphs)
    for number, place in repeated(Paragraphs(), int(counts.sum())):
        if order[number] < index.num_rows:
            fates.paragraphs.setdefault(int(order[number]), []).append(place)
    changed = np.array(sorted(fates.paragraphs), dtype=np.int64)
    empty = []
    for at, text in texts(index, changed):
        place = int(changed[at])
        left = without(text, fates.paragraphs[place])
        fates.final_size[place] = len(left.encode("utf-8", "replace"))
        if not left.strip():
            empty.append(place)
            del fates.paragraphs[place]
    index.drop(np.array(empty, dtype=np.int64), "paragraphs", "repeated_paragraphs")


def part_of(id_high: np.ndarray, parts: int) -> np.ndarray:
    """The part that each id belongs to: equal ranges in the order of ids."""
    return ((id_high >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)).astype(np.int64)


def save_decisions(index: Index, fates: Fates, parts: int, folder: Path) -> None:
    """Write what each part of the result needs: `part-NUMBER.npz`."""
    part = part_of(index.id_high[: index.num_rows], parts)
    order = np.argsort(part, kind="stable")
    ends = np.searchsorted(part[order], np.arange(parts), side="right")
    start = 0
    steps, why = np.array(index.steps), np.array(index.reasons)
    for number, end in enumerate(ends.tolist()):
        mine = order[start:end]
        start = end
        keeper = np.full(len(mine), "", dtype="<U32")
        has = np.flatnonzero(fates.keeper[mine] != NOBODY)
        keeper[has] = index.ids(fates.keeper[mine[has]])
        removed = [sorted(fates.paragraphs.get(place, [])) for place in mine.tolist()]
        np.savez(
            folder / f"part-{number:05}.npz", partition=index.partition[mine], row=index.row[mine],
            step=steps[index.step[mine]], reason=why[index.reason[mine]], keeper=keeper,
            similarity=fates.similarity[mine], split=np.where(fates.is_held_out[mine], "validation", "train"),
            paragraphs=np.array([at for gone in removed for at in gone], dtype=np.int64),
            paragraph_starts=np.cumsum([0, *map(len, removed)]),
        )  # fmt: skip

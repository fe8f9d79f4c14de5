"""Which evaluation item stands in a document: by the share of the item's n-grams that the document holds.

In: a folder of evaluation sets (read as files), and documents' tokens. Out: the share, 0 to 1, and the item's name.
Both sides are compared without case, width, punctuation, line breaks and the difference of Simplified and Traditional
characters. An n-gram that many items share is an instruction and no evidence. Paraphrases and translations are not
found: that is the known limit of comparing n-grams.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from danlu.corpus.config import DecontaminationConfig
from danlu.corpus.language import HAN, simplified
from danlu.corpus.tokens import gram_numbers, token_numbers, tokens
from danlu.run.errors import UserError, first_line
from danlu.run.files import files_in, publish_shared

QUESTION_FIELDS = ("question", "problem", "prompt", "input", "instruction", "query", "text", "ctx", "sentence")
"""Names under which evaluation sets hold what a model is asked; the first that a record has."""
OPTION_FIELDS = ("A", "B", "C", "D", "E")
FEWEST_TOKENS = 8
"""Tokens of an item at least, 13 in Chinese: shorter ones stand in many texts by chance, and are counted as not
compared. 8 and 13 are the shorter n-grams that GPT-3 and others used."""
BITS = 24
"""A table of 2^24 bits tells for most n-grams at once that no item has them."""


def read_items(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every item below a folder. Raises UserError for a folder without any, or a broken file."""
    if not folder.is_dir():
        raise UserError("no such folder of evaluation sets", where=folder)
    count = 0
    for path in files_in(folder):
        if path.name.startswith("."):
            continue
        name = path.relative_to(folder).as_posix()
        try:
            for number, text in enumerate(items_of(path), start=1):
                count += 1
                yield f"{name}#{number}", text
        except (OSError, ValueError, csv.Error, EOFError) as error:
            raise UserError(f"cannot be read as an evaluation set ({first_line(error)})", where=path) from error
    if not count:
        raise UserError(
            "holds no evaluation item", where=folder, mend="Known are .jsonl .json .csv .txt, also with .gz behind it"
        )


def items_of(path: Path) -> Iterator[str]:
    """The items of one file; nothing for a file of another kind."""
    kind = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
    if kind not in (".jsonl", ".json", ".csv", ".txt"):
        return
    body = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = body.decode("utf-8-sig")
    if kind == ".jsonl":
        for line in text.split("\n"):
            yield from item_texts(json.loads(line)) if line.strip() else ()
    elif kind == ".json":
        yield from item_texts(json.loads(text))
    elif kind == ".csv":
        rows = list(csv.reader(io.StringIO(text)))
        header = rows[0] if rows and "question" in rows[0] else None
        for row in rows[1 if header else 0 :]:
            values = dict(zip(header or ("question", *OPTION_FIELDS), row, strict=False))
            yield from item_texts(values)
    else:
        yield from (paragraph for paragraph in text.split("\n\n") if paragraph.strip())


def item_texts(value: Any) -> Iterator[str]:
    """What is asked in a JSON value: the question of a record, with its options where it is short, or of the records
    inside it. A short question alone is no evidence."""
    if isinstance(value, list):
        for inner in value:
            yield from item_texts(inner)
    elif isinstance(value, dict):
        question = next((value[name] for name in QUESTION_FIELDS if isinstance(value.get(name), str)), None)
        if question is None:
            for inner in value.values():
                if isinstance(inner, list | dict):
                    yield from item_texts(inner)
            return
        yield (
            question
            if len(comparable_tokens(question)) >= 2 * FEWEST_TOKENS
            else " ".join([question, *options_of(value)])
        )


def options_of(record: dict[str, Any]) -> list[str]:
    """The options of a question: under letters, or a list of texts under `choices` or `options`."""
    listed = next((record[name] for name in ("choices", "options") if name in record), None)
    listed = listed.get("text", list(listed.values())) if isinstance(listed, dict) else listed
    if isinstance(listed, list):
        return [str(option) for option in listed]
    return [str(record[name]) for name in OPTION_FIELDS if record.get(name)]


def comparable_tokens(text: str) -> list[str]:
    """Tokens in which an item and its copy are the same."""
    return tokens(simplified().convert(text) if HAN.search(text) else text)


def lengths_for(words: Sequence[str], ngram: int) -> tuple[int, ...]:
    """Lengths of n-grams by which a text of these tokens is compared: the longest first that it has."""
    is_chinese = 2 * sum(bool(HAN.match(word)) for word in words) > len(words)
    return (2 * ngram, ngram) if is_chinese else (ngram, FEWEST_TOKENS)


@dataclass(frozen=True, kw_only=True)
class Items:
    """N-grams of evaluation items: for each length the sorted numbers and the item of each."""

    names: tuple[str, ...]
    totals: np.ndarray
    """Number of n-grams of each item that are evidence."""
    grams: dict[int, np.ndarray]
    owners: dict[int, np.ndarray]
    seen: dict[int, np.ndarray]
    """Table of bits by the upper part of a number."""
    not_compared: int
    """Items that are too short, or have too few n-grams of their own."""


LEAST_TELLING = 4
"""N-grams of its own at least that an item needs, or all of a shorter one. Our choice: one alone would make a single
sentence the whole item."""


def build_items(folders: Sequence[Path], config: DecontaminationConfig) -> Items:
    """Read the evaluation sets. Of items with the same n-grams the first stands for all."""
    gathered: dict[bytes, tuple[str, int, np.ndarray]] = {}
    not_compared = 0
    for folder in folders:
        for name, text in read_items(folder):
            words = comparable_tokens(text)
            length = next((n for n in lengths_for(words, config.ngram) if len(words) >= n), None)
            if length is None:
                not_compared += 1
                continue
            found = np.unique(gram_numbers(token_numbers(words), length))
            gathered.setdefault(found.tobytes(), (name, length, found))
    every = list(gathered.values())
    telling = telling_grams(every, config.max_documents_an_ngram)
    enough = [len(own) >= min(LEAST_TELLING, len(found)) for own, (_, _, found) in zip(telling, every, strict=True)]
    not_compared += enough.count(False)
    chosen = [
        (name, length, own)
        for (name, length, _), own, is_enough in zip(every, telling, enough, strict=True)
        if is_enough
    ]
    if not chosen:
        raise UserError("every evaluation item is too short to be compared", where=", ".join(map(str, folders)))
    return indexed(chosen, not_compared)


def telling_grams(every: list[tuple[str, int, np.ndarray]], most: int) -> list[np.ndarray]:
    """For each item those of its n-grams that at most `most` items share."""
    telling: list[np.ndarray] = [found for _, _, found in every]
    for length in {length for _, length, _ in every}:
        mine = [place for place, (_, own, _) in enumerate(every) if own == length]
        numbers, counts = np.unique(np.concatenate([every[place][2] for place in mine]), return_counts=True)
        shared = numbers[counts > most]
        for place in mine:
            telling[place] = telling[place][~np.isin(telling[place], shared)]
    return telling


def indexed(items: list[tuple[str, int, np.ndarray]], not_compared: int) -> Items:
    """Items by name, length and telling n-grams, as they are looked up."""
    names = [name for name, _, _ in items]
    totals = np.array([len(found) for _, _, found in items], dtype=np.int64)
    grams, owners = {}, {}
    for length in sorted({length for _, length, _ in items}):
        mine = [(place, found) for place, (_, own, found) in enumerate(items) if own == length]
        numbers = np.concatenate([found for _, found in mine])
        holders = np.concatenate([np.full(len(found), place, dtype=np.int32) for place, found in mine])
        order = np.lexsort((holders, numbers))
        grams[length], owners[length] = numbers[order], holders[order]
    return Items(
        names=tuple(names), totals=totals, grams=grams, owners=owners, not_compared=not_compared,
        seen={length: table_of(numbers) for length, numbers in grams.items()},
    )  # fmt: skip


def table_of(numbers: np.ndarray) -> np.ndarray:
    table = np.zeros(1 << BITS, dtype=bool)
    table[numbers >> np.uint64(64 - BITS)] = True
    return table


def save_items(items: Items, path: Path) -> None:
    """One file for all processes that score."""
    arrays: dict[str, np.ndarray] = {"totals": items.totals, "not_compared": np.array(items.not_compared)}
    arrays["names"] = np.frombuffer(json.dumps(items.names).encode(), dtype=np.uint8)
    for length, numbers in items.grams.items():
        arrays[f"grams_{length}"], arrays[f"owners_{length}"] = numbers, items.owners[length]
    with publish_shared(path) as aside, aside.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


@cache
def open_items(path: Path) -> Items:
    """What `save_items` wrote."""
    with np.load(path) as arrays:
        lengths = [int(name.removeprefix("grams_")) for name in arrays if name.startswith("grams_")]
        grams = {length: arrays[f"grams_{length}"] for length in lengths}
        return Items(
            names=tuple(json.loads(arrays["names"].tobytes())), totals=arrays["totals"], grams=grams,
            owners={length: arrays[f"owners_{length}"] for length in lengths}, not_compared=int(arrays["not_compared"]),
            seen={length: table_of(numbers) for length, numbers in grams.items()},
        )  # fmt: skip


def contamination(items: Items, text: str) -> tuple[float, str]:
    """The largest share of an item's n-grams that a text holds, and which item that is (the first of equals)."""
    numbers = token_numbers(comparable_tokens(text))
    hits = []
    for length, grams in items.grams.items():
        if len(numbers) < length:
            continue
        found = gram_numbers(numbers, length)
        found = np.unique(found[items.seen[length][found >> np.uint64(64 - BITS)]])
        starts, ends = np.searchsorted(grams, found, "left"), np.searchsorted(grams, found, "right")
        for start, end in zip(starts[ends > starts].tolist(), ends[ends > starts].tolist(), strict=True):
            hits.append(items.owners[length][start:end])
    if not hits:
        return 0.0, ""
    owners, counts = np.unique(np.concatenate(hits), return_counts=True)
    shares = counts / items.totals[owners]
    best = int(np.argmax(shares))
    return float(shares[best]), items.names[owners[best]]

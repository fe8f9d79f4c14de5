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
from danlu.run.files import publish

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
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    if not folder.is_dir():
        raise UserError("no such folder of evaluation sets", where=folder)
    count = 0
    for path in files:
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
        for line in text.splitlines():
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
        options = [str(value[name]) for name in OPTION_FIELDS if value.get(name)]
        yield question if len(comparable_tokens(question)) >= 2 * FEWEST_TOKENS else " ".join([question, *options])


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
    too_short: int
    """Items that are not compared."""


def build_items(folder: Path, config: DecontaminationConfig) -> Items:
    """Read the evaluation sets."""
    names, gathered, too_short = [], [], 0
    for name, text in read_items(folder):
        words = comparable_tokens(text)
        length = next((n for n in lengths_for(words, config.ngram) if len(words) >= n), None)
        if length is None:
            too_short += 1
            continue
        gathered.append((length, np.unique(gram_numbers(token_numbers(words), length))))
        names.append(name)
    if not names:
        raise UserError("every evaluation item is too short to be compared", where=folder)
    totals = np.zeros(len(names), dtype=np.int64)
    grams, owners = {}, {}
    for length in sorted({length for length, _ in gathered}):
        mine = [(item, found) for item, (own, found) in enumerate(gathered) if own == length]
        numbers = np.concatenate([found for _, found in mine])
        holders = np.concatenate([np.full(len(found), item, dtype=np.int32) for item, found in mine])
        _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        telling = counts[inverse] <= config.max_documents_an_ngram
        numbers, holders = numbers[telling], holders[telling]
        order = np.lexsort((holders, numbers))
        grams[length], owners[length] = numbers[order], holders[order]
        totals += np.bincount(holders, minlength=len(names))
    return Items(
        names=tuple(names), totals=totals, grams=grams, owners=owners, too_short=too_short,
        seen={length: table_of(numbers) for length, numbers in grams.items()},
    )  # fmt: skip


def table_of(numbers: np.ndarray) -> np.ndarray:
    table = np.zeros(1 << BITS, dtype=bool)
    table[numbers >> np.uint64(64 - BITS)] = True
    return table


def save_items(items: Items, path: Path) -> None:
    """One file for all processes that score."""
    arrays: dict[str, np.ndarray] = {"totals": items.totals, "too_short": np.array(items.too_short)}
    arrays["names"] = np.frombuffer(json.dumps(items.names).encode(), dtype=np.uint8)
    for length, numbers in items.grams.items():
        arrays[f"grams_{length}"], arrays[f"owners_{length}"] = numbers, items.owners[length]
    with publish(path) as aside, aside.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


@cache
def open_items(path: Path) -> Items:
    """What `save_items` wrote."""
    with np.load(path) as arrays:
        lengths = [int(name.removeprefix("grams_")) for name in arrays if name.startswith("grams_")]
        grams = {length: arrays[f"grams_{length}"] for length in lengths}
        return Items(
            names=tuple(json.loads(arrays["names"].tobytes())), totals=arrays["totals"], grams=grams,
            owners={length: arrays[f"owners_{length}"] for length in lengths}, too_short=int(arrays["too_short"]),
            seen={length: table_of(numbers) for length, numbers in grams.items()},
        )  # fmt: skip


def contamination(items: Items, text: str) -> tuple[float, str]:
    """The largest share of an item's n-grams that a text holds, and which item that is (the first of equals)."""
    numbers = token_numbers(comparable_tokens(text))
    hits = np.zeros(0, dtype=np.int64)
    for length, grams in items.grams.items():
        if len(numbers) < length:
            continue
        found = gram_numbers(numbers, length)
        found = np.unique(found[items.seen[length][found >> np.uint64(64 - BITS)]])
        starts, ends = np.searchsorted(grams, found, "left"), np.searchsorted(grams, found, "right")
        for start, end in zip(starts[ends > starts].tolist(), ends[ends > starts].tolist(), strict=True):
            hits = np.concatenate([hits, items.owners[length][start:end]])
    if not len(hits):
        return 0.0, ""
    owners, counts = np.unique(hits, return_counts=True)
    shares = counts / items.totals[owners]
    best = int(np.argmax(shares))
    return float(shares[best]), items.names[owners[best]]

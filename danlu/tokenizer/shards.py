"""Token shards: what pretraining reads.

In: documents and a tokenizer. Out: a folder with

    tokens-00000.bin, …    ids as uint16 (vocabularies up to 65,536) or uint32; <|endoftext|> after each document
    offsets.npy            int64, num_documents + 1: document i is tokens[offsets[i]:offsets[i + 1]] with its marker
    num_bytes.npy          int64, UTF-8 bytes of each document's text in NFC, the divisor of bits per byte
    languages.npy          uint16, index into the list of languages in index.json
    index.json             kind of number, files with their numbers of tokens, languages, vocabulary, end marker

Documents never lie across two files; the reader joins the files into one sequence.
"""

import itertools
import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from danlu.run.errors import UserError
from danlu.run.files import publish, write_json
from danlu.run.progress import ProgressBar
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.config import TokensConfig
from danlu.tokenizer.documents import Document, count_documents, iter_documents, iter_weights
from danlu.tokenizer.mixing import Draws
from danlu.tokenizer.text import normalize

INDEX_FILE = "index.json"
MEND = "Run `danlu tokenizer shards` again"
FORMAT = 1
DOCUMENTS_PER_BATCH = 256
"""How many documents are encoded at once; our choice, enough to keep a few cores busy."""

Totals = dict[str, dict[str, int]]
"""`documents`, `tokens` (end markers included) and `bytes`, by language and for `all`."""


class ShardWriter:
    """Appends documents to the files of a folder; a file is closed after the document that fills it."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, tokens_per_file: int) -> None:
        folder.mkdir(parents=True)
        self.folder, self.tokenizer, self.tokens_per_file = folder, tokenizer, tokens_per_file
        self.kind = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
        self.files: list[dict[str, Any]] = []
        self.stream: BinaryIO | None = None
        self.ends, self.num_bytes, self.languages = array("q", [0]), array("q"), array("H")
        self.names: dict[str, int] = {}
        self.by_source: dict[str, dict[str, int]] = defaultdict(lambda: {"draws": 0, "tokens": 0})

    def add(self, documents: list[Document]) -> None:
        """Encode and append a batch of documents."""
        texts = [normalize(document.text) for document in documents]
        for document, text, ids in zip(documents, texts, self.tokenizer.encode_batch(texts), strict=True):
            # The end marker is put in by its id: text that spells it has become ordinary tokens.
            self._append(np.asarray([*ids, self.tokenizer.end_of_text_id], dtype=self.kind))
            self.num_bytes.append(len(text.encode()))
            source = self.by_source[document.source]
            source["draws"], source["tokens"] = source["draws"] + 1, source["tokens"] + len(ids) + 1
            self.languages.append(self.names.setdefault(document.language, len(self.names)))

    def _append(self, ids: NDArray[Any]) -> None:
        if self.stream is None:
            self.files.append({"name": f"tokens-{len(self.files):05d}.bin", "num_tokens": 0})
            self.stream = (self.folder / self.files[-1]["name"]).open("wb")
        ids.tofile(self.stream)
        self.files[-1]["num_tokens"] += len(ids)
        self.ends.append(self.ends[-1] + len(ids))
        if self.files[-1]["num_tokens"] >= self.tokens_per_file:
            self.close_file()

    def close_file(self) -> None:
        """End the file that is being written."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def finish(self) -> Totals:
        """Write the index; the totals of what was written."""
        self.close_file()
        np.save(self.folder / "offsets.npy", np.frombuffer(self.ends, dtype=np.int64))
        np.save(self.folder / "num_bytes.npy", np.array(self.num_bytes, dtype=np.int64))
        np.save(self.folder / "languages.npy", np.array(self.languages, dtype=np.uint16))
        index = {
            "format": FORMAT,
            "dtype": self.kind.name,
            "num_documents": len(self.num_bytes),
            "num_tokens": self.ends[-1],
            "files": self.files,
            "languages": list(self.names),
            "vocab_size": self.tokenizer.vocab_size,
            "end_of_text_id": self.tokenizer.end_of_text_id,
        }
        write_json(self.folder / INDEX_FILE, index)
        return self._totals()

    def _totals(self) -> Totals:
        lengths, num_bytes, languages = np.diff(self.ends), np.array(self.num_bytes), np.array(self.languages)
        everything = np.ones(len(languages), dtype=bool)
        chosen = {name: languages == code for name, code in sorted(self.names.items())} | {"all": everything}
        return {
            name: {
                "documents": int(mask.sum()),
                "tokens": int(lengths[mask].sum()),
                "bytes": int(num_bytes[mask].sum()),
            }
            for name, mask in chosen.items()
        }


def write_shards(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    folder: Path,
    tokens_per_file: int = TokensConfig.tokens_per_file,
    bar: ProgressBar | None = None,
    by_source: Totals | None = None,
) -> Totals:
    """Encode `documents` into the new folder `folder`, which appears only when it is whole; what was written.

    Every document is written once: repeat them before (`drawn`) where weights ask for it. `by_source` takes the `draws`
    and `tokens` of each source.
    """
    with publish(folder) as aside:
        writer = ShardWriter(aside, tokenizer, tokens_per_file)
        try:
            remaining = iter(documents)
            while batch := list(itertools.islice(remaining, DOCUMENTS_PER_BATCH)):
                writer.add(batch)
                if bar:
                    bar.advance(len(batch))
            totals = writer.finish()
            if by_source is not None:
                by_source.update(writer.by_source)
        finally:
            writer.close_file()
    return totals


def drawn(folder: Path) -> Iterator[Document]:
    """The documents of `folder`, each as often as its weight asks for (see `mixing.py`)."""
    draws = Draws(iter_weights(folder))
    for document in iter_documents(folder):
        yield from itertools.repeat(document, draws.count(document.id, document.source, document.weight))


def _num_written(config: TokensConfig) -> int:
    """How many documents both splits write, repetitions included."""
    train, validation = config.input / "train", config.input / "validation"
    if not config.use_weights:
        return count_documents(train) + count_documents(validation)
    draws = Draws(iter_weights(train))
    return sum(draws.count(*entry) for entry in iter_weights(train)) + count_documents(validation)


def mixture(by_source: Totals, documents: Iterable[tuple[str, str, float]]) -> dict[str, dict[str, float]]:
    """What each source gives to the tokens: `documents` it has, `draws` of them, `epochs` (draws a document), `tokens`,
    and their `share` of all tokens. The sums are those of the shards."""
    distinct = Counter(source for _, source, _ in documents)
    total = sum(values["tokens"] for values in by_source.values())
    return {
        name: {
            "documents": distinct[name], **values, "epochs": values["draws"] / distinct[name],
            "share": values["tokens"] / total,
        }
        for name, values in sorted(by_source.items())
    }  # fmt: skip


def write_token_shards(config: TokensConfig) -> Path:
    """Encode the corpus; the folder `out/shards` with `train/` and `validation/`, and `out/figures.json`.

    An interrupted run starts the encoding again. Raises UserError for a missing corpus, an empty one, or a
    tokenizer that cannot be read.
    """
    tokenizer = Tokenizer.load(config.tokenizer)
    figures: dict[str, Totals] = {}
    sources: Totals = {}
    product = config.out / "shards"
    total = _num_written(config)
    with publish(product) as aside, ProgressBar("tokens", total=total, unit="documents") as bar:
        for split in ("train", "validation"):
            folder = config.input / split
            repeat = config.use_weights and split == "train"
            documents = drawn(folder) if repeat else iter_documents(folder)
            by_source = sources if split == "train" else None
            figures[split] = write_shards(documents, tokenizer, aside / split, config.tokens_per_file, bar, by_source)
        if not figures["train"]["all"]["documents"]:
            raise UserError("the corpus has no document to train on", where=config.input / "train")
    mixed = mixture(sources, iter_weights(config.input / "train"))
    write_json(config.out / "figures.json", {"vocab_size": tokenizer.vocab_size, **figures, "sources": mixed})
    return product


class JoinedTokens:
    """Several memory-mapped files as one sequence; takes an index or a slice (without a step), as one file would."""

    def __init__(self, parts: list[NDArray[Any]]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            assert step == 1, "slices of token shards have no step"
            return self._slice(start, max(start, stop))
        place = range(len(self))[key]
        part = int(np.searchsorted(self.starts, place, side="right")) - 1
        return self.parts[part][place - self.starts[part]]

    def _slice(self, start: int, stop: int) -> NDArray[Any]:
        first = max(int(np.searchsorted(self.starts, start, side="right")) - 1, 0)
        pieces = []
        for begin, part in zip(self.starts[first:-1], self.parts[first:], strict=True):
            if begin >= stop:
                break
            pieces.append(part[max(start - begin, 0) : stop - begin])
        # One file: its own memory, not copied.
        return pieces[0] if len(pieces) == 1 else np.concatenate([*pieces, np.empty(0, self.dtype)])


class TokenShards:
    """Opens a folder written by `write_shards`; the tokens are memory-mapped, the index is in memory."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = _read_index(self.folder)
        self.vocab_size: int = index["vocab_size"]
        self.end_of_text_id: int = index["end_of_text_id"]
        count = index["num_documents"]
        self.offsets: NDArray[np.int64] = _read_array(self.folder / "offsets.npy", count + 1)
        """Where each document begins, and the number of tokens at last: num_documents + 1 numbers."""
        self.num_bytes: NDArray[np.int64] = _read_array(self.folder / "num_bytes.npy", count)
        """UTF-8 bytes of each document."""
        self.languages: list[str] = self._read_languages(index["languages"], count)
        """Language of each document."""
        parts = [self._map(file["name"], file["num_tokens"], index["dtype"]) for file in index["files"]]
        self.tokens: NDArray[Any] | JoinedTokens = _join(parts, index["dtype"])
        """All tokens as one sequence: the memory map of a single file, or several joined."""

    def __len__(self) -> int:
        return len(self.num_bytes)

    def document(self, index: int) -> NDArray[Any]:
        """The ids of one document, its end marker included."""
        index = range(len(self))[index]
        ids: NDArray[Any] = self.tokens[self.offsets[index] : self.offsets[index + 1]]
        return ids

    def _read_languages(self, names: list[str], count: int) -> list[str]:
        path = self.folder / "languages.npy"
        codes = _read_array(path, count)
        if count and int(codes.max()) >= len(names):
            raise UserError("names a language that the index lacks", where=path, mend=MEND)
        return [names[code] for code in codes]

    def _map(self, name: str, num_tokens: int, kind: str) -> NDArray[Any]:
        path = self.folder / name
        expected = num_tokens * np.dtype(kind).itemsize
        if not path.is_file() or path.stat().st_size != expected:
            raise UserError(f"not {expected} bytes, as the index says", where=path, mend=MEND)
        return np.memmap(path, dtype=kind, mode="r", shape=(num_tokens,))


def _join(parts: list[NDArray[Any]], kind: str) -> NDArray[Any] | JoinedTokens:
    if not parts:
        # A file of no bytes cannot be mapped, so an empty split has no file.
        return np.empty(0, dtype=kind)
    return parts[0] if len(parts) == 1 else JoinedTokens(parts)


@dataclass
class _File:
    name: str
    num_tokens: int


@dataclass
class _Index:
    """What `index.json` holds beside its format."""

    dtype: Literal["uint16", "uint32"]
    num_documents: int
    num_tokens: int
    files: list[_File]
    languages: list[str]
    vocab_size: int
    end_of_text_id: int


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX_FILE
    if not path.is_file():
        raise UserError("no token shards here", where=folder, mend="Make them with `danlu tokenizer shards`")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"damaged, not JSON ({error})", where=path, mend=MEND) from error
    if not isinstance(index, dict):
        raise UserError("damaged, not an index of token shards", where=path, mend=MEND)
    if index.get("format") != FORMAT:
        raise UserError(f"token shards of format {index.get('format')}, not {FORMAT}", where=path, mend=MEND)
    try:
        return {"format": FORMAT, **msgspec.to_builtins(msgspec.convert(index, _Index))}
    except msgspec.ValidationError as error:
        raise UserError(f"damaged ({error})", where=path, mend=MEND) from error


def _read_array(path: Path, length: int) -> NDArray[Any]:
    """The whole numbers in an `.npy` file, as many as the index says."""
    try:
        values = np.load(path)
    except FileNotFoundError as error:
        raise UserError("missing from the token shards", where=path, mend=MEND) from error
    except (ValueError, EOFError) as error:
        raise UserError("damaged, not a whole .npy file", where=path, mend=MEND) from error
    if not isinstance(values, np.ndarray) or values.shape != (length,) or values.dtype.kind not in "iu":
        raise UserError(f"not {length} whole numbers, as the index says", where=path, mend=MEND)
    return values

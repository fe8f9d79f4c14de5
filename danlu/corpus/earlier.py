"""What an earlier build has kept takes part in the search for duplicates: it stays, and what is like it goes.

In: the index of this build, and an earlier build's `documents` and `signatures`, which lie row for row. Out: the index
with the earlier documents behind its own. Nothing of the earlier build is read, extracted or scored again.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from danlu.corpus.choose import Encoder, Index, as_array, id_numbers
from danlu.corpus.config import CorpusConfig
from danlu.corpus.table import read_columns
from danlu.run.errors import UserError

FROM_DOCUMENTS = ("id", "source", "language", "size", "tokens")


def with_earlier(index: Index, config: CorpusConfig) -> Index:
    """The index with the documents of `config.against` behind its own; as it is where there is none."""
    if config.against is None:
        return index
    pairs = earlier_files(config.against, config)
    sources, languages = Encoder(index.sources), Encoder(index.languages)
    added: dict[str, list[np.ndarray]] = {}
    for number, (documents, signatures) in enumerate(pairs, start=len(index.scored)):
        row = 0
        keys = [batch.column(0).to_numpy() for batch in read_columns(signatures, ["key"])]
        key = np.concatenate(keys) if keys else np.empty(0, dtype=np.uint64)
        for batch in read_columns(documents, list(FROM_DOCUMENTS)):
            columns = {name: as_array(batch.column(name)) for name in FROM_DOCUMENTS}
            count = len(columns["id"])
            high, low = id_numbers(columns["id"])
            nothing = np.zeros(count, dtype=np.int16)
            values: dict[str, np.ndarray] = {
                "partition": np.full(count, number, dtype=np.int32), "row": np.arange(row, row + count),
                "id_high": high, "id_low": low, "key": key[row : row + count], "size": columns["size"],
                "address": np.zeros(count, dtype=np.uint64), "quality": np.zeros(count, dtype=np.float32),
                "tokens": columns["tokens"], "source": sources.codes(columns["source"]),
                "language": languages.codes(columns["language"]), "step": nothing, "reason": nothing,
                "personal_data": nothing,
            }  # fmt: skip
            for name, column in values.items():
                added.setdefault(name, []).append(column)
            row += count
    joined: dict[str, Any] = {name: np.concatenate([getattr(index, name), *columns]) for name, columns in added.items()}
    index.scored = (*index.scored, *(documents for documents, _ in pairs))
    index.signed = (*index.signed, *(signatures for _, signatures in pairs))
    for name, column in joined.items():
        setattr(index, name, column)
    return index


def earlier_files(folder: Path, config: CorpusConfig) -> list[tuple[Path, Path]]:
    """The files of an earlier build: documents, and their signatures. Raises UserError where they are missing, or made
    with other bands."""
    import pyarrow.parquet as pq

    found = sorted((folder / "documents").glob("*/*.parquet"))
    if not found:
        raise UserError("holds no result of `danlu corpus build`", where=folder, mend="Name the earlier build's --out")
    pairs = [(path, folder / "signatures" / path.relative_to(folder / "documents")) for path in found]
    for _, signatures in pairs:
        metadata = pq.read_schema(signatures).metadata if signatures.exists() else None
        if json.loads((metadata or {}).get(b"minhash", b"null")) != config.minhash.made_with:
            raise UserError(
                "made with other values of MinHash (ngram, bands, rows, seed)", where=signatures,
                mend="Give the same [corpus.minhash] as then",
            )  # fmt: skip
    return pairs

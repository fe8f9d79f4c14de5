"""Token shards: what is written is what is read, every document ends once, weights are exact."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from danlu.run.errors import UserError
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.config import TokensConfig
from danlu.tokenizer.documents import Document, iter_documents
from danlu.tokenizer.formats import Vocabulary
from danlu.tokenizer.shards import TokenShards, drawn, write_shards, write_token_shards
from danlu.tokenizer.special import special_tokens

WriteParquet = Callable[[Path, Sequence[tuple[Any, ...]]], None]

DOCUMENTS = [
    Document("1", "the river 你好", "s", "en", 1.0),
    Document("2", "", "s", "zh", 1.0),
    Document("3", "it ends with <|endoftext|> written out", "s", "en", 1.0),
    Document("4", "e\u0301 and \ud83d", "s", "fr", 1.0),
    Document("5", "世界，世界。" * 20, "s", "zh", 1.0),
]


@pytest.mark.parametrize("tokens_per_file", [1, 20, 10**8])
def test_the_reader_gives_what_was_written(tokenizer: Tokenizer, tmp_path: Path, tokens_per_file: int) -> None:
    totals = write_shards(iter(DOCUMENTS), tokenizer, tmp_path / "s", tokens_per_file)
    shards = TokenShards(tmp_path / "s")
    expected = [[*tokenizer.encode(document.text), tokenizer.end_of_text_id] for document in DOCUMENTS]
    assert [shards.document(index).tolist() for index in range(len(shards))] == expected
    assert shards.languages == ["en", "zh", "en", "fr", "zh"]
    assert shards.num_bytes.tolist() == [len("the river 你好".encode()), 0, 38, len("é and \ufffd".encode()), 360]
    joined = [token_id for ids in expected for token_id in ids]
    assert shards.tokens[:].tolist() == joined
    assert shards.tokens[3:77].tolist() == joined[3:77]
    assert [int(shards.tokens[place]) for place in (0, 5, -1)] == [joined[0], joined[5], joined[-1]]
    assert shards.offsets.dtype == np.int64
    assert shards.offsets[-1] == len(shards.tokens) == totals["all"]["tokens"] == len(joined)
    assert totals["zh"] == {"documents": 2, "bytes": 360, "tokens": len(expected[1]) + len(expected[4])}
    files = sorted((tmp_path / "s").glob("*.bin"))
    assert len(files) in {1: {5}, 20: {2, 3, 4}, 10**8: {1}}[tokens_per_file]


def test_end_markers_equal_documents_whatever_is_written_in_the_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_shards(DOCUMENTS, tokenizer, tmp_path / "s")
    shards = TokenShards(tmp_path / "s")
    assert int((shards.tokens[:] == tokenizer.end_of_text_id).sum()) == len(DOCUMENTS) == len(shards)


def test_one_file_is_memory_mapped_in_sixteen_bits(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_shards(DOCUMENTS, tokenizer, tmp_path / "s")
    tokens = TokenShards(tmp_path / "s").tokens
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == np.uint16


def test_a_large_vocabulary_takes_thirty_two_bits(tmp_path: Path) -> None:
    ranks = {bytes([value]): value for value in range(256)} | {b"%06d" % rank: rank for rank in range(256, 70_000)}
    large = Tokenizer(Vocabulary(ranks, special_tokens(70_000, 0)))
    write_shards(DOCUMENTS[:1], large, tmp_path / "s")
    shards = TokenShards(tmp_path / "s")
    assert shards.tokens.dtype == np.uint32
    assert shards.document(0)[-1] == 70_000


def test_no_documents_make_an_empty_shard(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert write_shards([], tokenizer, tmp_path / "s")["all"] == {"documents": 0, "tokens": 0, "bytes": 0}
    shards = TokenShards(tmp_path / "s")
    assert (len(shards), len(shards.tokens)) == (0, 0)


def test_shards_cut_short_are_noticed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no token shards"):
        TokenShards(tmp_path)
    write_shards(DOCUMENTS, tokenizer, tmp_path / "s")
    path = tmp_path / "s" / "tokens-00000.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match="as the index says"):
        TokenShards(tmp_path / "s")


def test_the_stage_writes_both_splits_and_figures(
    tokenizer: Tokenizer, tokenizer_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    product = write_token_shards(TokensConfig(input=corpus, tokenizer=tokenizer_folder, out=tmp_path))
    figures = json.loads((tmp_path / "figures.json").read_text())
    for split, count in (("train", 80), ("validation", 10)):
        shards = TokenShards(product / split)
        assert len(shards) == figures[split]["all"]["documents"] == count
        assert len(shards.tokens) == figures[split]["all"]["tokens"]
        assert int(shards.num_bytes.sum()) == figures[split]["all"]["bytes"]
        if split == "train":
            mixed = figures["sources"]
            assert sum(source["draws"] for source in mixed.values()) == count
            assert sum(source["tokens"] for source in mixed.values()) == len(shards.tokens)
            assert sum(source["share"] for source in mixed.values()) == pytest.approx(1)
        texts = [document.text for document in iter_documents(corpus / split)]
        assert [tokenizer.decode(shards.document(i)[:-1].tolist()) for i in range(count)] == texts


def test_a_corpus_without_documents_stops_the_stage(
    tokenizer_folder: Path, tmp_path: Path, write_parquet: WriteParquet
) -> None:
    for split in ("train", "validation"):
        write_parquet(tmp_path / split / "a.parquet", [])
    with pytest.raises(UserError, match="no document"):
        write_token_shards(TokensConfig(input=tmp_path, tokenizer=tokenizer_folder, out=tmp_path / "out"))
    assert not (tmp_path / "out" / "shards").exists()


# --- weights (D15) ---


def test_what_each_source_gives_is_told_to_the_token(
    tokenizer_folder: Path, tmp_path: Path, write_parquet: WriteParquet
) -> None:
    rows = [(f"a{i}", "one two three", "A", "en", 2.5) for i in range(10)] + [
        (f"b{i}", "four", "B", "en", 1.0) for i in range(4)
    ]
    write_parquet(tmp_path / "in" / "train" / "0.parquet", rows)
    write_parquet(tmp_path / "in" / "validation" / "0.parquet", rows[:1])
    product = write_token_shards(TokensConfig(input=tmp_path / "in", tokenizer=tokenizer_folder, out=tmp_path / "out"))
    mixed = json.loads((tmp_path / "out" / "figures.json").read_text())["sources"]
    assert (mixed["A"]["documents"], mixed["A"]["draws"], mixed["A"]["epochs"]) == (10, 25, 2.5)
    assert (mixed["B"]["documents"], mixed["B"]["draws"], mixed["B"]["epochs"]) == (4, 4, 1.0)
    shards = TokenShards(product / "train")
    assert mixed["A"]["tokens"] + mixed["B"]["tokens"] == len(shards.tokens)
    assert mixed["A"]["share"] == mixed["A"]["tokens"] / len(shards.tokens)


@pytest.mark.parametrize("num_files", [1, 7, 20])
def test_weights_give_exact_amounts_whatever_the_files(
    tmp_path: Path, write_parquet: WriteParquet, num_files: int
) -> None:
    rows = [(f"a{i}", "x", "A", "en", 2.5) for i in range(100)] + [(f"b{i}", "x", "B", "en", 1.0) for i in range(1000)]
    for number in range(num_files):
        write_parquet(tmp_path / f"{number}.parquet", rows[number::num_files])
    draws = Counter(document.id for document in drawn(tmp_path))
    ours = {name: count for name, count in draws.items() if name[0] == "a"}
    assert sum(ours.values()) == 250
    assert set(ours.values()) == {2, 3}
    assert len(ours) == 100
    assert sum(draws.values()) == 1250
    write_parquet(tmp_path / "0.parquet", rows)
    for number in range(1, num_files):
        (tmp_path / f"{number}.parquet").unlink()
    assert Counter(document.id for document in drawn(tmp_path)) == draws


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 0), (0.5, 5), (0.25, 3), (3.0, 30)])
def test_small_and_whole_weights(tmp_path: Path, write_parquet: WriteParquet, weight: float, expected: int) -> None:
    write_parquet(tmp_path / "a.parquet", [(str(i), "x", "A", "en", weight) for i in range(10)])
    assert len(list(drawn(tmp_path))) == expected


# --- reading documents ---


def test_documents_come_by_file_name_and_row(tmp_path: Path, write_parquet: WriteParquet) -> None:
    write_parquet(tmp_path / "b.parquet", [("3", "c", "s", "en", 1.0)])
    write_parquet(tmp_path / "a.parquet", [("1", "a", "s", "zh", 2.0), ("2", "b", "s", None, None)])
    documents = list(iter_documents(tmp_path))
    assert [document.id for document in documents] == ["1", "2", "3"]
    assert documents[0] == Document("1", "a", "s", "zh", 2.0)
    assert (documents[1].language, documents[1].weight) == ("unknown", 1.0)


def test_folders_that_hold_no_corpus_are_named(tmp_path: Path, write_parquet: WriteParquet) -> None:
    with pytest.raises(UserError, match="no such folder"):
        next(iter_documents(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"no \*\.parquet"):
        next(iter_documents(tmp_path))
    pyarrow.parquet.write_table(pyarrow.table({"id": ["1"], "text": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no column source, language, weight"):
        next(iter_documents(tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(UserError, match="not a whole Parquet file"):
        next(iter_documents(tmp_path))
    write_parquet(tmp_path / "a.parquet", [("1", "x", "s", "en", -1.0)])
    with pytest.raises(UserError, match="weight -1"):
        next(iter_documents(tmp_path))
    write_parquet(tmp_path / "a.parquet", [("1", None, "s", "en", 1.0)])
    with pytest.raises(UserError, match="no text"):
        next(iter_documents(tmp_path))


# --- damage ---


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("index.json", b'{"format": 1', "damaged, not JSON"),
        ("index.json", b"\xff\xfe", "damaged, not JSON"),
        ("index.json", b"[1]", "not an index"),
        ("index.json", b'{"format": 1, "num_documents": 5}', "missing required field"),
        ("index.json", b'{"format": 7}', "format 7, not 1"),
        ("offsets.npy", b"\x93NUMPY", "not a whole .npy file"),
        ("num_bytes.npy", b"", "not a whole .npy file"),
        ("languages.npy", b"not numbers", "not a whole .npy file"),
        ("languages.npy", None, "missing"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    tokenizer: Tokenizer, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    write_shards(DOCUMENTS, tokenizer, tmp_path / "s")
    path = tmp_path / "s" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        TokenShards(tmp_path / "s")
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert "danlu tokenizer shards" in message
    assert "\n" not in message


def test_arrays_that_do_not_fit_the_index_are_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_shards(DOCUMENTS, tokenizer, tmp_path / "s")
    for name, values, said in (
        ("languages.npy", np.full(5, 9, np.uint16), "a language that the index lacks"),
        ("num_bytes.npy", np.zeros(4, np.int64), "not 5 whole numbers"),
        ("offsets.npy", np.zeros(6), "not 6 whole numbers"),
    ):
        np.save(tmp_path / "s" / name, values)
        with pytest.raises(UserError, match=said):
            TokenShards(tmp_path / "s")


# --- progress ---


@pytest.mark.parametrize("use_weights", [True, False])
def test_the_bar_knows_how_many_documents_there_are(
    tokenizer_folder: Path,
    tmp_path: Path,
    write_parquet: WriteParquet,
    capsys: pytest.CaptureFixture[str],
    use_weights: bool,
) -> None:
    write_parquet(tmp_path / "train" / "a.parquet", [(str(i), "x", "A", "en", 2.5) for i in range(10)])
    write_parquet(tmp_path / "validation" / "a.parquet", [("v", "x", "A", "en", 2.5)])
    out = tmp_path / "out"
    write_token_shards(TokensConfig(input=tmp_path, tokenizer=tokenizer_folder, out=out, use_weights=use_weights))
    total = 26 if use_weights else 11
    assert f"tokens: {total}/{total} documents" in capsys.readouterr().err

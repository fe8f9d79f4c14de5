"""Training: the same bytes from the same texts, a written tie rule, bounded cost, clear errors."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import regex

from danlu.run.errors import UserError
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.config import TokenizerConfig
from danlu.tokenizer.documents import iter_documents
from danlu.tokenizer.formats import RANK_FILE, rank_lines
from danlu.tokenizer.special import QWEN_PATTERN
from danlu.tokenizer.train import choose_documents, cut_long_pieces, learn_ranks, train_tokenizer

WriteParquet = Callable[[Path, Sequence[tuple[Any, ...]]], None]
TIES = ["bbb aaa dddd cccc", "xyz zyx yzx", "中文 文中 二一 一二"]


def rows(texts: Sequence[str]) -> list[tuple[str, str, str, str, float]]:
    return [(str(index), text, "s", "en", 1.0) for index, text in enumerate(texts)]


def reference_ranks(texts: Sequence[str], num_ranks: int) -> dict[bytes, int]:
    """Training by the book and by the written tie rule: count, then smallest left id, then smallest right id."""
    words = Counter(piece for text in texts for piece in regex.findall(QWEN_PATTERN, text))
    spelled = {word: list(word.encode()) for word in words}
    names = {index: bytes([index]) for index in range(256)}
    while len(names) < num_ranks:
        counts: Counter[tuple[int, int]] = Counter()
        for word, ids in spelled.items():
            for pair in pairwise(ids):
                counts[pair] += words[word]
        left, right = min(counts, key=lambda pair: (-counts[pair], pair))
        new = len(names)
        names[new] = names[left] + names[right]
        for ids in spelled.values():
            index = 0
            while index < len(ids) - 1:
                if (ids[index], ids[index + 1]) == (left, right):
                    ids[index : index + 2] = [new]
                index += 1
    return {name: rank for rank, name in names.items()}


@pytest.mark.parametrize("reverse", [False, True])
def test_ties_follow_the_written_rule(reverse: bool) -> None:
    texts = TIES[::-1] if reverse else TIES
    config = TokenizerConfig(vocab_size=280, num_extra_special=0)
    assert learn_ranks(texts, config) == reference_ranks(TIES, 277)


def test_ranks_equal_the_reference_on_the_corpus(corpus: Path, tokenizer: Tokenizer) -> None:
    texts = [document.text for document in iter_documents(corpus / "train")]
    assert tokenizer.vocabulary.ranks == reference_ranks(texts, 592)


def test_renamed_files_and_another_order_give_the_same_bytes(
    corpus: Path, tokenizer_folder: Path, tmp_path: Path, write_parquet: WriteParquet
) -> None:
    texts = [document.text for document in iter_documents(corpus / "train")]
    random.Random(3).shuffle(texts)
    write_parquet(tmp_path / "train" / "z.parquet", rows(texts[:7]))
    write_parquet(tmp_path / "train" / "a.parquet", rows(texts[7:]))
    write_parquet(tmp_path / "validation" / "a.parquet", rows(["one"]))
    config = TokenizerConfig(input=tmp_path, out=tmp_path / "out", vocab_size=600, num_extra_special=5)
    again = train_tokenizer(config)
    for name in (RANK_FILE, "tokenizer.json", "tokenizer_config.json"):
        assert (again / name).read_bytes() == (tokenizer_folder / name).read_bytes(), name


@pytest.mark.parametrize(("hash_seed", "threads"), [("0", "1"), ("1", "2"), ("0", "8")])
def test_hash_seeds_and_threads_change_nothing(
    corpus: Path, tokenizer_folder: Path, hash_seed: str, threads: str
) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from danlu.tokenizer.config import TokenizerConfig\n"
        "from danlu.tokenizer.documents import iter_documents\n"
        "from danlu.tokenizer.formats import rank_lines\n"
        "from danlu.tokenizer.train import learn_ranks\n"
        "texts = [document.text for document in iter_documents(Path(sys.argv[1]) / 'train')]\n"
        "ranks = learn_ranks(texts, TokenizerConfig(vocab_size=600, num_extra_special=5))\n"
        "sys.stdout.buffer.write(rank_lines(ranks))"
    )
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "RAYON_NUM_THREADS": threads}
    command = [sys.executable, "-c", program, str(corpus)]
    done = subprocess.run(command, env=environment, capture_output=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout == (tokenizer_folder / RANK_FILE).read_bytes()


def test_figures_hold_compression_by_language(tokenizer_folder: Path, tokenizer: Tokenizer, corpus: Path) -> None:
    figures = json.loads((tokenizer_folder.parent / "figures.json").read_text())
    assert (figures["vocab_size"], figures["num_ranks"], figures["train_documents"]) == (600, 592, 80)
    measured = figures["validation"]
    documents = list(iter_documents(corpus / "validation"))
    assert set(measured) == {"all", "en", "zh"}
    assert measured["all"]["bytes"] == sum(len(document.text.encode()) for document in documents)
    assert measured["all"]["tokens"] == sum(len(tokenizer.encode(document.text)) for document in documents)
    assert measured["zh"]["bytes_per_token"] > measured["zh"]["bytes_per_byte"] == 1


def test_a_corpus_too_small_for_the_vocabulary_says_what_is_possible(
    tmp_path: Path, write_parquet: WriteParquet
) -> None:
    write_parquet(tmp_path / "train" / "a.parquet", rows(["abcd abcd"]))
    with pytest.raises(UserError, match="at most 263") as caught:
        train_tokenizer(TokenizerConfig(input=tmp_path, out=tmp_path / "out", vocab_size=400, num_extra_special=0))
    assert "too small" in caught.value.what
    assert not (tmp_path / "out" / "tokenizer").exists()


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_an_empty_corpus_is_named(tmp_path: Path, write_parquet: WriteParquet, texts: list[str]) -> None:
    write_parquet(tmp_path / "train" / "a.parquet", rows(texts))
    with pytest.raises(UserError, match="no document with text"):
        train_tokenizer(TokenizerConfig(input=tmp_path, out=tmp_path / "out", vocab_size=400, num_extra_special=0))


def test_of_a_large_corpus_the_same_documents_are_chosen_in_any_order(
    tmp_path: Path, write_parquet: WriteParquet
) -> None:
    texts = [f"document number {index} " * 3 for index in range(50)]
    chosen = []
    for name, order in (("a", texts), ("b", texts[::-1])):
        write_parquet(tmp_path / name / "train" / "x.parquet", rows(order))
        documents = choose_documents(TokenizerConfig(input=tmp_path / name, max_train_bytes=1000))
        chosen.append(sorted(documents.texts()))
        assert sum(len(text) for text in chosen[-1]) == documents.num_bytes <= 1000
    assert chosen[0] == chosen[1]
    assert 10 < len(chosen[0]) < 20


def test_long_pieces_are_cut_and_nothing_is_lost() -> None:
    text = "short words, " + "长" * 1000 + "。" + " " * 500 + "end"
    parts = list(cut_long_pieces(text, 128))
    assert "".join(parts) == text
    pieces = [piece for part in parts for piece in regex.findall(QWEN_PATTERN, part)]
    assert max(map(len, pieces)) <= 129
    assert list(cut_long_pieces("nothing to cut", 128)) == ["nothing to cut"]


def without_punctuation(num_bytes: int) -> str:
    """Chinese characters by a Zipf law, without any space or punctuation."""
    chance = random.Random(0)
    characters = [chr(0x4E00 + index) for index in range(3500)]
    return "".join(chance.choices(characters, [1 / (1 + index) for index in range(3500)], k=num_bytes // 3))


def learn_in_a_child(num_bytes: int) -> Iterator[float]:
    """Seconds and peak memory in GB of learning 8,184 ranks from such a text, in a process of its own."""
    program = (
        "import re, sys, time; sys.path[:0] = sys.argv[2:]\n"
        "from test_train_tokenizer import without_punctuation\n"
        "from danlu.tokenizer.config import TokenizerConfig\n"
        "from danlu.tokenizer.train import learn_ranks\n"
        "text = without_punctuation(int(sys.argv[1]))\n"
        "started = time.monotonic()\n"
        "learn_ranks([text], TokenizerConfig(vocab_size=8192, num_extra_special=5))\n"
        # Not getrusage: its maximum begins with that of the process which started this one.
        "peak = int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "print(time.monotonic() - started, peak / 1e6)"
    )
    command = [
        sys.executable,
        "-c",
        program,
        str(num_bytes),
        str(Path(__file__).parent),
        str(Path(__file__).parents[2]),
    ]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return map(float, done.stdout.split())


def test_two_megabytes_of_chinese_without_punctuation_stay_small() -> None:
    seconds, gigabytes = learn_in_a_child(2_000_000)
    assert gigabytes < 0.6
    assert seconds < 30


@pytest.mark.slow
def test_twenty_megabytes_of_chinese_without_punctuation_stay_small() -> None:
    seconds, gigabytes = learn_in_a_child(20_000_000)
    assert gigabytes < 2
    assert seconds < 120


@pytest.mark.parametrize(
    "values",
    [
        {"vocab_size": 463},
        {"num_extra_special": -1},
        {"max_train_bytes": 0},
        {"max_train_bytes": 2**31},
        {"max_piece_characters": 1},
    ],
)
def test_impossible_values_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        TokenizerConfig(**values)  # type: ignore[arg-type]


def test_rank_lines_are_in_order() -> None:
    assert rank_lines({b"b": 1, b"a": 0}) == b"YQ== 0\nYg== 1\n"

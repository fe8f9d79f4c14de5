"""A small bilingual corpus, and a tokenizer trained on it once for all tests of this room."""

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from danlu.tokenizer import Tokenizer
from danlu.tokenizer.config import TokenizerConfig
from danlu.tokenizer.train import train_tokenizer

ENGLISH = re.findall(r"\S+", "the river was cold and clear so we walked along its bank; she said that it's 24 miles")
CHINESE = ["你好", "世界", "今天", "天气", "我们", "学习", "语言", "模型", "，", "。", "哈哈", "的", "是", "在", "好"]

Row = tuple[str, str, str, str, float]
"""id, text, source, language, weight"""


def parquet(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    names = ["id", "text", "source", "language", "weight"]
    kinds = [pyarrow.string()] * 4 + [pyarrow.float64()]
    arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    pyarrow.parquet.write_table(pyarrow.table([*arrays, pyarrow.array([""] * len(rows))], [*names, "url"]), path)


def sentences(seed: int, num_documents: int) -> list[Row]:
    chance = random.Random(seed)
    rows: list[Row] = []
    for index in range(num_documents):
        english = index % 2 == 0
        words = chance.choices(ENGLISH if english else CHINESE, k=60)
        text = (" " if english else "").join(words) + "\n\tx = 12, y  =  3!\n\n"
        rows.append((f"{seed}-{index}", text, "s", "en" if english else "zh", 1.0))
    return rows


@pytest.fixture(scope="session")
def write_parquet() -> Callable[[Path, Sequence[Row]], None]:
    return parquet


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    parquet(folder / "train" / "part-0.parquet", sentences(0, 40))
    parquet(folder / "train" / "part-1.parquet", sentences(1, 40))
    parquet(folder / "validation" / "part-0.parquet", sentences(2, 10))
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stage")
    return train_tokenizer(TokenizerConfig(input=corpus, out=out, vocab_size=600, num_extra_special=5))


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)

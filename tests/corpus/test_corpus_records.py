"""Every format of a user's folder, and everything that can be wrong with one."""

import gzip
import json
import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from danlu.corpus.config import CorpusConfig, SourceConfig
from danlu.corpus.inputs import InputFile, files_below, input_files, local_file, partitions, readable
from danlu.corpus.records import Record, read_records
from danlu.run.errors import UserError

LIMIT = 1000


def records(path: Path, folder: Path) -> list[Record]:
    inside = path.relative_to(folder)
    source = inside.parts[0] if len(inside.parts) > 1 else folder.name
    return list(read_records(local_file(path, readable(inside.as_posix()), readable(source)), LIMIT))


def test_a_single_file_is_one_document_of_its_first_folder(tmp_path: Path) -> None:
    page = tmp_path / "news" / "deep" / "page.HTML"
    page.parent.mkdir(parents=True)
    page.write_bytes(b"<p>hi</p>")
    (record,) = records(page, tmp_path)
    assert (record.source, record.kind, record.body, record.problem) == ("news", "page", b"<p>hi</p>", None)
    assert record.url == "news/deep/page.HTML"


def test_files_at_the_top_are_the_source_that_the_folder_names(tmp_path: Path) -> None:
    for name in ("a.md", "b.txt"):
        (tmp_path / name).write_text("hi")
    assert {file.source for file in files_below(tmp_path)[0]} == {tmp_path.name}


def test_json_lines_skip_what_is_broken_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        json.dumps({"text": "good", "url": "https://example.org/1"}), "not json", json.dumps([1]), "",
        json.dumps({"text": 5}), json.dumps({"text": "x" * 2000}), json.dumps({"html": "<p>page</p>"}),
        json.dumps({"content": "half \ud83d pair"}),
    ]  # fmt: skip
    path.write_bytes("\n".join(lines).encode() + b"\n" + b'{"text": "\xff"}')
    found = records(path, tmp_path)
    assert [record.problem for record in found] == [
        None, "broken_record", "broken_record", "broken_record", "too_large", None, None, "broken_record",
    ]  # fmt: skip
    assert found[0].url == "https://example.org/1"
    assert found[5].kind == "page"
    assert found[6].body == b"half ? pair"


def test_one_endless_line_is_skipped_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "' + b"x" * 100_000 + b'"}\n' + b'{"text": "after"}\n')
    assert [record.problem for record in records(path, tmp_path)] == ["too_large", None]
    (tmp_path / "b.txt").write_bytes(b"x" * (LIMIT + 1))
    (large,) = records(tmp_path / "b.txt", tmp_path)
    assert (large.problem, large.body) == ("too_large", b"")


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["one", None, "x" * 2000], "url": ["u1", "u2", None], "other": [1, 2, 3]}), path)
    assert [(r.body, r.url, r.problem) for r in records(path, tmp_path)] == [
        (b"one", "u1", None), (b"", "u2", "broken_record"), (b"", "a.parquet#3", "too_large"),
    ]  # fmt: skip
    pq.write_table(pa.table({"other": [1, 2]}), path)
    assert [record.problem for record in records(path, tmp_path)] == ["broken_record"] * 2


def warc_response(url: str, header: str, body: bytes) -> bytes:
    http = f"HTTP/1.1 200 OK\r\n{header}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
    head += f"WARC-Record-ID: <urn:uuid:{url[-1]}>\r\nContent-Type: application/http; msgtype=response\r\n"
    return f"{head}Content-Length: {len(http)}\r\n\r\n".encode() + http + b"\r\n\r\n"


WARC = [
    warc_response("https://example.org/1", 'Content-Type: text/html; Charset="GBK"', "<p>你好</p>".encode("gbk")),
    warc_response("https://example.org/2", "Content-Type: image/png", b"\x89PNG"),
    warc_response("https://example.org/3", "content-type: TEXT/PLAIN", b"plain"),
    warc_response("https://example.org/4", "Content-Type: text/html", b"x" * 5000),
]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_web_archives_give_their_responses_with_the_http_header(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"".join(map(gzip.compress, WARC)) if name.endswith("gz") else b"".join(WARC))
    found = records(path, tmp_path)
    assert [record.problem for record in found] == [None, "not_a_page", None, "too_large"]
    assert found[0].url == "https://example.org/1"
    assert found[0].content_type == 'text/html; Charset="GBK"'
    assert [record.kind for record in found[:3:2]] == ["page", "text"]


@pytest.mark.parametrize("name", ["a.parquet", "a.warc.gz", "a.warc"])
def test_a_broken_file_is_one_counted_skip(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is no such file" * 50)
    (record,) = records(tmp_path / name, tmp_path)
    assert (record.problem, record.record) == ("broken_file", f"{name}#broken")


def test_an_archive_that_is_cut_off_is_counted(tmp_path: Path) -> None:
    whole = warc_response("https://example.org/1", "Content-Type: text/html", b"<p>" + b"word " * 100 + b"</p>")
    (tmp_path / "a.warc").write_bytes(whole + whole[:-100])
    packed = gzip.compress(whole)
    (tmp_path / "a.warc.gz").write_bytes(packed + packed[: len(packed) // 2])
    for name in ("a.warc", "a.warc.gz"):
        assert [record.problem for record in records(tmp_path / name, tmp_path)] == [None, "truncated"]


def test_an_archive_tells_where_and_when_and_unpacks_what_http_had_packed(tmp_path: Path) -> None:
    packed = gzip.compress(b"<p>hello</p>")
    body = warc_response("https://example.org/1", "Content-Encoding: gzip\r\nContent-Type: text/html", packed)
    missing = body.replace(b"200 OK", b"404 No")
    (tmp_path / "a.warc").write_bytes(body + missing)
    first, second = records(tmp_path / "a.warc", tmp_path)
    assert (first.body, first.date, first.offset) == (b"<p>hello</p>", "2024-01-01T00:00:00Z", 0)
    assert (second.problem, second.offset) == ("http_error", len(body))


def test_packed_files_are_read_and_a_bomb_is_no_larger_than_the_limit(tmp_path: Path) -> None:
    lines = b'{"text": "one", "title": "T", "date": "2020"}\n{"text": "two"}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "b.jsonl.zst").write_bytes(pa.compress(lines, codec="zstd", asbytes=True))
    for name in ("a.jsonl.gz", "b.jsonl.zst"):
        found = records(tmp_path / name, tmp_path)
        assert [(r.body, r.title, r.date, r.offset) for r in found] == [(b"one", "T", "2020", 0), (b"two", "", "", 46)]
    bomb = gzip.compress(b"x" * 50_000_000)
    (tmp_path / "c.txt.gz").write_bytes(bomb)
    (tmp_path / "d.jsonl.gz").write_bytes(bomb)
    assert [records(tmp_path / name, tmp_path)[0].problem for name in ("c.txt.gz", "d.jsonl.gz")] == ["too_large"] * 2
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(lines)[:-20])
    assert records(tmp_path / "e.jsonl.gz", tmp_path)[-1].problem == "broken_file"


def found_in(folder: Path) -> tuple[list[InputFile], int]:
    return input_files(CorpusConfig(input=folder))


def test_missing_and_empty_folders_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        found_in(tmp_path / "absent")
    with pytest.raises(UserError, match="no file here that can be read"):
        found_in(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"x")
    (tmp_path / ".hidden.txt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"Known are: \.html"):
        found_in(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"x")
    files, passed_over = found_in(tmp_path)
    assert ([file.address for file in files], passed_over) == (["a.txt"], 1)


def test_a_source_may_lie_elsewhere_and_in_an_object_store(tmp_path: Path) -> None:
    (tmp_path / "crawl").mkdir()
    for name in ("a.txt", "b.txt", "c.png"):
        (tmp_path / "crawl" / name).write_bytes(b"here")
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/deep/x.txt", b"stored")
    store.pipe("/bucket/deep/y.jsonl", b'{"text": "line"}')
    sources = {
        "near": SourceConfig(path=str(tmp_path / "crawl" / "*.txt")), "far": SourceConfig(path="memory://bucket/deep"),
    }  # fmt: skip
    files, passed_over = input_files(CorpusConfig(input=None, sources=sources))
    assert [file.address for file in files] == ["far/x.txt", "far/y.jsonl", "near/a.txt", "near/b.txt"]
    assert passed_over == 0
    assert [r.body for file in files for r in read_records(file, LIMIT)] == [b"stored", b"line", b"here", b"here"]
    with pytest.raises(UserError, match="the source `none` has no file"):
        input_files(CorpusConfig(input=None, sources={"none": SourceConfig(path=str(tmp_path / "*.txt"))}))
    with pytest.raises(UserError, match="cannot be listed"):
        input_files(CorpusConfig(input=None, sources={"s": SourceConfig(path="nosuch://bucket/x")}))


def test_partitions_hold_every_file_once_and_new_ones_change_the_last_alone(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_bytes(b"x" * 900_000 * (number % 3))
    files, _ = files_below(tmp_path)
    for wanted in (0, 1, 2, 8, 50):
        pieces = partitions(files, CorpusConfig(partitions=wanted))
        assert [file for piece in pieces for file in piece.files] == files
        assert all(piece.files for piece in pieces)
        assert len(pieces) == min(wanted, 20) or not wanted
    before = [piece.digest() for piece in partitions(files, CorpusConfig())]
    (tmp_path / "99.txt").write_bytes(b"new")
    after = [piece.digest() for piece in partitions(files_below(tmp_path)[0], CorpusConfig())]
    assert after[: len(before) - 1] == before[:-1]


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_bytes(b"hi")
    (record,) = records(path, tmp_path)
    assert (record.record, record.body) == ("caf\\xe9.txt", b"hi")


@pytest.mark.parametrize(
    ("header", "body", "expected"),
    [
        ("Content-Encoding: gzip", b"<p>already unpacked</p>", (b"<p>already unpacked</p>", None)),
        ("Content-Encoding: gzip", b"\x1f\x8bno such thing", (b"", "broken_record")),
        ("Content-Encoding: br", b"\x8b\x00\x80hello", (b"", "broken_record")),
        ("Transfer-Encoding: chunked", b"4\r\n<p>a\r\n5\r\nb</p>\r\n0\r\n\r\n", (b"<p>ab</p>", None)),
        ("Transfer-Encoding: chunked", b"<p>without</p>", (b"<p>without</p>", None)),
        ("Transfer-Encoding: chunked", b"Dear reader\r\n", (b"Dear reader\r\n", None)),
        ("Content-Encoding: gzip", gzip.compress(b"x" * 5_000_000), (b"", "too_large")),
    ],
)
def test_one_bad_answer_of_a_server_costs_no_other(tmp_path: Path, header: str, body: bytes, expected: tuple) -> None:
    good = warc_response("https://example.org/2", "Content-Type: text/html", b"<p>next</p>")
    (tmp_path / "a.warc").write_bytes(
        warc_response("https://example.org/1", f"Content-Type: text/html\r\n{header}", body) + good
    )
    first, second = records(tmp_path / "a.warc", tmp_path)
    assert (first.body, first.problem) == expected
    assert (second.body, second.problem) == (b"<p>next</p>", None)


def test_odd_values_in_parquet_cost_no_other_row(tmp_path: Path) -> None:
    texts = pa.array([b"one", b"\xff\xfe", b"three"], pa.binary()).view(pa.string())
    dates = pa.array([1 << 60, None, 0], pa.timestamp("us", tz="Foo/Bar"))
    pq.write_table(pa.table({"text": texts, "date": dates, "title": ["a", None, "c"]}), tmp_path / "a.parquet")
    found = records(tmp_path / "a.parquet", tmp_path)
    assert [(r.body, r.title, r.problem) for r in found] == [
        (b"one", "a", None),
        (b"\xff\xfe", "", None),
        (b"three", "c", None),
    ]


def test_the_first_field_with_something_in_it_is_the_text(tmp_path: Path) -> None:
    lines = [{"html": "", "text": "hello"}, {"text": None, "content": "there"}, {"text": ""}, {"text": 5}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = records(tmp_path / "a.jsonl", tmp_path)
    assert [(r.body, r.problem) for r in found] == [
        (b"hello", None),
        (b"there", None),
        (b"", None),
        (b"", "broken_record"),
    ]


def test_a_file_that_cannot_be_read_now_is_no_broken_one(tmp_path: Path) -> None:
    missing = InputFile(place=str(tmp_path / "gone.txt"), address="gone.txt", source="s", size=3, version="")
    with pytest.raises(UserError, match="cannot be read"):
        list(read_records(missing, LIMIT))

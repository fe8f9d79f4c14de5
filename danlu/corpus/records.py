"""What a raw file holds, record by record, whatever its format; nothing is read whole that may be large.

In: an `InputFile`. Out: `Record`s. A record that cannot be read carries its `problem` and no content, so that it is
counted as a dropped document and never ends the run.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from danlu.corpus.inputs import PAGE, SINGLE_FILES, TEXT, InputFile, extension, unpacked
from danlu.run.errors import UserError, first_line

TEXT_FIELDS = ("text", "content")
"""Names under which JSON lines and Parquet hold a text; `html` holds a page."""
FACTS = ("url", "title", "date")
"""Fields beside it that are kept."""
ROWS_AT_ONCE = 64
"""Parquet rows in memory at once. Our choice: 64 rows of the longest document allowed are still under 1 GB."""
NOT_NOW = (TimeoutError, ConnectionError, PermissionError, FileNotFoundError)
"""What object stores raise, without a number of the system's."""
UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, zlib.error, KeyError)
"""What the readers raise for a file that is not whole; UnicodeError and pyarrow's own are ValueErrors."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One document as it came."""

    record: str
    """Address: the file's, and the number within a file of many."""
    source: str
    url: str
    """Where the document came from, else its address."""
    kind: str
    """`page`, `text` or `code`."""
    offset: int = 0
    """Byte of the file at which it begins (of the unpacked one for JSON lines); the row for Parquet."""
    title: str = ""
    date: str = ""
    """As the record or the page states it."""
    content_type: str | None = None
    """The HTTP header, where there was one."""
    body: bytes = b""
    """The undecoded content."""
    problem: str | None = None
    """Why the content is missing."""


@contextmanager
def opened(file: InputFile) -> Iterator[BinaryIO]:
    """The file's bytes, here or in an object store."""
    if "://" not in file.place:
        with open(file.place, "rb") as stream:
            yield stream
        return
    import fsspec

    with fsspec.open(file.place, "rb") as stream:
        yield stream


@contextmanager
def unpacking(file: InputFile) -> Iterator[BinaryIO]:
    """The file's bytes without their compression, a piece at a time."""
    with opened(file) as stream:
        if extension(file.address).endswith(".gz"):
            yield io.BufferedReader(gzip.GzipFile(fileobj=stream))  # type: ignore[arg-type]
        elif extension(file.address).endswith(".zst"):
            import pyarrow

            yield io.BufferedReader(pyarrow.CompressedInputStream(stream, "zstd"))
        else:
            yield stream


def read_records(file: InputFile, limit: int) -> Iterator[Record]:
    """The records of one file; none holds more than `limit` bytes. A file broken half-way ends in a `broken_file`."""
    known = unpacked(file.address)
    try:
        if known in SINGLE_FILES:
            yield read_single(file, SINGLE_FILES[known], limit)
        elif known == ".jsonl":
            yield from read_json_lines(file, limit)
        elif known == ".parquet":
            yield from read_parquet(file, limit)
        else:
            yield from read_warc(file, limit)
    except UNREADABLE as error:
        if isinstance(error, OSError) and (error.errno is not None or isinstance(error, NOT_NOW)):
            # The system cannot read it, now: that says nothing of what is in it, and must not be kept.
            raise UserError(f"cannot be read ({error.strerror or first_line(error)})", where=file.place) from error
        place = f"{file.address}#broken"
        yield Record(record=place, source=file.source, url=file.address, kind=TEXT, problem="broken_file")


def read_single(file: InputFile, kind: str, limit: int) -> Record:
    """A file that is one document."""
    with unpacking(file) as stream:
        body = stream.read(limit + 1)
    too_large = len(body) > limit
    return Record(
        record=file.address, source=file.source, url=file.address, kind=kind,
        body=b"" if too_large else body, problem="too_large" if too_large else None,
    )  # fmt: skip


def read_json_lines(file: InputFile, limit: int) -> Iterator[Record]:
    """One record a line: an object with `text` (or `content`) or `html`, and perhaps `url`, `title`, `date`."""
    offset = 0
    with unpacking(file) as stream:
        for number, (line, length) in enumerate(capped_lines(stream, limit), start=1):
            place = f"{file.address}#{number}"
            if line is None:
                yield Record(record=place, source=file.source, url=place, kind=TEXT, offset=offset, problem="too_large")
            elif line.strip():
                yield from_fields(parsed(line), place, file.source, offset, limit)
            offset += length


def capped_lines(stream: BinaryIO, limit: int) -> Iterator[tuple[bytes | None, int]]:
    """Lines and their lengths; None for one longer than `limit`, which is skipped without being held in memory."""
    while line := stream.readline(limit + 1):
        length = len(line)
        if line.endswith(b"\n") or length <= limit:
            yield line, length
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(limit + 1)
            length += len(line)
        yield None, length


def parsed(line: bytes) -> dict[str, Any]:
    """The object of a JSON line; empty when it is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def from_fields(fields: dict[str, Any], place: str, source: str, offset: int, limit: int) -> Record:
    """A record from named fields; `broken_record` when no field holds a text."""
    # A lone half of a surrogate pair has no UTF-8 form: it becomes "?".
    facts = {
        name: fields[name].encode("utf-8", "replace").decode() if isinstance(fields.get(name), str) else ""
        for name in FACTS
    }
    facts["url"] = facts["url"] or place
    about: dict[str, Any] = {"record": place, "source": source, "offset": offset, **facts}
    name, content = next(
        (
            (name, fields[name])
            for name in ("html", *TEXT_FIELDS)
            if isinstance(fields.get(name), str | bytes) and fields[name]
        ),
        ("", None),
    )
    if content is None:
        is_empty = any(isinstance(fields.get(name), str | bytes) for name in ("html", *TEXT_FIELDS))
        return Record(**about, kind=TEXT, problem=None if is_empty else "broken_record")
    body = content.encode("utf-8", "replace") if isinstance(content, str) else content
    kind = PAGE if name == "html" else TEXT
    content_type = "text/html; charset=utf-8" if isinstance(content, str) and kind == PAGE else None
    if len(body) > limit:
        return Record(**about, kind=kind, problem="too_large")
    return Record(**about, kind=kind, content_type=content_type, body=body)


def read_parquet(file: InputFile, limit: int) -> Iterator[Record]:
    """One record a row, by the same field names as JSON lines."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with opened(file) as stream, pq.ParquetFile(stream) as table:
        columns = [
            field.name for field in table.schema_arrow
            if field.name in (*TEXT_FIELDS, "html", *FACTS) and is_text(field.type)
            and table.schema_arrow.names.count(field.name) == 1
        ]  # fmt: skip
        number = 0
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
            # As bytes: one value that is not UTF-8 must not cost the others.
            values = {name: plain(batch.column(name)).cast(pa.large_binary()).to_pylist() for name in columns}
            for place in range(batch.num_rows):
                number += 1
                fields = {name: values[name][place] for name in columns}
                facts = {name: (fields.pop(name) or b"").decode("utf-8", "replace") for name in FACTS if name in fields}
                page = fields.get("html")
                if page and is_utf8(page):
                    fields["html"] = page.decode()
                yield from_fields(fields | facts, f"{file.address}#{number}", file.source, number - 1, limit)


def plain(column: Any) -> Any:
    """A column without a dictionary of its values."""
    import pyarrow.types as types

    return column.dictionary_decode() if types.is_dictionary(column.type) else column


def is_text(kind: Any) -> bool:
    """Whether a Parquet column holds text or bytes."""
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return any(
        holds(kind) for holds in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    )


def is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_warc(file: InputFile, limit: int) -> Iterator[Record]:
    """One record a response (or resource, or converted text) of a web archive, packed or not."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    wanted = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
    number = 0
    with opened(file) as stream:
        for number, entry in enumerate(ArchiveIterator(stream, record_types=wanted), start=1):
            yield from_archive(entry, f"{file.address}#{number}", file.source, limit)
    if not number and file.size:
        raise ValueError("no response in the archive")


def from_archive(entry: Any, place: str, source: str, limit: int) -> Record:
    """A record of a web archive: its headers, and the page without what HTTP had put around it."""
    headers = entry.http_headers
    content_type = headers.get("Content-Type") if headers is not None else entry.headers.get("Content-Type")
    status = headers.status_code if headers is not None else None
    body = entry.reader.read(limit + 1)
    problem = "too_large" if len(body) > limit else None
    if "Content-Length" not in entry.headers or len(body) < min(entry.content_length, limit + 1):
        problem = "truncated"
    elif content_type and not any(name in content_type.lower() for name in ("html", "text/plain", "xml")):
        problem = "not_a_page"
    elif status is not None and not 200 <= status < 300:
        problem = "http_error"
    elif headers is not None and problem is None:
        try:
            body = without_http_coding(body, headers, limit)
            problem = "too_large" if len(body) > limit else None
        except (ValueError, zlib.error):
            problem = "broken_record"
    return Record(
        record=place, source=source, url=entry.headers.get("WARC-Target-URI") or place,
        kind=TEXT if (content_type or "").lower().startswith("text/plain") else PAGE,
        offset=entry.stream_pos, date=entry.headers.get("WARC-Date") or "", content_type=content_type,
        body=b"" if problem else body, problem=problem,
    )  # fmt: skip


def without_http_coding(body: bytes, headers: Any, limit: int) -> bytes:
    """A body without chunks and compression, where it still has them: many archives hold it unpacked and say otherwise.
    At most one byte more than the limit. Raises ValueError for a coding that cannot be undone."""
    if "chunked" in (headers.get("Transfer-Encoding") or "").lower() and (chunk := CHUNK_SIZE.match(body)):
        pieces, place = [], 0
        while chunk is not None and (size := int(chunk[1], 16)):
            pieces.append(body[chunk.end() : chunk.end() + size])
            place = chunk.end() + size + 2
            chunk = CHUNK_SIZE.match(body, place)
        # Without the last chunk these are none: text may begin with letters that are digits to the base of 16.
        body = b"".join(pieces) if chunk is not None else body
    coding = (headers.get("Content-Encoding") or "").lower()
    if coding in ("gzip", "x-gzip") and body.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, limit + 1)
    if coding == "deflate" and body[:1] == b"\x78":
        return zlib.decompressobj().decompress(body, limit + 1)
    if coding in ("br", "zstd") and not body.lstrip(BLANKS).startswith(b"<"):
        raise ValueError(f"compressed as {coding}")
    return body


BLANKS = b"\xef\xbb\xbf \t\r\n"
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[^\r\n]{0,100}\r\n")

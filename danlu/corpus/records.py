"""What a folder of raw files holds, record by record, whatever its formats; nothing is read whole that may be large.

In: a folder of `.html .htm .txt .md .py .jsonl .parquet .warc .warc.gz`. Out: `Record`s. A record that cannot be read
carries its `problem` and no content, so that it is counted as a dropped document and never ends the run.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.run.errors import UserError

PAGE, TEXT, SOURCE_CODE = "page", "text", "code"
SINGLE_FILES = {".html": PAGE, ".htm": PAGE, ".txt": TEXT, ".md": TEXT, ".py": SOURCE_CODE}
MANY_RECORDS = (".jsonl", ".parquet", ".warc", ".warc.gz")
EXTENSIONS = (*SINGLE_FILES, *MANY_RECORDS)
TEXT_FIELDS = ("text", "content")
"""Names under which JSON lines and Parquet hold a text; `html` holds a page."""
ROWS_AT_ONCE = 64
"""Parquet rows in memory at once. Our choice: 64 rows of the longest document allowed are still under 1 GB."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One document as it came."""

    record: str
    """Address: the file's path below the input, and the number within a file of many."""
    source: str
    """First folder below the input, or the file's name."""
    url: str
    """Where the document came from, else its address."""
    kind: str
    """`page`, `text` or `code`."""
    content_type: str | None = None
    """The HTTP header, where there was one."""
    body: bytes = b""
    """The undecoded content."""
    problem: str | None = None
    """Why the content is missing."""


def extension(path: Path) -> str:
    """The file's known extension in lower case, or its last one."""
    name = path.name.lower()
    return ".warc.gz" if name.endswith(".warc.gz") else path.suffix.lower()


def input_files(folder: Path) -> tuple[list[Path], int]:
    """Readable files below `folder` in name order, and how many others were passed over. Raises UserError if none."""
    if not folder.is_dir():
        raise UserError("no such folder of raw files", where=folder, mend="Run `danlu corpus fetch`, or give --input")
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    visible = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    files = [path for path in visible if extension(path) in EXTENSIONS]
    if not files:
        raise UserError("no file here that can be read", where=folder, mend=f"Known are: {' '.join(EXTENSIONS)}")
    return files, len(visible) - len(files)


def readable(name: str) -> str:
    """A file's name as text; bytes that are not UTF-8 are shown as `\\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_records(path: Path, folder: Path, limit: int) -> Iterator[Record]:
    """The records of one file; none holds more than `limit` bytes. A file broken half-way ends in a `broken_file`."""
    relative = path.relative_to(folder)
    source = readable(relative.parts[0])
    address = readable(relative.as_posix())
    kind = SINGLE_FILES.get(extension(path))
    try:
        if kind is not None:
            yield read_single(path, address, source, kind, limit)
        elif extension(path) == ".jsonl":
            yield from read_json_lines(path, address, source, limit)
        elif extension(path) == ".parquet":
            yield from read_parquet(path, address, source, limit)
        else:
            yield from read_warc(path, address, source, limit)
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None and not path.exists():
            raise UserError("the file went away while it was read", where=path) from error
        yield Record(record=f"{address}#broken", source=source, url=address, kind=TEXT, problem="broken_file")


def read_single(path: Path, address: str, source: str, kind: str, limit: int) -> Record:
    """A file that is one document."""
    too_large = path.stat().st_size > limit
    body = b"" if too_large else path.read_bytes()
    problem = "too_large" if too_large else None
    return Record(record=address, source=source, url=address, kind=kind, body=body, problem=problem)


def read_json_lines(path: Path, address: str, source: str, limit: int) -> Iterator[Record]:
    """One record a line: an object with `text` (or `content`) or `html`, and perhaps `url`."""
    for number, line in enumerate(capped_lines(path, limit), start=1):
        place = f"{address}#{number}"
        if line is None:
            yield Record(record=place, source=source, url=place, kind=TEXT, problem="too_large")
        elif line.strip():
            yield from_fields(parsed(line), place, source, limit)


def capped_lines(path: Path, limit: int) -> Iterator[bytes | None]:
    """Lines of a file; None for one longer than `limit`, which is skipped without being held in memory."""
    with path.open("rb") as stream:
        while line := stream.readline(limit + 1):
            if line.endswith(b"\n") or len(line) <= limit:
                yield line
                continue
            while line and not line.endswith(b"\n"):
                line = stream.readline(limit + 1)
            yield None


def parsed(line: bytes) -> dict[str, Any]:
    """The object of a JSON line; empty when it is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def from_fields(fields: dict[str, Any], place: str, source: str, limit: int) -> Record:
    """A record from named fields; `broken_record` when no field holds a text."""
    url = fields.get("url")
    url = url if isinstance(url, str) and url else place
    page = fields.get("html")
    content = page if isinstance(page, str | bytes) else next((fields[f] for f in TEXT_FIELDS if f in fields), None)
    if not isinstance(content, str | bytes):
        return Record(record=place, source=source, url=url, kind=TEXT, problem="broken_record")
    # A lone half of a surrogate pair has no UTF-8 form: it becomes "?".
    body = content.encode("utf-8", "replace") if isinstance(content, str) else content
    kind = PAGE if content is page else TEXT
    content_type = "text/html; charset=utf-8" if isinstance(content, str) and kind == PAGE else None
    if len(body) > limit:
        return Record(record=place, source=source, url=url, kind=kind, problem="too_large")
    return Record(record=place, source=source, url=url, kind=kind, content_type=content_type, body=body)


def read_parquet(path: Path, address: str, source: str, limit: int) -> Iterator[Record]:
    """One record a row, by the same field names as JSON lines."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as table:
        columns = [name for name in (*TEXT_FIELDS, "html", "url") if name in table.schema_arrow.names]
        number = 0
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
            for fields in batch.to_pylist() if columns else [{}] * batch.num_rows:
                number += 1
                yield from_fields(fields, f"{address}#{number}", source, limit)


def read_warc(path: Path, address: str, source: str, limit: int) -> Iterator[Record]:
    """One record a response of a web archive, gzipped or not."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    number = 0
    with path.open("rb") as stream:
        for entry in ArchiveIterator(stream, record_types=WarcRecordType.response):
            number += 1
            place = f"{address}#{number}"
            url = entry.headers.get("WARC-Target-URI") or place
            headers = entry.http_headers
            content_type = headers.get("Content-Type") if headers is not None else None
            kind = TEXT if (content_type or "").lower().startswith("text/plain") else PAGE
            body = entry.reader.read(limit + 1)
            problem = "too_large" if len(body) > limit else None
            if content_type and not any(name in content_type.lower() for name in ("html", "text/plain", "xml")):
                problem = "not_a_page"
            yield Record(
                record=place, source=source, url=url, kind=kind, content_type=content_type,
                body=b"" if problem else body, problem=problem,
            )  # fmt: skip
    if not number and path.stat().st_size:
        raise ValueError("no response in the archive")

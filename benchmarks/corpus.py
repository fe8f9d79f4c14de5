"""The whole pipeline, web pages to filtered Parquet: documents a second beside datatrove, and bounded memory.

    python benchmarks/corpus.py speed --cache cache/downloads --json benchmarks/results/corpus-speed.json
    python benchmarks/corpus.py memory --gigabytes 6 --limit-gigabytes 2

`speed`: real news pages, each several times with other words in its paragraphs so that they are no duplicates; both
sides extract, judge by Gopher's rules, seek near-duplicates and write Parquet. Ours also identifies languages, masks
personal data, scores safety and records what was dropped. Seconds by the clock, each side with one worker on a machine
that does nothing else, its start included: the processor time of Daft's workers is not handed on to their parent.
`memory`: pages made up as they are read, under a limit for every process of ours that the kernel enforces.
"""

import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from side_by_side import peer_python, report

from danlu.corpus.charset import decode_html
from danlu.corpus.config import FetchConfig
from danlu.corpus.fetch import have_archive
from danlu.corpus.sources import SOURCES


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What is measured."""

    what: tyro.conf.Positional[Literal["speed", "memory"]]
    cache: Path = FetchConfig().cache
    """Folder of downloaded archives."""
    pages: int = 300
    """Pages of the speed measurement."""
    extractors: tuple[str, ...] = ("fast", "balanced", "quality")
    """Ours that are measured."""
    environments: Path = Path("cache/peers")
    """Folder of the peer's Python environment."""
    gigabytes: float = 6.0
    """Size of the made-up corpus."""
    limit_gigabytes: float = 2.0
    """Memory that each of our processes may have."""
    json: Path | None = None
    """File for the results, beside standard output."""


def real_pages(cache: Path, count: int) -> Iterator[str]:
    """Pages of the English and Chinese news sites, again and again with their words shuffled in place."""
    bodies = []
    for name in ("english-web", "chinese-web"):
        archive = SOURCES[name].archive
        assert archive is not None
        bodies += [body for _, body in SOURCES[name].read(have_archive(archive, cache))]
    pages = [decode_html(body)[0] for body in bodies]
    for number in range(count):
        rng = random.Random(number)
        yield re.sub(
            r">([^<>]{80,})<", lambda found, rng=rng: f">{shuffled(found[1], rng)}<", pages[number % len(pages)]
        )


def shuffled(text: str, rng: random.Random) -> str:
    words = text.split(" ") if " " in text.strip() else list(text)
    rng.shuffle(words)
    return (" " if " " in text.strip() else "").join(words)


def speed(config: Corpus) -> dict[str, Any]:
    """Seconds of both sides for the same pages."""
    found: dict[str, Any] = {"pages": config.pages}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "input").mkdir()
        ours = folder / "ours" / "web"
        ours.mkdir(parents=True)
        size = 0
        with (folder / "input" / "pages.jsonl").open("w", encoding="utf-8") as stream:
            for number, page in enumerate(real_pages(config.cache, config.pages)):
                size += len(page.encode("utf-8", "replace"))
                stream.write(json.dumps({"id": str(number), "text": page}) + "\n")
                (ours / f"{number:05}.html").write_text(page, encoding="utf-8", errors="replace")
        found["megabytes"] = size / 1e6
        here = Path(__file__).parent
        peer = peer_python(here / "corpus-peer-requirements.txt", config.environments)
        started = time.monotonic()
        done = subprocess.run([str(peer), str(here / "corpus_datatrove.py"), name], capture_output=True, text=True)
        theirs = time.monotonic() - started
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        found["datatrove"] = {"seconds": theirs, "pages_per_second": config.pages / theirs}
        for extractor in config.extractors:
            seconds = build(folder, extractor, "--workers", "1")
            found[f"danlu {extractor}"] = {
                "seconds": seconds, "pages_per_second": config.pages / seconds,
                "megabytes_per_second": size / 1e6 / seconds, "ratio": theirs / seconds,
            }  # fmt: skip
    return found


def build(folder: Path, extractor: str, *more: str) -> float:
    """Seconds that `danlu corpus build` takes."""
    out = folder / f"out-{extractor}"
    command = [sys.executable, "-m", "danlu.cli", "corpus", "build", "--input", str(folder / "ours"), "--out", str(out)]
    command += ["--cache", str(folder / f"cache-{extractor}"), "--extractor", extractor, *more]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
FILES = 8
"""Files of the made-up corpus."""


def made_up_lines(gigabytes: float, seed: int) -> Iterator[str]:
    """JSON lines of pages, each of 200 kB with 4 kB of text."""
    rng = random.Random(seed)
    words = [f"{rng.choice('bcdfglmnprst')}{rng.choice('aeiou')}{rng.choice('lmnrst')}{n % 97}" for n in range(5000)]
    size = 0
    while size < gigabytes * 1e9:
        sentences = [" ".join(rng.choices([*words, *STOP_WORDS * 200], k=18)) + "." for _ in range(40)]
        text = "".join(f"<p>{sentence}</p>" for sentence in sentences)
        script = "<script>" + "var a = 1; " * 17_000 + "</script>"
        line = json.dumps({"html": f"<html><head>{script}</head><body><article>{text}</article></body></html>"})
        size += len(line)
        yield line


def memory(config: Corpus) -> dict[str, Any]:
    """Build a corpus of so many gigabytes with every process under the limit; the peak of the largest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ours" / "web").mkdir(parents=True)
        for number in range(FILES):
            with (folder / "ours" / "web" / f"{number}.jsonl").open("w", encoding="utf-8") as stream:
                stream.writelines(line + "\n" for line in made_up_lines(config.gigabytes / FILES, number))
        limit = int(config.limit_gigabytes * 1e9)
        started = time.monotonic()
        # Data, not address space: libraries reserve far more addresses than they use.
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
        build(folder, "fast", "--page-megabytes", "1000")
        figures = json.loads((folder / "out-fast" / "figures.json").read_text())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    return {
        "gigabytes": config.gigabytes, "limit_gigabytes": config.limit_gigabytes, "peak_megabytes": peak,
        "seconds": time.monotonic() - started, "documents": figures["documents_in"], "kept": figures["documents_kept"],
    }  # fmt: skip


def main(config: Corpus) -> None:
    report(speed(config) if config.what == "speed" else memory(config), config.json)


if __name__ == "__main__":
    main(tyro.cli(Corpus))

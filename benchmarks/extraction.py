"""Main text of web pages: how much of it is found, and how fast, beside resiliparse and trafilatura in one run.

    python benchmarks/extraction.py --cache cache/downloads
    python benchmarks/extraction.py --json benchmarks/results/extraction.json

Pages: those of the Chinese news and forum pages that `labels/extraction.json` says the main text of, and the pages of
newspaper4k with its own expected texts; both come through `danlu corpus fetch`. Measured as the public
article-extraction benchmark does: shingles of four words (of four characters in scripts without blanks), precision and
recall averaged over pages. Each side reads every page in turn, one page by each side after another, so that a busy
machine slows all alike; speeds are given as multiples of trafilatura's.
"""

import hashlib
import json
import re
import tarfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from page_lines import page_lines
from side_by_side import report

from danlu.corpus.charset import decode_html
from danlu.corpus.config import FetchConfig
from danlu.corpus.extract import extract
from danlu.corpus.fetch import have_archive
from danlu.corpus.sources import SOURCES

LABELS = Path(__file__).parent / "labels" / "extraction.json"
WITHOUT_BLANKS = re.compile("[\u0e00-\u0e7f\u1000-\u109f\u3040-\u30ff\u4e00-\u9fff]")
"""Thai, Burmese, Japanese, Chinese."""


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Where the pages are."""

    cache: Path = FetchConfig().cache
    """Folder of downloaded archives."""
    json: Path | None = None
    """File for the results, beside standard output."""


@dataclass(frozen=True)
class Page:
    group: str
    page: str
    """Decoded: finding the character set is measured by the tests."""
    expected: str


def pages(cache: Path) -> list[Page]:
    """Every labelled page that has a main text. Raises ValueError for a page that is not the one that was labelled."""
    found = []
    labels = json.loads(LABELS.read_text())
    archive = SOURCES["chinese-web"].archive
    assert archive is not None
    for name, body in SOURCES["chinese-web"].read(have_archive(archive, cache)):
        label = labels.get(name)
        if not label or not label["lines"]:
            continue
        if hashlib.sha256(body).hexdigest()[:16] != label["sha256"]:
            raise ValueError(f"{name} is not the page that was labelled")
        lines = page_lines(body)
        expected = "\n".join(line for first, last in label["lines"] for line in lines[first - 1 : last])
        found.append(Page("Chinese, labelled here", decode_html(body)[0], expected))
    archive = SOURCES["english-web"].archive
    assert archive is not None
    with tarfile.open(have_archive(archive, cache)) as bundle:
        texts = {name: bundle for name in bundle.getnames() if "/tests/data/txt/" in name and name.endswith(".txt")}
        for name in sorted(texts):
            html = name.replace("/txt/", "/html/").removesuffix(".txt") + ".html"
            if html in bundle.getnames():
                body, text = (bundle.extractfile(part).read() for part in (html, name))  # type: ignore[union-attr]
                found.append(Page("newspaper4k", decode_html(body)[0], text.decode()))
    return found


def resiliparse(page: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(page, main_content=True, preserve_formatting=True, alt_texts=False)


def trafilatura(page: str) -> str:
    import trafilatura

    return trafilatura.extract(page, include_comments=False) or ""


SIDES: dict[str, Callable[[str], str]] = {
    "resiliparse": resiliparse,
    "trafilatura": trafilatura,
    **{f"danlu {mode}": lambda page, mode=mode: extract(page, mode) for mode in ("fast", "balanced", "quality")},  # type: ignore[misc]
}


def shingles(text: str) -> Counter[tuple[str, ...]]:
    """How often each run of four words, or four characters, occurs; a shorter text is one."""
    is_unspaced = len(WITHOUT_BLANKS.findall(text)) > 0.3 * max(len(text), 1)
    words = re.findall(r"\w" if is_unspaced else r"\w+", text)
    return Counter(tuple(words[i : i + 4]) for i in range(max(1, len(words) - 3))) if words else Counter()


def f1(pairs: list[tuple[str, str]]) -> dict[str, float]:
    """F1, precision and recall of (found, expected) texts, the last two averaged over pages."""
    precisions, recalls = [], []
    for found, expected in pairs:
        a, b = shingles(found), shingles(expected)
        shared = (a & b).total()
        if a:
            precisions.append(shared / a.total())
        recalls.append(shared / b.total())
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return {"f1": 2 * precision * recall / (precision + recall), "precision": precision, "recall": recall}


def measure(config: Extraction) -> dict[str, Any]:
    every = pages(config.cache)
    seconds: dict[str, float] = defaultdict(float)
    texts: dict[str, list[str]] = defaultdict(list)
    for work in SIDES.values():
        work(every[0].page)  # imports and compiled patterns
    for page in every:
        for side, work in SIDES.items():
            started = time.process_time()
            texts[side].append(work(page.page))
            seconds[side] += time.process_time() - started
    groups = sorted({page.group for page in every})
    sides = {}
    for side in SIDES:
        sides[side] = {
            "pages_per_cpu_second": len(every) / seconds[side],
            "speed_by_trafilatura": seconds["trafilatura"] / seconds[side],
            **{
                group: f1([(text, p.expected) for text, p in zip(texts[side], every, strict=True) if p.group == group])
                for group in groups
            },
        }
    counts = {group: sum(page.group == group for page in every) for group in groups}
    size = sum(len(page.page) for page in every) / len(every)
    return {"pages": counts, "mean_characters_a_page": round(size), "sides": sides}


def main(config: Extraction) -> None:
    report(measure(config), config.json)


if __name__ == "__main__":
    main(tyro.cli(Extraction))

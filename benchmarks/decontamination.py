"""Evaluation items planted in documents, unchanged and changed: how many are caught, and how many clean ones too.

    python benchmarks/decontamination.py --data DIR --json benchmarks/results/decontamination.json

`DIR` holds the benchmarks as their authors publish them. Each item that is compared is planted between sentences of its
own language: as it is, in capitals, wrapped at six words a line, with other punctuation and width, and with Traditional
characters; and, as the known limit of comparing n-grams, with every fourth word gone (a stand-in for a paraphrase).
Caught is what reaches the recipe's threshold. Clean documents are pieces of Python's own documentation strings.
"""

import inspect
import pkgutil
import random
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import opencc
import tyro
from side_by_side import report

from danlu.corpus.config import DecontaminationConfig
from danlu.corpus.language import HAN
from danlu.corpus.scores.contamination import build_items, contamination, read_items

BEFORE = {
    "zh": "这是网页开头的一段文字，和题目没有关系。",
    "en": "This is how the page begins, and has nothing to do with it. ",
}
AFTER = {
    "zh": "这是网页结尾的一段文字，也没有关系。",
    "en": " And this is how the page ends, with nothing to do with it.",
}


@dataclass(frozen=True, kw_only=True)
class Decontamination:
    """What is planted."""

    data: Path
    """Folder of the benchmarks' files."""
    items: int = 3000
    """Items planted, drawn from all."""
    json: Path | None = None
    """File for the results, beside standard output."""


def wrapped(text: str) -> str:
    words = text.split()
    return "\n".join(" ".join(words[start : start + 6]) for start in range(0, len(words), 6))


def other_signs(text: str) -> str:
    return text.translate(
        str.maketrans({",": "，", ".": "。", "?": "？", "，": ",", "。": ".", "？": "?", "(": "（", ")": "）"})
    )


def thinned(text: str) -> str:
    """Every fourth word, or fourth character in Chinese, gone."""
    words: Any = list(text) if HAN.search(text) else text.split()
    left = [word for place, word in enumerate(words) if place % 4 != 3]
    return ("" if HAN.search(text) else " ").join(left)


CHANGES: dict[str, Callable[[str], str]] = {
    "unchanged": str,
    "capitals": str.upper,
    "wrapped": wrapped,
    "other punctuation": other_signs,
    "Traditional characters": opencc.OpenCC("s2t").convert,
    "every fourth word gone (known limit)": thinned,
}


def clean_documents() -> list[str]:
    """Documentation strings of Python's own modules."""
    found = []
    for module in pkgutil.iter_modules():
        if module.name in ("json", "typing", "logging", "argparse", "decimal", "statistics", "random", "textwrap"):
            for _, value in inspect.getmembers(import_module(module.name), callable):
                found.append(inspect.getdoc(value) or "")
    return [text for text in found if len(text) > 200]


def main(config: Decontamination) -> None:
    settings = DecontaminationConfig()
    items = build_items([config.data], settings)
    texts = dict(read_items(config.data))
    drawn = random.Random(0).sample(items.names, min(config.items, len(items.names)))
    caught = {}
    for name, change in CHANGES.items():
        shares = []
        for item in drawn:
            language = "zh" if HAN.search(texts[item]) else "en"
            document = BEFORE[language] + change(texts[item]) + AFTER[language]
            shares.append(contamination(items, document)[0] >= settings.threshold)
        caught[name] = sum(shares) / len(shares)
    clean = clean_documents()
    wrongly = sum(contamination(items, text)[0] >= settings.threshold for text in clean)
    report(
        {
            "items": len(items.names), "not_compared": items.not_compared, "planted": len(drawn), "caught": caught,
            "clean_documents": len(clean), "wrongly_caught": wrongly,
        },
        config.json,
    )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Decontamination))

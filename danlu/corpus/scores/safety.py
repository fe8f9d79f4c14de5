"""How offensive a text is: violence, hate, pornography; by expressions with their context, and a trained classifier.

In: a text and its tokens. Out: a score of 0 to 1 for each class. An expression counts as whole words (as characters in
Chinese, where a list of single characters would condemn 一次性 and 性质), never inside a harmless phrase that the list
names, and many different ones count more than one repeated. News and encyclopaedias speak of violence too: an
expression of weight 1 is one that they hardly use.
"""

import math
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from danlu.corpus.scores.classifier import open_classifier

CLASSES = ("violence", "hate", "pornography")
HALF_WEIGHT = 0.9
"""Weight of expressions at which the score is a half, in a text of up to MUCH_TEXT tokens. Our choice: one expression
of weight 1, or two of a half, are above it."""
MUCH_TEXT = 500
"""Tokens from which on the same expressions count less: a long report may quote one. Our choice."""


LETTER = "[a-z0-9_]"
"""Of a word of a spaced script: Chinese characters beside it are not part of it."""


@cache
def expressions(name: str) -> tuple[dict[str, float], tuple[str, ...]]:
    """Of a class: its expressions with their weights, and the harmless phrases."""
    weights: dict[str, float] = {}
    harmless: list[str] = []
    for line in files("danlu.corpus.scores").joinpath("safety_words.txt").read_text(encoding="utf-8").splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "-" and rest.startswith(f"{name} "):
            harmless.append(rest.removeprefix(f"{name} "))
        elif kind == name:
            weight, _, expression = rest.partition(" ")
            weights[expression] = float(weight)
    return weights, tuple(harmless)


def holds(text: str, phrase: str) -> bool:
    """Whether a phrase stands in a text; words of spaced scripts as whole words."""
    if phrase not in text:
        return False
    return not phrase.isascii() or re.search(rf"(?<!{LETTER}){re.escape(phrase)}(?!{LETTER})", text) is not None


def by_expressions(text: str, num_tokens: int) -> dict[str, float]:
    """Scores by the lists alone; `text` in lower case."""
    scores = {}
    for name in CLASSES:
        weights, harmless = expressions(name)
        found = [expression for expression in weights if holds(text, expression)]
        if found:
            rest = text
            for phrase in harmless:
                rest = rest.replace(phrase, " ")
            found = [expression for expression in found if holds(rest, expression)]
        weight = sum(weights[expression] for expression in found) / max(1.0, num_tokens / MUCH_TEXT)
        scores[name] = 1 - math.pow(0.5, weight / HALF_WEIGHT)
    return scores


def safety_scores(text: str, words: Sequence[str], language: str, models: Path | None) -> dict[str, float]:
    """The higher of what the lists and the trained classifier of the language say, where there is one."""
    scores = by_expressions(text.lower(), len(words))
    classifier = open_classifier(models, language) if models is not None else None
    if classifier is not None:
        for name, value in classifier.scores(words).items():
            if name in scores:
                scores[name] = max(scores[name], value)
    return scores

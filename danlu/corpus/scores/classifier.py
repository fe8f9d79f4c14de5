"""A linear classifier over hashed n-grams: good against bad text, or kinds of offensive text.

In: a text's tokens. Out: a probability for each class. The features are a document's n-grams of one to three tokens
(characters in Chinese, words elsewhere), each a row of one table of weights; their mean is the logit, as in fastText
(arXiv 1607.01759) with the hidden layer left out, which for a linear model changes no decision it can take.
Trained with PyTorch; read here with numpy alone, since scoring is done in many short-lived processes.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from danlu.corpus.tokens import gram_numbers, token_numbers
from danlu.run.errors import UserError

NGRAMS = (1, 2, 3)
TABLE_ROWS = 1 << 18
"""Hashed features. Our choice: 1 MB a class; a document has some thousands."""
MOST_TOKENS = 5000
"""Tokens of a document that are looked at. Our choice."""


def features(words: Sequence[str]) -> np.ndarray:
    """Rows of the table for a text's n-grams: int64, repeated where an n-gram is."""
    numbers = token_numbers(words[:MOST_TOKENS])
    grams = [gram_numbers(numbers, n) for n in NGRAMS if len(numbers) >= n]
    return (np.concatenate(grams) % np.uint64(TABLE_ROWS)).astype(np.int64) if grams else np.empty(0, dtype=np.int64)


class Classifier:
    """`classes` are names; `weights` (TABLE_ROWS, classes) and `bias` (classes,) float32."""

    def __init__(self, classes: tuple[str, ...], weights: np.ndarray, bias: np.ndarray) -> None:
        self.classes = classes
        self.weights = weights
        self.bias = bias

    def scores(self, words: Sequence[str]) -> dict[str, float]:
        """Probability of each class, 0 to 1; of a text without tokens what the bias alone says."""
        rows = features(words)
        logits = self.bias + (self.weights[rows].mean(axis=0) if len(rows) else 0.0)
        values = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
        return dict(zip(self.classes, values.tolist(), strict=True))


def classifier_file(folder: Path, language: str) -> Path:
    return folder / f"{language}.safetensors"


def save_classifier(folder: Path, language: str, classifier: Classifier, about: dict[str, object]) -> None:
    """Write `LANGUAGE.safetensors` with the classes' names and what it was trained on."""
    from safetensors.numpy import save_file

    metadata = {"classes": json.dumps(classifier.classes), "about": json.dumps(about, ensure_ascii=False)}
    tensors = {"weights": classifier.weights.astype(np.float32), "bias": classifier.bias.astype(np.float32)}
    save_file(tensors, classifier_file(folder, language), metadata=metadata)


@cache
def open_classifier(folder: Path, language: str) -> Classifier | None:
    """The classifier of a language, None where the folder has none. Raises UserError for a file that is none."""
    from safetensors import SafetensorError, safe_open

    path = classifier_file(folder, language)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            classes = tuple(json.loads((file.metadata() or {})["classes"]))
            weights, bias = file.get_tensor("weights"), file.get_tensor("bias")
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UserError(
            "no classifier of ours", where=path, mend="Train it with `danlu corpus train-quality`"
        ) from error
    if weights.shape != (TABLE_ROWS, len(classes)):
        raise UserError(f"a classifier with {weights.shape[0]} features, not {TABLE_ROWS}", where=path)
    return Classifier(classes, weights, bias)


def languages_of(folder: Path) -> list[str]:
    """Languages that a folder has a classifier for."""
    return sorted(path.stem for path in folder.glob("*.safetensors"))

"""How surprising a text is to a language model of clean text of its language (CCNet, arXiv 1911.00359).

In: a text's tokens (characters in Chinese, words elsewhere; case, width and punctuation left out, digits made alike).
Out: perplexity per token under an n-gram model with Kneser-Ney smoothing, in the ARPA format that `kenlm` reads.
"""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from danlu.run.errors import UserError

RARE = "<unk>"
"""Stands for every word that the model does not know, and in training for those that occur once."""
MOST_TOKENS = 2000
"""Tokens of a document that are scored. Our choice: the figure hardly moves after some hundreds."""


def normalised(words: Sequence[str]) -> list[str]:
    """Tokens as the model knows them: a number of any value is the same word, as in CCNet."""
    return ["0" if word.isdigit() else word for word in words]


def model_file(folder: Path, language: str) -> Path:
    return folder / f"{language}.arpa"


@cache
def open_model(folder: Path, language: str) -> Any:
    """The model of a language, None where the folder has none. Raises UserError for a file that is none."""
    import kenlm

    path = model_file(folder, language)
    if not path.exists():
        return None
    config = kenlm.Config()
    config.show_progress = False
    config.arpa_complain = kenlm.ARPALoadComplain.NONE
    try:
        return kenlm.Model(os.fspath(path), config)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            "no language model in ARPA format", where=path, mend="`danlu corpus train-lm` makes one"
        ) from error


def perplexity(folder: Path, language: str, words: Sequence[str]) -> float | None:
    """Perplexity per token of a text; None without a model of its language, or without a token."""
    model = open_model(folder, language)
    if model is None or not words:
        return None
    known = normalised(words[:MOST_TOKENS])
    return float(10 ** (-model.score(" ".join(known), bos=True, eos=False) / len(known)))


def languages_of(folder: Path) -> list[str]:
    """Languages that a folder has a model for."""
    return sorted(path.stem for path in folder.glob("*.arpa"))

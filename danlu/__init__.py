"""Danlu (丹炉): raw web pages in, an aligned bilingual language model out.

The folders, read in this order, are the recipe:
run, corpus, tokenizer, conversations, model, inference, training, evaluation, serving, report.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """`danlu.load` and `danlu.generate`, imported when first asked for, so that `danlu --help` stays quick."""
    if name == "load":
        from danlu.inference.load import load

        return load
    if name == "generate":
        from danlu.inference.generate import generate

        return generate
    raise AttributeError(f"module 'danlu' has no attribute {name!r}")

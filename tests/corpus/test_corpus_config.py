"""Values that cannot be meant stop the work before it begins (known fault D06)."""

import subprocess
import sys

import pytest

from danlu.corpus.config import (
    SOURCE_NAMES,
    CorpusConfig,
    DecontaminationConfig,
    FetchConfig,
    MinHashConfig,
    QualityConfig,
    SafetyConfig,
    SourceConfig,
)
from danlu.corpus.sources import SOURCES


def test_unknown_languages_stop_the_run_and_the_known_ones_are_listed() -> None:
    with pytest.raises(ValueError, match=r"unknown language `eng`.*Known: code, .*en,.*zh"):
        CorpusConfig(languages=("eng", "chi"))
    with pytest.raises(ValueError, match="unknown language `yue`"):
        CorpusConfig(languages=("yue",))


@pytest.mark.parametrize(
    "values",
    [
        {"languages": ()}, {"extractor": "best"}, {"validation_share": 1.0}, {"validation_share": -0.1},
        {"max_document_megabytes": 0}, {"part_megabytes": 0}, {"engine": "embedded", "address": "ray://head:1"},
        {"workers": -1}, {"page_seconds": 0},
        {"min_language_confidence": 1.5},
    ],
)  # fmt: skip
def test_impossible_corpus_values_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        CorpusConfig(**values)


def test_impossible_values_of_the_parts_are_refused() -> None:
    for wrong in ({"ngram": 0}, {"bands": 0}, {"threshold": 0.0}, {"threshold": 1.1}):
        with pytest.raises(ValueError, match="minhash"):
            MinHashConfig(**wrong)
    for wrong in ({"max_symbol_ratio": 2.0}, {"min_words": 10, "max_words": 5}, {"max_duplicate_ngrams": (0.1,)}):
        with pytest.raises(ValueError, match=r"\w"):
            QualityConfig(**wrong)
    with pytest.raises(ValueError, match="unknown source `wiki`"):
        FetchConfig(sources=("wiki",))
    with pytest.raises(ValueError, match="code_megabytes"):
        FetchConfig(code_megabytes=0)


def test_every_source_name_has_a_source() -> None:
    assert tuple(SOURCES) == SOURCE_NAMES


def test_the_configuration_loads_no_heavy_library() -> None:
    program = (
        "import sys, danlu.corpus.config; print([m for m in ('daft', 'torch', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_impossible_settings_of_a_source_are_refused() -> None:
    for wrong in ({"weight": -1.0}, {"weight": float("inf")}, {"kind": "poems"}, {"languages": ("eng",)}):
        with pytest.raises(ValueError, match=r"\w"):
            SourceConfig(**wrong)
    with pytest.raises(ValueError, match="treatment of personal data"):
        SafetyConfig(personal_data="hide")
    with pytest.raises(ValueError, match="threshold"):
        DecontaminationConfig(threshold=0.0)

"""What the verbs that train the corpus's own models can be told. Imports no heavy library."""

from dataclasses import dataclass
from pathlib import Path

from danlu.corpus.config import KNOWN_LANGUAGES, check_known, check_positive, check_share


@dataclass(frozen=True, kw_only=True)
class TrainLmConfig:
    """`danlu corpus train-lm`: a language model of clean text for each language, for the score `perplexity`."""

    input: Path = Path("runs/fetch/raw")
    """Reference text: a folder as `danlu corpus build` reads it, or its `documents`."""
    out: Path = Path("runs/perplexity")
    """Folder of the result: `models/LANGUAGE.arpa` and `figures.json`."""
    sources: tuple[str, ...] = ()
    """First folders below the input to use; none named: all."""
    languages: tuple[str, ...] = ("zh", "en")
    """Languages to train a model for."""
    order: int = 3
    """Tokens of an n-gram: words, characters in Chinese. CCNet took 5, of a million times as much text."""
    max_tokens: int = 300_000
    """Tokens of each language at most. Our choice: the trainer takes about 15 seconds for a million."""
    held_out_share: float = 0.05
    """Share of the documents that only measure the model."""

    def __post_init__(self) -> None:
        check_known("language", self.languages, sorted(KNOWN_LANGUAGES))
        check_share("held_out_share", self.held_out_share)
        check_positive(self, "max_tokens")
        if not 1 <= self.order <= 5:
            raise ValueError(f"order is {self.order}, it must lie between 1 and 5")


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining:
    """What the classifiers have in common."""

    languages: tuple[str, ...] = ("zh", "en")
    """Languages to train a classifier for."""
    piece_tokens: int = 200
    """Documents are cut into pieces of so many tokens, so that long ones do not outweigh short ones. Our choice."""
    max_pieces: int = 5_000
    """Pieces of each language and class at most."""
    epochs: int = 5
    """Times that each piece is seen."""
    learning_rate: float = 0.05
    """Of Adam. Our choice."""
    held_out_share: float = 0.1
    """Share of the documents that only measure the classifier."""
    seed: int = 0
    """Seed of the order of pieces."""

    def __post_init__(self) -> None:
        check_known("language", self.languages, sorted(KNOWN_LANGUAGES))
        check_share("held_out_share", self.held_out_share)
        check_positive(self, "piece_tokens", "max_pieces", "epochs", "learning_rate")


@dataclass(frozen=True, kw_only=True)
class TrainQualityConfig(ClassifierTraining):
    """`danlu corpus train-quality`: good against bad text for each language, for the score `quality`."""

    good: Path = Path("runs/fetch/raw")
    """Good text: a folder as `danlu corpus build` reads it, or its `documents`. Of an HTML page the main text."""
    bad: Path = Path("runs/fetch/raw")
    """Bad text, likewise. Of an HTML page everything but its main text: navigation, lists of links, imprint."""
    good_sources: tuple[str, ...] = ()
    """First folders below `good` to use; none named: all."""
    bad_sources: tuple[str, ...] = ()
    """First folders below `bad` to use; none named: all."""
    out: Path = Path("runs/quality")
    """Folder of the result: `models/LANGUAGE.safetensors` and `figures.json`."""


@dataclass(frozen=True, kw_only=True)
class TrainSafetyConfig(ClassifierTraining):
    """`danlu corpus train-safety`: offensive text of each kind against the rest, for the safety scores."""

    examples: Path = Path("safety.jsonl")
    """JSON lines with `text` and `labels`, a list out of violence, hate, pornography; empty for harmless text."""
    out: Path = Path("runs/safety")
    """Folder of the result: `models/LANGUAGE.safetensors` and `figures.json`."""

"""Comparisons to learn from beside comparisons to be tested on: what `reward` and `dpo` have in common.

In: the files that a stage's configuration names. Out: encoded comparisons, no prompt of the tests among those that are
learnt from.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from danlu.conversations.comparisons import Comparison, Ranked, read_comparisons
from danlu.conversations.prompt_split import split_by_prompt, without_shared_prompts
from danlu.conversations.records import SkippedRecord, count_malformed
from danlu.run.errors import UserError
from danlu.run.left_out import LeftOut
from danlu.tokenizer.bpe import Tokenizer
from danlu.training.comparison_data import EncodedComparisons, encode_comparisons
from danlu.training.config import ComparisonDataConfig

LAST_STEPS = 50
"""Steps that the loss at the end is the mean of."""


@dataclass(frozen=True, kw_only=True)
class ComparisonData:
    """What a stage learns from and is tested on."""

    train: EncodedComparisons
    tests: dict[str, EncodedComparisons]
    """`test`, and `unseen` where there is such a file."""
    shared: int
    """Comparisons left out of `train` because a test has their prompt."""

    def tell(self, stage: str) -> None:
        """An example of each reason for which something was left out, on standard error."""
        self.train.left_out.tell(stage)
        for name, part in self.tests.items():
            part.left_out.tell(f"{stage}, {name}")


def read_comparison_data(config: ComparisonDataConfig, tokenizer: Tokenizer, limit: int) -> ComparisonData:
    """The comparisons of all files, encoded. Raises UserError where a part has none."""
    held_out = read_held_out(config)
    paths = {"train": config.data, "test": config.test or config.data, "unseen": config.unseen or config.data}
    encoded = {
        name: encode_or_refuse(paths[name], comparisons, tokenizer, limit, held_out.left_out[name])
        for name, comparisons in held_out.comparisons.items()
    }
    return ComparisonData(train=encoded.pop("train"), tests=encoded, shared=held_out.shared)


@dataclass(kw_only=True)
class HeldOut:
    """Comparisons of `train`, `test` and, where there are such, `unseen`; the malformed records of each file."""

    comparisons: dict[str, list[Comparison]] = field(default_factory=dict)
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    shared: int = 0

    def read(self, name: str, path: Path | None, ranked: Ranked) -> list[Comparison]:
        """The comparisons of a file, none where there is no file."""
        skipped: list[SkippedRecord] = []
        found = list(read_comparisons(path, skipped, ranked)) if path else []
        self.left_out[name] = LeftOut()
        count_malformed(skipped, self.left_out[name])
        return found


def read_held_out(config: ComparisonDataConfig) -> HeldOut:
    """The comparisons of the files, no prompt of the tests among those for training; without a test file a part of
    their prompts is held out."""
    result = HeldOut()
    data = result.read("train", config.data, config.ranked)
    test, unseen = result.read("test", config.test, config.ranked), result.read("unseen", config.unseen, config.ranked)
    if not test:
        data, test = split_by_prompt(data, config.test_share, seed=0)
    train, result.shared = without_shared_prompts(data, [*test, *unseen])
    if not train or not test:
        raise UserError(
            f"{len(data)} comparisons leave {len(train)} to learn from and {len(test)} to test on",
            where=config.data,
            mend="Add comparisons with other prompts, or name a test file with --test",
        )
    result.comparisons = {"train": train, "test": test, **({"unseen": unseen} if unseen else {})}
    return result


def encode_or_refuse(
    path: Path, comparisons: Sequence[Comparison], tokenizer: Tokenizer, limit: int, left_out: LeftOut
) -> EncodedComparisons:
    """As `encode_comparisons`; UserError where nothing remains."""
    encoded = encode_comparisons(comparisons, tokenizer, limit, left_out)
    if not encoded.kept:
        raise UserError(
            f"no comparison to learn from; {encoded.left_out.counts or 'the file is empty'}",
            where=path,
            mend="Raise step.sequence_length, or shorten the texts",
        )
    return encoded


def training_figures(data: ComparisonData, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was learnt from, and the loss at the end by the records of `metrics.jsonl`."""
    return {
        "comparisons": data.train.num_pairs,
        "prompts": len(data.train.groups),
        "steps": len(history),
        "loss": statistics.fmean(record["loss"] for record in history[-LAST_STEPS:]),
        "dropped": data.train.left_out.counts,
        "dropped_examples": data.train.left_out.examples,
        "held_out_dropped": {name: part.left_out.counts for name, part in data.tests.items()},
        "shared_prompts": data.shared,
    }


class RightCount:
    """How many comparisons a model gets right while it learns."""

    def __init__(self) -> None:
        self.right = self.pairs = 0

    def add(self, chosen: Tensor, rejected: Tensor) -> None:
        """Scores (P) of the two sides of some comparisons."""
        self.right += int((chosen > rejected).sum())
        self.pairs += len(chosen)

    def figures(self) -> dict[str, float]:
        """Share got right since the last call."""
        share = self.right / self.pairs
        self.right = self.pairs = 0
        return {"accuracy": share}

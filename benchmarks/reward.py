"""Pairs a second of our reward model's training beside TRL's `RewardTrainer`, on the same model and comparisons.

    python benchmarks/reward.py                               # random weights of the demo's shape, made-up comparisons
    python benchmarks/reward.py --run runs/demo               # the demo's chat model under a new head, its comparisons
    python benchmarks/reward.py --shape larger --json FILE

Both train the same folder (`Qwen2ForSequenceClassification`) on the same pairs in the same steps, with AdamW, BF16
autocast, clipping and no checkpointing of activations; ids are made before the clock starts. TRL pads by its own
collator, to the longest of a micro-batch, and runs twice, with the settings that were its fastest (`peer_*` below):

- `trl`: our steps, the pairs of a step sorted by length, so that micro-batches are padded least. Losses are compared.
- `trl_grouped`: steps of its own, pairs of like length in each, as by its `group_by_length`: hardly any padding.

Each side is a process of its own, set up and compiled before the first round; they take turns (ours, peer's, ours, …).
Printed as JSON: medians over the rounds, the ratio of each round to either of the peer's, and first of all `ratio`, to
the faster one. The peer's environment is made on first use.
"""

import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import made_up
import tyro
from side_by_side import PEERS, Process, mean_cpu_seconds, peer_python, report, settings_of, spread, take_turns

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What to measure."""

    run: Path | None = None
    """Folder of a finished run with `sft/model` and `comparisons/comparisons/pmp.jsonl`; without it, all is made up.
    One comparison of each prompt is taken, since the peer reads every pair with its prompt."""

    shape: Literal["demo", "larger"] = "demo"
    """Shape of the made-up model."""

    json: Path | None = None
    """File for the figures, beside standard output."""

    environments: Path = PEERS
    """Folder in which the peer's environment is kept, and made on first use."""

    rounds: int = 9
    """Turns of each side that count."""

    warm_up: int = 2
    """Turns of each side before them, in which kernels are compiled."""

    steps: int = 8
    """Optimiser steps in a turn."""

    batch_size: int = 80
    """Pairs in a step."""

    sequence_length: int = 256
    """Tokens in a row of ours; the demo's."""

    micro_batch_size: int = 9
    """Rows at once of ours: the made-up comparisons fill 16 to 18 rows in a step."""

    learning_rate: float = 2e-4
    """AdamW's rate, constant."""

    bf16: bool = True
    """Matrix products of ours in bfloat16."""

    compile: bool = True
    """Ours by torch.compile."""

    peer_bf16: bool = True
    """The same of the peer's."""

    peer_compile: bool = False
    """The peer by torch.compile."""

    peer_micro_batch_size: int = 10
    """Pairs at once of `trl`; a divisor of `batch_size`."""

    peer_grouped_micro_batch_size: int = 40
    """The same of `trl_grouped`."""

    peer_pad_to_multiple_of: int = 0
    """Lengths that the peer pads to; 0 for the longest row's own."""

    def __post_init__(self) -> None:
        for name in ("rounds", "warm_up", "steps", "batch_size", "peer_micro_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("peer_micro_batch_size", "peer_grouped_micro_batch_size"):
            if self.batch_size % getattr(self, name):
                raise ValueError(f"batch_size {self.batch_size} must be a multiple of {name}")


def prepare(config: Benchmark, folder: Path) -> dict[str, Any]:
    """Models and data in `folder`; the job of both sides."""
    max_steps = (config.warm_up + config.rounds) * config.steps
    # A few pairs are left out where they are too long for a row.
    count = max_steps * config.batch_size * 11 // 10
    language_model, comparisons = folder / "model", folder / "comparisons.jsonl"
    if config.run:
        language_model = config.run / "sft" / "model"
        made_up.first_prompts(config.run / "comparisons" / "comparisons" / "pmp.jsonl", comparisons, count)
    else:
        made_up.write_language_model(folder, made_up.SHAPES[config.shape])
        made_up.write_comparisons(comparisons, count)
    made_up.write_reward_model(folder / "reward", language_model)
    paths = {"model": folder / "reward", "comparisons": comparisons, "out": folder / "out"}
    return {**settings_of(config), "max_steps": max_steps, **{name: str(path) for name, path in paths.items()}}


def pairs_per_s(answer: dict[str, Any]) -> float:
    """Of one turn."""
    return sum(step["pairs"] for step in answer["steps"]) / answer["seconds"]


def measure(config: Benchmark) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """What each side said when it was ready, and its answers to all turns, by the side's name."""
    python = peer_python(HERE / "reward-peer-requirements.txt", config.environments)
    with tempfile.TemporaryDirectory() as folder:
        job = prepare(config, Path(folder))
        ours = Process("danlu", sys.executable, HERE / "reward_danlu.py", job)
        job["batches"] = ours.answer.pop("batches")
        if any(len(batch) != config.batch_size for batch in job["batches"]):
            raise SystemExit("a step has fewer pairs than the others; take data with one comparison for each prompt")
        peers = [
            Process(name, python, HERE / "reward_trl.py", {**job, "grouped": name == "trl_grouped"})
            for name in ("trl", "trl_grouped")
        ]
        sides = [ours, *peers]
        return {side.name: side.answer for side in sides}, take_turns(sides, config.warm_up + config.rounds)


def main(config: Benchmark) -> None:
    """Measure and print one JSON object."""
    sides, turns = measure(config)
    rates = {name: [pairs_per_s(answer) for answer in own[config.warm_up :]] for name, own in turns.items()}
    ratios = {
        name: [mine / other for mine, other in zip(rates["danlu"], rates[name], strict=True)]
        for name in ("trl", "trl_grouped")
    }
    losses = {name: [step["loss"] for answer in own for step in answer["steps"]] for name, own in turns.items()}
    apart = [abs(mine - other) for mine, other in zip(losses["danlu"], losses["trl"], strict=True)]
    figures = {
        "ratio": min((spread(own) for own in ratios.values()), key=lambda own: own["median"]),
        "ratio_to": {name: spread(own) for name, own in ratios.items()},
        "pairs_per_s": {name: spread(own) for name, own in rates.items()},
        "loss": {name: {"first": own[:3], "last": own[-3:]} for name, own in losses.items()},
        "loss_apart": {"mean": statistics.fmean(apart), "most": max(apart)},
        "peak_memory": {name: own[-1]["peak_memory"] for name, own in turns.items()},
        "ratios": ratios,
        "cpu_seconds": mean_cpu_seconds(turns, config.warm_up),
        "inputs": "run" if config.run else f"made up, shape {config.shape}",
        "settings": settings_of(config),
        "sides": sides,
    }
    report(figures, config.json)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

"""Time and memory of a PPO step of ours beside TRL's `PPOTrainer`, on the same models and prompts.

    python benchmarks/ppo.py                                  # random weights of the demo's shape, made-up prompts
    python benchmarks/ppo.py --run runs/demo                  # the demo's chat model, reward model and prompts
    python benchmarks/ppo.py --shape larger --json FILE

The peer is TRL 1.12.0, the last release that has the trainer (`trl.experimental.ppo`). Both draw one response for each
of the same rows of prompts (ours `responses_per_query` for each prompt, the peer's batch holds the prompt as often),
of at most the same length, from the whole distribution; both score it by the same reward model, value model and
reference, and update policy and value model in the same number of passes and minibatches, at the same rates.

Each side is a process of its own, set up and compiled before the first round; they take turns (ours, peer, …). Printed
as JSON: medians over the rounds of the seconds a step took, in all, for the rollout alone and for the rest, of the
ratio of each round, and the peak of each process' memory. The peer's environment is made on first use.
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
PARTS = ("whole", "rollout", "rest")
"""Of a step: all of it, drawing the responses, and scoring them with the updates."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What to measure."""

    run: Path | None = None
    """Folder of a finished run with `sft/model`, `reward/model` and `comparisons/comparisons/prompts.jsonl`; without
    it, all is made up."""

    shape: Literal["demo", "larger"] = "demo"
    """Shape of the made-up models."""

    json: Path | None = None
    """File for the figures, beside standard output."""

    environments: Path = PEERS
    """Folder in which the peer's environment is kept, and made on first use."""

    rounds: int = 7
    """Turns of each side that count."""

    warm_up: int = 1
    """Turns of each side before them, in which kernels are compiled."""

    steps: int = 3
    """PPO steps in a turn."""

    queries: int = 64
    """Prompts in a step."""

    responses_per_query: int = 2
    """Responses to each."""

    max_new_tokens: int = 32
    """Tokens of a response at most."""

    top_p: float = 1.0
    """Share of probability that ours draws from; the peer always draws from the whole distribution. The recipe's 0.9
    makes shorter responses."""

    epochs: int = 1
    """Passes over a step's responses."""

    minibatches: int = 1
    """Parts of a step's responses, an update on each."""

    learning_rate: float = 1e-5
    """AdamW's rate for policy and value model; the peer has one for both."""

    kl_coef: float = 0.04
    """What a nat of log-probability above the reference's costs."""

    sequence_length: int = 128
    """Tokens in a row of ours: a made-up prompt with both its responses."""

    micro_batch_size: int = 32
    """Rows at once of ours."""

    bf16: bool = True
    """Matrix products of ours in bfloat16."""

    compile: bool = True
    """Ours by torch.compile."""

    peer_bf16: Literal["no", "autocast", "weights"] = "no"
    """The peer in float32, its updates in bfloat16 autocast, or all of it (weights and optimiser too) in bfloat16."""

    peer_micro_batch_size: int = 128
    """Responses at once in the peer's updates; a divisor of a minibatch's."""

    peer_rollout_batch_size: int = 128
    """Responses at once in the peer's drawing and scoring."""

    def __post_init__(self) -> None:
        for name in ("rounds", "warm_up", "steps", "peer_micro_batch_size", "peer_rollout_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.queries % self.minibatches:
            raise ValueError(f"queries {self.queries} must be a multiple of minibatches {self.minibatches}")
        minibatch = self.queries * self.responses_per_query // self.minibatches
        if minibatch % self.peer_micro_batch_size:
            raise ValueError(f"a minibatch's {minibatch} responses must be a multiple of peer_micro_batch_size")


def prepare(config: Benchmark, folder: Path) -> dict[str, Any]:
    """Models and data in `folder`; the job of both sides."""
    max_steps = (config.warm_up + config.rounds) * config.steps
    # A few prompts are left out where they leave no room for an answer.
    count = max_steps * config.queries * 11 // 10
    model, reward_model, prompts = folder / "model", folder / "reward", folder / "prompts.jsonl"
    if config.run:
        model, reward_model = config.run / "sft" / "model", config.run / "reward" / "model"
        made_up.first_lines(config.run / "comparisons" / "comparisons" / "prompts.jsonl", prompts, count)
    else:
        made_up.write_language_model(folder, made_up.SHAPES[config.shape])
        made_up.write_reward_model(reward_model, model)
        made_up.write_prompts(prompts, count)
    paths = {"model": model, "reward_model": reward_model, "prompts": prompts, "out": folder / "out"}
    return {**settings_of(config), "max_steps": max_steps, **{name: str(path) for name, path in paths.items()}}


def seconds_of(answer: dict[str, Any]) -> dict[str, float]:
    """Seconds of a turn's step on average: `whole`, `rollout`, and `rest` (scoring and updates)."""
    whole = answer["seconds"] / len(answer["steps"])
    rollout = statistics.fmean(step["seconds/rollout"] for step in answer["steps"])
    return {"whole": whole, "rollout": rollout, "rest": whole - rollout}


def mean_figures(steps: list[dict[str, float]]) -> dict[str, float]:
    """What a side reports of its steps, on average."""
    return {name: statistics.fmean(step[name] for step in steps) for name in steps[0]}


def measure(config: Benchmark) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """What each side said when it was ready, and its answers to all turns, by the side's name."""
    python = peer_python(HERE / "ppo-peer-requirements.txt", config.environments)
    with tempfile.TemporaryDirectory() as folder:
        job = prepare(config, Path(folder))
        ours = Process("danlu", sys.executable, HERE / "ppo_danlu.py", job)
        job["batches"] = ours.answer.pop("batches")
        sides = [ours, Process("trl", python, HERE / "ppo_trl.py", job)]
        return {side.name: side.answer for side in sides}, take_turns(sides, config.warm_up + config.rounds)


def main(config: Benchmark) -> None:
    """Measure and print one JSON object."""
    sides, turns = measure(config)
    seconds = {name: [seconds_of(answer) for answer in own[config.warm_up :]] for name, own in turns.items()}
    faster = {
        part: [other[part] / mine[part] for mine, other in zip(seconds["danlu"], seconds["trl"], strict=True)]
        for part in PARTS
    }
    memory = {name: own[-1]["peak_memory"] for name, own in turns.items()}
    figures = {
        "times_faster": {part: spread(own) for part, own in faster.items()},
        "memory_ratio": memory["danlu"] / memory["trl"],
        "seconds_per_step": {
            name: {part: spread([turn[part] for turn in own]) for part in PARTS} for name, own in seconds.items()
        },
        "peak_memory": memory,
        "first_turn": {name: mean_figures(own[0]["steps"]) for name, own in turns.items()},
        "last_turn": {name: mean_figures(own[-1]["steps"]) for name, own in turns.items()},
        "ratios": faster["whole"],
        "cpu_seconds": mean_cpu_seconds(turns, config.warm_up),
        "inputs": "run" if config.run else f"made up, shape {config.shape}",
        "settings": settings_of(config),
        "sides": sides,
    }
    report(figures, config.json)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

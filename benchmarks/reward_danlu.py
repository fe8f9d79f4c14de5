"""Danlu's side of `reward.py`: the steps of a reward model's training as `danlu reward` takes them.

Job: `model` (folder of a reward model), `comparisons` (file), `out` (folder) and the numbers of `reward.py`.
Answers first with `batches`: for each step the ids of its pairs, chosen and rejected, prompt included.
"""

from pathlib import Path

import torch
from side_by_side import Side

from danlu.conversations.comparisons import read_comparisons
from danlu.model.checkpoint import load_reward_model
from danlu.run.device import keep_freed_memory
from danlu.tokenizer.bpe import Tokenizer
from danlu.training.comparison_data import PairBatches, PairSteps, encode_comparisons
from danlu.training.config import PairStepConfig
from danlu.training.loop import Loop
from danlu.training.optimizer import make_optimizers
from danlu.training.optimizer_config import OptimizerConfig
from danlu.training.reward import PairLoss
from danlu.training.step import Forward


def batches_of(steps: PairSteps) -> list[list[tuple[list[int], list[int]]]]:
    """For each step its pairs as the peer reads them: both replies with the prompt before them."""
    return [
        [
            (group.prompt + group.responses[chosen], group.prompt + group.responses[rejected])
            for group in (steps.groups[number] for number in numbers)
            for chosen, rejected in group.pairs
        ]
        for numbers in steps.steps
    ]


def main() -> None:
    side = Side()
    job = side.job
    config = PairStepConfig(
        sequence_length=job["sequence_length"],
        batch_size=job["batch_size"],
        micro_batch_size=job["micro_batch_size"],
        learning_rate=job["learning_rate"],
        bf16=job["bf16"],
        compile=job["compile"],
    )
    model = load_reward_model(Path(job["model"]))
    comparisons = read_comparisons(Path(job["comparisons"]))
    encoded = encode_comparisons(comparisons, Tokenizer.load(job["model"]), config.sequence_length)
    steps = PairSteps(
        encoded.groups,
        batch_size=config.batch_size,
        sequence_length=config.sequence_length,
        rows_at_once=config.micro_batch_size,
        num_steps=job["max_steps"],
        epochs=1,
        seed=config.seed,
    )
    loss_function = PairLoss(model, Forward(model, config.compile, config.bf16))
    optimizer_config = OptimizerConfig()
    loop = Loop(
        name="reward",
        out=Path(job["out"]),
        model=model,
        loss_function=loss_function,
        optimizers=make_optimizers(model, optimizer_config),
        batches=PairBatches(steps),
        config=config,
        optimizer_config=optimizer_config,
        max_steps=len(steps),
        rate_factor=lambda update: 1.0,
        more_figures=loss_function.right.figures,
    )
    keep_freed_memory()
    side.ready(torch.get_num_threads(), batches=batches_of(steps))
    while not loop.is_done():
        record = loop.step()
        side.step_done(loss=record["loss"], accuracy=record["accuracy"], pairs=record["targets"])


if __name__ == "__main__":
    main()

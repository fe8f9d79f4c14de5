"""TRL's side of `reward.py`; runs in the environment of `reward-peer-requirements.txt`.

Job: `model` (folder of a reward model), `batches` (for each step the ids of its pairs) and the numbers of `reward.py`.
"""

from random import Random
from typing import Any

import torch
from datasets import Dataset
from side_by_side import PEER_TRAINER, Side
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl import RewardConfig, RewardTrainer

Pair = tuple[list[int], list[int]]
"""The ids of a chosen and of a rejected reply, each after its prompt."""


class Report(TrainerCallback):
    """Tells the program of every step."""

    def __init__(self, side: Side, pairs: int) -> None:
        self.side, self.pairs = side, pairs

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.side.step_done(loss=float(logs["loss"]), accuracy=float(logs["accuracy"]), pairs=self.pairs)


def by_length(batch: list[Pair]) -> list[Pair]:
    """Pairs with neighbours of like length, so that micro-batches are padded least."""
    return sorted(batch, key=lambda pair: max(map(len, pair)))


def of_like_length(batches: list[list[Pair]]) -> list[list[Pair]]:
    """The same pairs in other batches, each of pairs of like length: the trainer's `group_by_length`, but with the
    batches in random order, where the trainer's own goes from long to short."""
    pairs, size = by_length([pair for batch in batches for pair in batch]), len(batches[0])
    grouped = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    Random(1).shuffle(grouped)
    return grouped


def main() -> None:
    side = Side()
    job = side.job
    batches = of_like_length(job["batches"]) if job["grouped"] else [by_length(batch) for batch in job["batches"]]
    pairs = [pair for batch in batches for pair in batch]
    size, micro = job["batch_size"], job["peer_grouped_micro_batch_size" if job["grouped"] else "peer_micro_batch_size"]
    config = RewardConfig(
        **PEER_TRAINER,
        output_dir=job["out"] + "-trl",
        bf16=job["peer_bf16"],
        torch_compile=job["peer_compile"],
        pad_to_multiple_of=job["peer_pad_to_multiple_of"] or None,
        max_length=None,
        max_steps=len(job["batches"]),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=size // micro,
        # The rows are in the order of the steps.
        train_sampling_strategy="sequential",
        learning_rate=job["learning_rate"],
        max_grad_norm=1.0,
    )
    model = AutoModelForSequenceClassification.from_pretrained(job["model"], dtype=torch.float32)
    trainer = RewardTrainer(
        model=model,
        args=config,
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        train_dataset=Dataset.from_dict(
            {
                "chosen_ids": [chosen for chosen, _ in pairs],
                "rejected_ids": [rejected for _, rejected in pairs],
            }
        ),
        callbacks=[Report(side, size)],
    )
    side.ready(torch.get_num_threads())
    trainer.train()


if __name__ == "__main__":
    main()

"""TRL's side of `ppo.py`; runs in the environment of `ppo-peer-requirements.txt`.

Job: `model`, `reward_model` (folders), `batches` (for each step its prompts' ids, one for each response), and the
numbers of `ppo.py`.
"""

import os
import time
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from datasets import Dataset
from side_by_side import PEER_TRAINER, Side
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class Clock:
    """When a step's parts ended: the trainer has no times of its own for them."""

    def __init__(self) -> None:
        self.drawn = self.scored = self.ended = 0.0

    def watch(self, trainer: PPOTrainer) -> None:
        """Note the time after drawing, and before the first pass of the updates."""
        draw, accumulate = ppo_trainer.batch_generation, trainer.accelerator.accumulate

        def drawing(*arguments: Any, **named: Any) -> Any:
            self.started = time.perf_counter()
            drawn = draw(*arguments, **named)
            self.drawn, self.scored = time.perf_counter(), 0.0
            return drawn

        def accumulating(*arguments: Any, **named: Any) -> Any:
            self.scored = self.scored or time.perf_counter()
            return accumulate(*arguments, **named)

        ppo_trainer.batch_generation = drawing
        trainer.accelerator.accumulate = accumulating

    def figures(self) -> dict[str, float]:
        now = time.perf_counter()
        return {
            "seconds/rollout": self.drawn - self.started,
            "seconds/score": self.scored - self.drawn,
            "seconds/update": now - self.scored,
        }


class Report(TrainerCallback):
    """Tells the program of every step."""

    def __init__(self, side: Side, clock: Clock) -> None:
        self.side, self.clock = side, clock

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "objective/kl" in logs:
            names = {
                "score": "objective/scores", "kl": "objective/kl", "policy_loss": "loss/policy_avg",
                "value_loss": "loss/value_avg", "ratio": "val/ratio",
            }  # fmt: skip
            self.side.step_done(**{name: logs[key] for name, key in names.items()}, **self.clock.figures())


def main() -> None:
    side = Side()
    job = side.job
    if job["peer_bf16"] == "autocast":
        # The trainer makes its Accelerator without its precision, so this is the only way in.
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    dtype = torch.bfloat16 if job["peer_bf16"] == "weights" else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype) for _ in range(2))
    value_model, reward_model = (
        AutoModelForSequenceClassification.from_pretrained(job["reward_model"], dtype=dtype) for _ in range(2)
    )
    rows = [{"input_ids": ids} for batch in job["batches"] for ids in batch]
    size = len(job["batches"][0])
    config = PPOConfig(
        **PEER_TRAINER,
        output_dir=job["out"] + "-trl",
        bf16=False,
        total_episodes=len(rows),
        per_device_train_batch_size=job["peer_micro_batch_size"],
        gradient_accumulation_steps=size // job["peer_micro_batch_size"],
        num_mini_batches=job["minibatches"],
        num_ppo_epochs=job["epochs"],
        local_rollout_forward_batch_size=job["peer_rollout_batch_size"],
        response_length=job["max_new_tokens"],
        stop_token="eos",
        temperature=1.0,
        learning_rate=job["learning_rate"],
        kl_coef=job["kl_coef"],
        cliprange=0.2,
        cliprange_value=0.15,
        gamma=1.0,
        lam=0.95,
        num_sample_generations=0,
    )
    clock = Clock()
    trainer = PPOTrainer(
        args=config, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward_model,
        value_model=value_model, train_dataset=Dataset.from_list(rows), callbacks=[Report(side, clock)],
    )  # fmt: skip
    # Its own loader shuffles; here each step has the prompts that the other side's step has.
    trainer.dataloader = DataLoader(trainer.train_dataset, batch_size=size, collate_fn=trainer.data_collator)
    clock.watch(trainer)
    side.ready(torch.get_num_threads())
    trainer.train()


if __name__ == "__main__":
    main()

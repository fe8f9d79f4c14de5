"""Danlu's side of `ppo.py`: the steps of a PPO run as `danlu ppo` takes them.

Job: `model`, `reward_model` (folders), `prompts` (file), `out` (folder) and the numbers of `ppo.py`.
Answers first with `batches`: for each step its prompts' ids, one for each response.
"""

from pathlib import Path

import torch
from side_by_side import Side

from danlu.inference.load import load_for_text
from danlu.model.checkpoint import load_model, load_reward_model
from danlu.run.device import keep_freed_memory
from danlu.training.experience import Models
from danlu.training.optimizer import make_optimizers
from danlu.training.ppo import PpoJob, encode_prompts
from danlu.training.ppo_config import PpoConfig, RolloutConfig


def main() -> None:
    side = Side()
    job = side.job
    config = PpoConfig(
        model=Path(job["model"]),
        reward_model=Path(job["reward_model"]),
        data=Path(job["prompts"]),
        out=Path(job["out"]),
        max_steps=job["max_steps"],
        frozen_steps=0,
        rollout=RolloutConfig(
            queries=job["queries"],
            responses_per_query=job["responses_per_query"],
            max_new_tokens=job["max_new_tokens"],
            temperature=1.0,
            top_p=job["top_p"],
        ),
        minibatches=job["minibatches"],
        epochs=job["epochs"],
        policy_learning_rate=job["learning_rate"],
        value_learning_rate=job["learning_rate"],
        kl_coef=job["kl_coef"],
        sequence_length=job["sequence_length"],
        micro_batch_size=job["micro_batch_size"],
        bf16=job["bf16"],
        compile=job["compile"],
    )
    policy, tokenizer = load_for_text(config.model, "cpu")
    reference = load_model(config.model)
    value_model, reward_model = (load_reward_model(config.reward_model) for _ in range(2))
    models = Models(policy, reference, value_model, reward_model, compiled=config.compile, bf16=config.bf16)
    prompts, _ = encode_prompts(config, tokenizer)
    optimizers = [
        optimizer for model in (policy, value_model) for optimizer in make_optimizers(model, config.optimizer)
    ]
    ppo = PpoJob(config, models, prompts, tokenizer, None, optimizers)
    keep_freed_memory()
    each = config.rollout.responses_per_query
    side.ready(
        torch.get_num_threads(),
        batches=[[ids for ids in ppo.queries(step) for _ in range(each)] for step in range(config.max_steps)],
    )
    names = {
        "score": "objective/score", "kl": "objective/kl", "policy_loss": "policy/loss", "value_loss": "value/loss",
        "ratio": "policy/ratio", "length": "response/length",
    }  # fmt: skip
    while not ppo.is_done():
        record = ppo.step()
        seconds = {key: value for key, value in record.items() if key.startswith("seconds/")}
        side.step_done(**{name: record[key] for name, key in names.items()}, **seconds)
    # A run that ends before the program has seen enough was stopped by its own limits.
    raise SystemExit(ppo.stopped)


if __name__ == "__main__":
    main()

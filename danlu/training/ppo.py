"""PPO: a chat model, a reward model and prompts in, an aligned model out (recipe section 9).

Each step draws responses from the policy, scores them by the reward, value and reference models, and updates value
model and policy on them; in the first `frozen_steps` the value model alone.

`metrics.jsonl`, a record a step: `objective/score` (mean reward as the reward model gives it), `score_deviation`,
`reward` (what a response earned in all, KL cost included), `kl` (of a response, in nats), `entropy` (of the unfiltered
policy, nats a token); `policy/*` and `value/*`: `loss`, `clipfrac`, `grad_norm`, `ratio`, `approxkl`,
`explained_variance`; `pretrain/*`: `loss`, `grad_norm`, `tokens`; `response/length`, `response/ended`;
`rollout/logprob_difference` between drawing and training; `seconds/rollout`, `score`, `update`.
`samples.jsonl`: responses with their rewards at intervals.

`figures.json`: `prompts`, `dropped` (reason and count), `dropped_examples`, `steps`, `stopped` (null, or why the run
ended early), `training`: `score`, `kl`, `entropy`, `length`, `ended`, objects `before` (mean of the frozen steps, or of
the first) and `after` (mean of the last 10 steps); `policy_tokens` and `pretrain_tokens` learnt from.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from danlu.inference.load import check_same_tokenizer, load_for_text
from danlu.inference.room import prompts_with_room
from danlu.model.checkpoint import leave_extension_out, load_reward_model
from danlu.run.device import pick_device
from danlu.run.errors import UserError
from danlu.run.files import write_json
from danlu.run.left_out import LeftOut
from danlu.run.metrics import MetricsLog, read_jsonl
from danlu.run.seeds import derive_seed
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.shards import TokenShards
from danlu.training.experience import Experience, Models, gather_experience, roll_out
from danlu.training.learner import learner, save_learnt
from danlu.training.loader import Batches, Prefetched, StreamRows
from danlu.training.loop import count_skipped, drive
from danlu.training.optimizer import make_optimizers
from danlu.training.ppo_config import PpoConfig
from danlu.training.ppo_math import RunningStatistics
from danlu.training.ppo_update import (
    Tally,
    add_pretraining_gradient,
    gradient_norm,
    policy_gradient,
    step_model,
    value_gradient,
)
from danlu.training.pretrain import compile_or_say_why
from danlu.training.step import LossFunction

SAMPLES = 4
"""Responses that a record of `samples.jsonl` shows."""

LAST_STEPS = 10
"""Steps that the figures after training are the mean of."""


class PpoJob:
    """The steps of a PPO run. Everything drawn in step i is a pure function of the seed and i."""

    def __init__(
        self,
        config: PpoConfig,
        models: Models,
        prompts: list[list[int]],
        tokenizer: Tokenizer,
        pretraining: Prefetched | None,
        optimizers: list[torch.optim.Optimizer],
        observe: "Observe | None" = None,
    ) -> None:
        self.observe = observe
        self.config, self.models, self.prompts, self.tokenizer = config, models, prompts, tokenizer
        self.pretraining = pretraining
        self.policy_optimizer, self.value_optimizer = optimizers
        self.pretrain_loss = LossFunction(models.policy, models.policy_forward)
        self.statistics = RunningStatistics()
        self.steps, self.max_steps, self.skipped = 0, config.max_steps, 0
        self.stopped: str | None = None
        self.samples: MetricsLog | None = None
        self.device = next(models.policy.parameters()).device
        self.order = lru_cache(maxsize=2)(self._order)

    def _order(self, epoch: int) -> np.ndarray:
        """The prompts' order in one pass over them."""
        return np.random.default_rng(derive_seed(self.config.seed, "prompts", epoch)).permutation(len(self.prompts))

    def queries(self, step: int) -> list[list[int]]:
        """The prompts of a step: each once in a pass over them, every pass in an order of its own."""
        count, chosen = self.config.rollout.queries, []
        for number in range(step * count, (step + 1) * count):
            epoch, place = divmod(number, len(self.prompts))
            chosen.append(self.prompts[self.order(epoch)[place]])
        return chosen

    def step(self) -> dict[str, float]:
        config, started = self.config, time.perf_counter()
        prompts = self.queries(self.steps)
        sequences = roll_out(
            self.models.policy, tuple(self.tokenizer.stop_ids), self.tokenizer.vocab_size, prompts, config.rollout,
            derive_seed(config.seed, "rollout", self.steps), config.bf16,
        )  # fmt: skip
        drawn = time.perf_counter()
        experience = gather_experience(
            self.models, prompts, sequences, self.statistics, config, self.tokenizer.vocab_size
        )
        scored = time.perf_counter()
        self._stop_where_kl_ran_away(experience)
        updates = {} if self.stopped else self._update(experience)
        if self.steps % config.samples_every == 0 or self.stopped:
            self._note_samples(prompts, experience)
        self.steps += 1
        # A sum is finite where all of them are.
        norms = sum(norm for name, norm in updates.items() if name.endswith("/grad_norm"))
        self.skipped = count_skipped(self.skipped, norms, self.steps, self.config.out)
        return {
            "step": self.steps,
            **experience.figures,
            **(self.observe(prompts, experience) if self.observe else {}),
            **updates,
            "seconds/rollout": drawn - started,
            "seconds/score": scored - drawn,
            "seconds/update": time.perf_counter() - scored,
        }

    def _update(self, experience: Experience) -> dict[str, float]:
        """All epochs over the minibatches, value model first."""
        config = self.config
        policy, value, pretrain = Tally(), Tally(), Tally()
        for epoch in range(config.epochs):
            seed = derive_seed(config.seed, "minibatches", self.steps, epoch)
            for number in np.random.default_rng(seed).permutation(len(experience.minibatches)):
                minibatch = experience.minibatches[number]
                value.add(**value_gradient(self.models, minibatch, config))
                rate = config.value_learning_rate * self._warmth(self.steps)
                value.add(grad_norm=self._take(self.models.value_model, self.value_optimizer, rate, rate))
                if self.steps < config.frozen_steps:
                    continue
                policy.add(**policy_gradient(self.models, minibatch, config, self.tokenizer.vocab_size))
                policy.add(grad_norm=gradient_norm(self.models.policy))
                if self.pretraining is not None:
                    batch = [micro.to(self.device) for micro in next(self.pretraining)]
                    pretrain.add(
                        **add_pretraining_gradient(self.models.policy, self.pretrain_loss, batch, config.pretrain_coef)
                    )
                warmth = self._warmth(self.steps - config.frozen_steps)
                rate, gain_rate = config.policy_learning_rate * warmth, config.gain_rate * warmth
                self._take(self.models.policy, self.policy_optimizer, rate, gain_rate)
        return {**policy.means("policy"), **value.means("value"), **pretrain.means("pretrain")}

    def _warmth(self, steps: int) -> float:
        """Share of a rate after `steps` steps of a model's learning."""
        return min(1.0, (steps + 1) / self.config.warmup_steps) if self.config.warmup_steps else 1.0

    def _take(self, model: nn.Module, optimizer: torch.optim.Optimizer, rate: float, gain_rate: float) -> float:
        return step_model(model, optimizer, rate, gain_rate, self.config.optimizer.max_grad_norm)

    def _stop_where_kl_ran_away(self, experience: Experience) -> None:
        kl = experience.figures["objective/kl"]
        if kl > self.config.max_kl:
            self.stopped = f"KL {kl:.1f} above max_kl {self.config.max_kl:g} at step {self.steps + 1}"
            print(f"ppo: stopped, {self.stopped}; lower policy_learning_rate or raise kl_coef", file=sys.stderr)

    def _note_samples(self, prompts: list[list[int]], experience: Experience) -> None:
        each = self.config.rollout.responses_per_query
        if self.samples is None:
            self.samples = MetricsLog(self.config.out / "samples.jsonl", resume_step=self.steps)
        shown = [
            {
                "prompt": self.tokenizer.decode(prompt),
                "response": self.tokenizer.decode(experience.sequences[first].output_ids),
                "ended": experience.sequences[first].finish_reason == "stop",
                "score": experience.scores[first].item(),
                "kl": experience.kl[first].item(),
            }
            # The first response to each of the first prompts.
            for first, prompt in zip(range(0, SAMPLES * each, each), prompts, strict=False)
        ]
        self.samples.write({"step": self.steps + 1, "samples": shown})

    def is_done(self) -> bool:
        return self.steps >= self.max_steps or self.stopped is not None

    def state(self) -> dict[str, Any]:
        return {
            "statistics": vars(self.statistics),
            "stopped": self.stopped,
            "skipped": self.skipped,
            "pretraining": self.pretraining.state() if self.pretraining is not None else None,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        self.steps, self.stopped, self.skipped = saved["step"], saved["stopped"], saved["skipped"]
        self.statistics = RunningStatistics(**saved["statistics"])
        if self.pretraining is not None:
            self.pretraining.restore(saved["pretraining"])

    def close(self) -> None:
        for resource in (self.pretraining, self.samples):
            if resource is not None:
                resource.close()


def encode_prompts(config: PpoConfig, tokenizer: Tokenizer) -> tuple[list[list[int]], LeftOut]:
    """Prompts of the file as ids, and what was left out; UserError where they do not fill a step."""
    kept, left_out = prompts_with_room(config.data, tokenizer, config.rollout.max_new_tokens, config.sequence_length)
    if len(kept) < config.rollout.queries:
        raise UserError(
            f"{len(kept)} prompts can be used, fewer than one step's {config.rollout.queries}; left out: "
            f"{left_out.counts}",
            where=config.data,
            mend="Add prompts, or lower rollout.queries or rollout.max_new_tokens",
        )
    return [ids for _, ids in kept], left_out


def pretraining_batches(config: PpoConfig, tokenizer: Tokenizer, model: nn.Module) -> Prefetched | None:
    """The pretraining stream, an update's rows at a time; None where its coefficient is 0."""
    if not config.pretrain_coef:
        return None
    if config.pretraining is None:
        raise UserError("pretrain_coef needs pretraining data", mend="Name a folder of token shards with --pretraining")
    shards = TokenShards(config.pretraining / "train")
    if (shards.vocab_size, shards.end_of_text_id) != (tokenizer.vocab_size, tokenizer.end_of_text_id):
        raise UserError(
            f"made with a vocabulary of {shards.vocab_size}, but {config.model} has {tokenizer.vocab_size}",
            where=shards.folder,
            mend="Make the shards anew with the model's tokenizer",
        )
    updates = config.max_steps * config.epochs * config.minibatches
    seed = derive_seed(config.seed, "pretraining")
    rows = StreamRows(shards, config.sequence_length, updates * config.pretrain_batch_size, 1, seed)
    return Batches(rows, config.pretrain_batch_size, min(config.micro_batch_size, config.pretrain_batch_size))


Observe = Callable[[list[list[int]], Experience], dict[str, float]]
"""Sees a step's prompts and what came of them; its figures are logged with the step's."""


def ppo(config: PpoConfig, observe: Observe | None = None) -> Path:
    """Align a model; the path of its folder. Raises UserError for models or prompts that do not go together.

    `observe` is for studies: a measure of one's own beside the reward, which the training does not see.
    """
    # Setup
    device = pick_device(config.device)
    compiled = compile_or_say_why(config.compile, device)

    # Models
    reference, tokenizer = load_for_text(config.model, str(device))
    leave_extension_out(reference, config.model)
    check_same_tokenizer(config.reward_model, config.model, tokenizer)
    reward_model = load_reward_model(config.reward_model, device=device)
    policy = learner(reference, config.lora, config.seed, keeps_model=True)
    value_model = learner(reward_model, config.lora, derive_seed(config.seed, "value model"), keeps_model=True)
    limit = min(policy.config.max_position_embeddings, reward_model.config.max_position_embeddings)
    if config.sequence_length > limit:
        raise UserError(
            f"sequence_length is {config.sequence_length}, the models read {limit} tokens",
            where=config.model,
            mend="Lower sequence_length",
        )
    models = Models(
        policy,
        reference,
        value_model,
        reward_model,
        compiled=compiled,
        bf16=config.bf16,
        checkpointed=config.checkpoint_activations,
    )

    # Data
    prompts, left_out = encode_prompts(config, tokenizer)
    left_out.tell("ppo")
    pretraining = pretraining_batches(config, tokenizer, policy)

    # Optimiser
    (policy_optimizer,) = make_optimizers(policy, config.optimizer, gains_apart=True)
    optimizers = [policy_optimizer, *make_optimizers(value_model, config.optimizer)]

    # Loop
    job = PpoJob(config, models, prompts, tokenizer, pretraining, optimizers, observe)
    learning = nn.ModuleDict({"policy": policy, "value_model": value_model})
    shown = ("objective/score", "objective/kl", "response/length")
    drive(job, "ppo", config.out, learning, optimizers, config.checkpoint_every, shown)

    # Product
    history = read_jsonl(config.out / "metrics.jsonl")
    write_json(
        config.out / "figures.json",
        {
            "prompts": len(prompts),
            "dropped": left_out.counts,
            "dropped_examples": left_out.examples,
            "steps": len(history),
            "stopped": job.stopped,
            "training": before_and_after(history, config.frozen_steps),
            "policy_tokens": sum(
                record["response/length"] * config.rollout.queries * config.rollout.responses_per_query
                for record in history
                if "policy/loss" in record
            ),
            "pretrain_tokens": sum(record.get("pretrain/tokens", 0.0) for record in history)
            * config.minibatches * config.epochs,
        },
    )  # fmt: skip
    return save_learnt(config, policy, tokenizer)


def before_and_after(history: list[dict[str, float]], frozen_steps: int) -> dict[str, dict[str, float]]:
    """Means of the frozen steps (of the first where there is none) and of the last ones."""
    names = {
        "score": "objective/score", "kl": "objective/kl", "entropy": "objective/entropy",
        "length": "response/length", "ended": "response/ended",
    }  # fmt: skip
    parts = {"before": history[: max(1, frozen_steps)], "after": history[-LAST_STEPS:]}
    return {
        name: {when: statistics.fmean(record[key] for record in part) for when, part in parts.items()}
        for name, key in names.items()
    }

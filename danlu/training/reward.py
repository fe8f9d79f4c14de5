"""Reward model: a model and comparisons in, a model of how good a reply is out (recipe section 8).

From a language model (preference-model pretraining) the head is new; from a reward model (fine-tuning on better pairs)
it goes on. Both are this stage, run twice. The reward is taken at a response's end token.

`figures.json`: `comparisons` learnt from and the `prompts` they belong to, `steps`, `loss` (mean of the last 50 steps),
`dropped` (reason and count), `dropped_examples`, `held_out_dropped` (the same counts for `test` and `unseen`),
`shared_prompts` (left out because the test has their prompt), `length_bias` of what was learnt from; of the held-out
comparisons `pairs`, `accuracy`, `length_baseline_accuracy`, `bag_of_words_accuracy` (each `value`, `low`, `high`),
`by_source`, `by_skill`, `calibration`; `before`, the accuracy of the reward model that this one goes on from (null
where the head is new); `unseen`, all of this for the file of that name; `pairs_per_s` (median).
"""

import statistics
import sys
from pathlib import Path

import torch
from torch import Tensor

from danlu.conversations.preference_baselines import length_bias
from danlu.inference.load import check_vocabulary
from danlu.inference.score import score_groups
from danlu.model.checkpoint import leave_extension_out, load_reward_model, load_with_new_score
from danlu.model.hf_config import is_reward_model
from danlu.model.place import tokenizer_place
from danlu.model.transformer import ScalarModel
from danlu.run.device import pick_device
from danlu.run.files import write_json
from danlu.run.metrics import read_jsonl
from danlu.run.seeds import derive_seed
from danlu.tokenizer.bpe import Tokenizer
from danlu.training.comparison_data import EncodedComparisons, PairBatch, PairBatches, PairSteps
from danlu.training.config import RewardConfig
from danlu.training.held_out import RightCount, read_comparison_data, training_figures
from danlu.training.learner import learner, save_learnt
from danlu.training.loop import Loop
from danlu.training.optimizer import constant_factor, make_optimizers
from danlu.training.preference_math import centring_loss_sum, pairwise_loss_sum
from danlu.training.pretrain import compile_or_say_why
from danlu.training.reward_figures import accuracy, baselines, held_out_figures
from danlu.training.step import Forward

ONE_WAY = 0.99
"""Share of pairs in which the longer (or the shorter) reply is the chosen one that is worth a warning."""


class PairLoss:
    """Scores at the end tokens, then the pairwise logistic loss; counts what it has got right since it was asked."""

    def __init__(self, model: ScalarModel, forward: Forward, centre_coef: float = 0.0) -> None:
        self.model, self.forward, self.centre_coef = model, forward, centre_coef
        self.right = RightCount()

    def __call__(self, batch: PairBatch) -> tuple[Tensor, int]:
        """Sum of the losses of `batch` and the number of comparisons it is over."""
        scores = self.model.at(self.forward.rows(batch.rows), batch.rows.ends)  # (M)
        chosen, rejected = scores[batch.chosen], scores[batch.rejected]  # (P)
        self.right.add(chosen, rejected)
        loss = pairwise_loss_sum(chosen, rejected)
        if self.centre_coef:
            loss = loss + self.centre_coef * centring_loss_sum(chosen, rejected)
        return loss, batch.num_targets


def warn_of_one_way(bias: dict[str, dict[str, float]]) -> None:
    """One line where length alone tells the chosen reply in (nearly) every pair."""
    for side in ("longer", "shorter"):
        if bias["all"][side] >= ONE_WAY:
            print(
                f"reward: the {side} reply is the chosen one in {bias['all'][side]:.1%} of the comparisons; "
                "a reward model will learn length before anything else",
                file=sys.stderr,
            )


def margins(model: ScalarModel, encoded: EncodedComparisons) -> list[float]:
    """By how much each chosen reply's reward is above the rejected one's, in the order of `encoded.kept`."""
    scores = score_groups(model, [group.group for group in encoded.groups])
    return [
        own[better] - own[worse]
        for group, own in zip(encoded.groups, scores, strict=True)
        for better, worse in group.pairs
    ]


def reward(config: RewardConfig) -> Path:
    """Train a reward model; the path of its folder. Raises UserError for comparisons that teach nothing."""
    # Setup
    device = pick_device(config.device)
    compiled = compile_or_say_why(config.step.compile, device)
    step = config.step

    # Model
    goes_on = is_reward_model(config.model)
    generator = torch.Generator().manual_seed(derive_seed(step.seed, "score"))
    model = load_reward_model(config.model) if goes_on else load_with_new_score(config.model, generator)
    model.to(device)
    leave_extension_out(model, config.model)
    tokenizer = Tokenizer.load(tokenizer_place(config.model))
    check_vocabulary(config.model, model, tokenizer)
    limit = min(step.sequence_length, model.config.max_position_embeddings)

    # Data
    data = read_comparison_data(config, tokenizer, limit)
    data.tell("reward")
    bias = length_bias(data.train.kept)
    warn_of_one_way(bias)
    steps = PairSteps(
        data.train.groups,
        batch_size=step.batch_size,
        sequence_length=limit,
        rows_at_once=step.micro_batch_size,
        num_steps=step.max_steps,
        epochs=step.epochs,
        seed=step.seed,
    )
    batches = PairBatches(steps)
    before = {name: margins(model, part) for name, part in data.tests.items()} if goes_on else {}

    # Loop
    model = learner(model, config.lora, step.seed)
    forward = Forward(model, compiled, step.bf16, step.checkpoint_activations)
    loss_function = PairLoss(model, forward, config.centre_coef)
    Loop(
        name=config.out.name,
        out=config.out,
        model=model,
        loss_function=loss_function,
        optimizers=make_optimizers(model, config.optimizer),
        batches=batches,
        config=step,
        optimizer_config=config.optimizer,
        max_steps=len(steps),
        rate_factor=lambda update: constant_factor(update, step.warmup_steps, len(steps), decay_share=0.0),
        more_figures=loss_function.right.figures,
    ).run()

    # Product
    model.eval()
    rules = baselines(data.train.kept)
    figures = {name: held_out_figures(margins(model, part), part.kept, rules) for name, part in data.tests.items()}
    for name, part in data.tests.items():
        figures[name]["before"] = accuracy(before[name], part.kept) if name in before else None
    history = read_jsonl(config.out / "metrics.jsonl")
    write_json(
        config.out / "figures.json",
        {
            **training_figures(data, history),
            "pairs_per_s": statistics.median(record["targets_per_s"] for record in history),
            "length_bias": bias,
            **figures["test"],
            "unseen": figures.get("unseen"),
        },
    )
    return save_learnt(config, model, tokenizer)

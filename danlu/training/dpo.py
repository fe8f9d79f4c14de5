"""Direct preference optimisation: a chat model and comparisons in, an aligned model out (Rafailov et al. 2023).

An option on the same comparisons and loader as the reward model; the recipe's way is PPO. The model is its own reward
model: beta * log(policy / reference) of a whole response, end token included, takes the place of the reward.

`figures.json`: `comparisons`, `prompts`, `steps`, `loss` (mean of the last 50 steps), `dropped`, `dropped_examples`,
`held_out_dropped`, `shared_prompts`, and of the held-out comparisons `pairs`, `accuracy` (share in which the chosen
reply's log ratio is the higher; `value`, `low`, `high`), `by_source`, `by_skill`, `calibration`, the two baselines;
`unseen`, all of this for the file of that name.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from danlu.inference.load import load_for_text
from danlu.model.branches import BranchedRows, pack_groups
from danlu.model.checkpoint import leave_extension_out
from danlu.model.transformer import Transformer
from danlu.run.device import pick_device
from danlu.run.files import write_json
from danlu.run.metrics import read_jsonl
from danlu.training.comparison_data import EncodedComparisons, PairBatch, PairBatches, PairSteps
from danlu.training.config import DpoConfig
from danlu.training.experience import response_logits
from danlu.training.held_out import RightCount, read_comparison_data, training_figures
from danlu.training.learner import learner, save_learnt
from danlu.training.loop import Loop
from danlu.training.optimizer import constant_factor, make_optimizers
from danlu.training.ppo_math import token_logprobs
from danlu.training.preference_math import dpo_loss_sum
from danlu.training.pretrain import compile_or_say_why
from danlu.training.reward_figures import baselines, held_out_figures
from danlu.training.step import Forward


def response_logprobs(model: Transformer, hidden: Tensor, rows: BranchedRows) -> Tensor:
    """log-probability (M) of each whole response, its end token included."""
    logits = response_logits(model, hidden, rows, model.config.vocab_size)
    each = token_logprobs(logits, rows.tokens, temperature=1.0)
    owner = torch.arange(len(rows.lengths), device=each.device).repeat_interleave(rows.lengths)
    return each.new_zeros(len(rows.lengths)).index_add(0, owner, each)


class DpoLoss:
    """Log-probabilities of both responses, then the DPO loss against the reference's, which the batch brings."""

    def __init__(self, model: Transformer, forward: Forward, beta: float) -> None:
        self.model, self.forward, self.beta = model, forward, beta
        self.right = RightCount()

    def __call__(self, batch: PairBatch) -> tuple[Tensor, int]:
        """Sum of the losses of `batch` and the number of comparisons it is over."""
        assert batch.reference_logprobs is not None
        logprobs = response_logprobs(self.model, self.forward.rows(batch.rows), batch.rows)
        ratios = (logprobs - batch.reference_logprobs).detach()
        self.right.add(ratios[batch.chosen], ratios[batch.rejected])
        own, reference = (
            (values[batch.chosen], values[batch.rejected]) for values in (logprobs, batch.reference_logprobs)
        )
        return dpo_loss_sum(*own, *reference, self.beta), batch.num_targets


def group_logprobs(
    model: Transformer, forward: Forward, encoded: EncodedComparisons, length: int, rows_at_once: int
) -> list[list[float]]:
    """log-probability of every response of every group, by the kernels that the training uses (hence the gradients are
    left on): equal weights have the log ratio 0."""
    device = next(model.parameters()).device
    values: list[float] = []
    groups = [group.group for group in encoded.groups]
    for piece in pack_groups(groups, length, rows_at_once, fill_up=forward.compiled):
        rows = piece.to(device)
        values += response_logprobs(model, forward.rows(rows), rows).tolist()
    remaining: Iterator[float] = iter(values)
    return [[next(remaining) for _ in group.responses] for group in encoded.groups]


def dpo(config: DpoConfig) -> Path:
    """Align a model; the path of its folder. Raises UserError for comparisons that teach nothing."""
    # Setup
    device = pick_device(config.device)
    compiled = compile_or_say_why(config.step.compile, device)
    step = config.step

    # Model
    reference, tokenizer = load_for_text(config.model, str(device))
    leave_extension_out(reference, config.model)
    model = learner(reference, config.lora, step.seed, keeps_model=True)
    limit = min(step.sequence_length, model.config.max_position_embeddings)

    # Data
    data = read_comparison_data(config, tokenizer, limit)
    data.tell("dpo")
    forward = Forward(model, compiled, step.bf16, step.checkpoint_activations)
    before = Forward(reference, compiled, step.bf16)
    steps = PairSteps(
        data.train.groups,
        batch_size=step.batch_size,
        sequence_length=limit,
        rows_at_once=step.micro_batch_size,
        num_steps=step.max_steps,
        epochs=step.epochs,
        seed=step.seed,
        reference_logprobs=group_logprobs(reference, before, data.train, limit, step.micro_batch_size),
    )

    # Loop
    loss_function = DpoLoss(model, forward, config.beta)
    Loop(
        name="dpo",
        out=config.out,
        model=model,
        loss_function=loss_function,
        optimizers=make_optimizers(model, config.optimizer),
        batches=PairBatches(steps),
        config=step,
        optimizer_config=config.optimizer,
        max_steps=len(steps),
        rate_factor=lambda update: constant_factor(update, step.warmup_steps, len(steps), decay_share=0.0),
        more_figures=loss_function.right.figures,
    ).run()

    # Product
    model.eval()
    rules, figures = baselines(data.train.kept), {}
    for name, part in data.tests.items():
        new, old = (
            group_logprobs(each, by, part, limit, step.micro_batch_size)
            for each, by in ((model, forward), (reference, before))
        )
        margins = [
            config.beta * (after[better] - known[better] - after[worse] + known[worse])
            for group, after, known in zip(part.groups, new, old, strict=True)
            for better, worse in group.pairs
        ]
        figures[name] = held_out_figures(margins, part.kept, rules)
    history = read_jsonl(config.out / "metrics.jsonl")
    write_json(
        config.out / "figures.json",
        {**training_figures(data, history), **figures["test"], "unseen": figures.get("unseen")},
    )
    return save_learnt(config, model, tokenizer)

"""How often one model answers better than another, judged by a program (recipe section 10, with a checker for a judge).

In: two chat models and conversations with checks. Out: the win rate of the second with its interval, and how far its
answers are from the first (KL).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from danlu.conversations.records import Conversation
from danlu.evaluation.skills import Reply, is_right, replies_of, sample_replies
from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Sequence as Sampled
from danlu.model.branches import pack_groups
from danlu.model.transformer import Transformer
from danlu.run.intervals import mean_with_interval
from danlu.tokenizer.bpe import Tokenizer
from danlu.training.experience import response_logits
from danlu.training.ppo_math import exact_kl

ROWS_AT_ONCE = 16
"""Rows of a forward pass when KL is measured. Our choice: as many as the demo trains with."""


def win_rate(
    before: Transformer,
    after: Transformer,
    tokenizer: Tokenizer,
    splits: Mapping[str, Sequence[Conversation]],
    sampling: SamplingConfig,
) -> dict[str, Any]:
    """Both models answer every prompt once, drawn with `sampling`.

    `win_rate` of `after` over all prompts (a prompt where both are right or both wrong counts half) with `value`,
    `low`, `high`; `win_rate_by_split`, `win_rate_by_skill`; `sampled_accuracy` (`before`, `after`); `kl`, the mean
    over prompts of KL(after, before) in nats, summed over the tokens of the answer that `after` gave; `prompts`.
    """
    points: dict[str, list[float]] = defaultdict(list)
    right: dict[str, list[bool]] = {"before": [], "after": []}
    kl: list[float] = []
    for split, conversations in splits.items():
        drawn = {
            name: sample_replies(model, tokenizer, conversations, sampling)
            for name, model in (("before", before), ("after", after))
        }
        verdicts = {name: _verdicts(tokenizer, conversations, sequences) for name, sequences in drawn.items()}
        for name, values in verdicts.items():
            right[name] += values
        for conversation, old, new in zip(conversations, verdicts["before"], verdicts["after"], strict=True):
            point = 0.5 + 0.5 * (int(new) - int(old))
            for group in ("all", f"split {split}", f"skill {conversation.skill or 'unnamed'}"):
                points[group].append(point)
        kl += response_kl(after, before, drawn["after"], sampling.temperature, tokenizer.vocab_size)

    def of(prefix: str) -> dict[str, Any]:
        return {
            name.removeprefix(prefix): mean_with_interval(values)
            for name, values in points.items()
            if name.startswith(prefix)
        }

    return {
        "prompts": len(points["all"]),
        "win_rate": mean_with_interval(points["all"]),
        "win_rate_by_split": of("split "),
        "win_rate_by_skill": of("skill "),
        "sampled_accuracy": {name: sum(values) / len(values) for name, values in right.items()},
        "kl": sum(kl) / len(kl),
    }


def _verdicts(tokenizer: Tokenizer, conversations: Sequence[Conversation], sequences: Sequence[Sampled]) -> list[bool]:
    replies: list[Reply] = replies_of(tokenizer, sequences)
    return [is_right(conversation, reply) for conversation, reply in zip(conversations, replies, strict=True)]


@torch.no_grad()
def response_kl(
    policy: Transformer, reference: Transformer, sequences: Sequence[Sampled], temperature: float, vocab_size: int
) -> list[float]:
    """KL(policy, reference) of each response: the exact KL of every token's distribution, summed over its tokens."""
    groups = [(sequence.prompt_ids, [sequence.response_ids]) for sequence in sequences]
    result: list[float] = []
    for piece in pack_groups(groups, policy.config.max_position_embeddings, ROWS_AT_ONCE):
        rows = piece.to(next(policy.parameters()).device)
        logits, reference_logits = (
            response_logits(
                model,
                model.hidden_states(rows.input_ids, rows.position_ids, rows.document_ids, branch_ids=rows.branch_ids),
                rows,
                vocab_size,
            )
            for model in (policy, reference)
        )
        each = exact_kl(logits, reference_logits, temperature)
        result += [part.sum().item() for part in each.split(rows.lengths.tolist())]
    return result

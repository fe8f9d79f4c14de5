"""What a PPO step learns from: responses drawn by the policy, scored by the four models (recipe section 9).

In: prompts' ids. Out: `Experience`, micro-batches of rows with everything the updates need. The same rows, in the same
pieces, are scored and learnt from: before the first update a token's ratio is exactly 1, and where policy and reference
are equal their log-probabilities are equal bit for bit.

Shapes: B responses of a step, M of a micro-batch, L tokens of the longest response, N tokens of all, S members of their
nuclei.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Sequence as Sampled
from danlu.inference.engine import generate_batch
from danlu.inference.score import parts_that_fit
from danlu.model.branches import BranchedRows, Group, pack_groups
from danlu.model.transformer import ScalarModel, Transformer
from danlu.run.device import bfloat16_products
from danlu.run.errors import UserError
from danlu.training.ppo_config import PpoConfig, RolloutConfig
from danlu.training.ppo_math import (
    RunningStatistics,
    entropy,
    explained_variance,
    generalised_advantages,
    nucleus_logprobs,
    token_logprobs,
    token_rewards,
    whiten,
)
from danlu.training.step import Forward


class Models:
    """The four models (recipe section 9), each with the way its hidden states are computed, in scoring and in updates
    alike."""

    def __init__(
        self,
        policy: Transformer,
        reference: Transformer,
        value_model: ScalarModel,
        reward_model: ScalarModel,
        *,
        compiled: bool,
        bf16: bool,
        checkpointed: bool = False,
    ) -> None:
        self.policy, self.reference = policy, reference
        self.value_model, self.reward_model = value_model, reward_model
        self.policy_forward, self.reference_forward, self.value_forward, self.reward_forward = (
            Forward(model, compiled, bf16, checkpointed) for model in (policy, reference, value_model, reward_model)
        )


@dataclass(frozen=True, kw_only=True)
class Nuclei:
    """The supports that tokens were drawn from: `ids` (S), and the number (S) of the token each belongs to. None for
    both where nothing was filtered."""

    rows: Tensor | None
    ids: Tensor | None


@dataclass(frozen=True, kw_only=True)
class MicroExperience:
    """A piece of a step's responses. All (M, L) beside the rows; 0 where `mask` is False."""

    rows: BranchedRows
    nuclei: Nuclei
    mask: Tensor
    old_logprobs: Tensor
    """Among the nucleus, before this step's updates."""
    old_values: Tensor
    advantages: Tensor
    returns: Tensor


@dataclass(frozen=True, kw_only=True)
class Experience:
    """A step's minibatches, each in micro-batches, and what is worth logging about its responses."""

    minibatches: list[list[MicroExperience]]
    sequences: list[Sampled]
    scores: Tensor
    """(B) rewards as the reward model gives them."""
    kl: Tensor
    """(B) log-probability of each response under the policy less that under the reference."""
    figures: dict[str, float]


def roll_out(
    policy: Transformer, stop_ids: Sequence[int], vocab_size: int, prompts: Sequence[list[int]],
    config: RolloutConfig, seed: int, bf16: bool,
) -> list[Sampled]:  # fmt: skip
    """`responses_per_query` responses to each prompt, side by side; everything they were drawn from is kept."""
    sampling = SamplingConfig(
        max_new_tokens=config.max_new_tokens, temperature=config.temperature, top_p=config.top_p, seed=seed
    )
    device = next(policy.parameters()).device
    with bfloat16_products(device, bf16):
        return generate_batch(
            policy,
            stop_ids,
            list(prompts),
            sampling,
            max_rows=len(prompts) * config.responses_per_query,
            vocab_size=vocab_size,
            record=True,
            copies=config.responses_per_query,
        )


def nuclei_of(sequences: Sequence[Sampled], top_p: float) -> Nuclei:
    """The recorded supports of the responses' tokens, joined."""
    if top_p >= 1:
        return Nuclei(rows=None, ids=None)
    members = [ids for sequence in sequences for ids in sequence.nuclei]
    counts = torch.tensor([len(ids) for ids in members], device=members[0].device)
    owners = torch.arange(len(members), device=counts.device)
    return Nuclei(rows=owners.repeat_interleave(counts), ids=torch.cat(members))


def response_logits(policy: Transformer, hidden: Tensor, rows: BranchedRows, vocab_size: int) -> Tensor:
    """Logits (N, V) float32 from which each response token was chosen; ids that no text has are left out.

    The product is float32 whatever the blocks compute in: log-probabilities of bfloat16 logits are off by more than
    an update moves them.
    """
    states = hidden.flatten(0, 1).index_select(0, rows.states)
    with torch.autocast(states.device.type, enabled=False):
        return policy.lm_head(states.to(policy.lm_head.weight.dtype))[:, :vocab_size]


def drawn_logprobs(logits: Tensor, rows: BranchedRows, nuclei: Nuclei, temperature: float) -> Tensor:
    """log-probability (N) of the response tokens among what they were drawn from."""
    if nuclei.rows is None or nuclei.ids is None:
        return token_logprobs(logits, rows.tokens, temperature)
    return nucleus_logprobs(logits, rows.tokens, nuclei.rows, nuclei.ids, temperature)


def padded(flat: Tensor, mask: Tensor) -> Tensor:
    """Values of all response tokens (N) as (M, L), 0 where `mask` is False."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)


def mask_of(lengths: Tensor) -> Tensor:
    """(M, L) True where a response of `lengths` (M) has a token."""
    return torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """A micro-batch as the four models see it; flat over tokens, `scores` over responses."""

    rows: BranchedRows
    nuclei: Nuclei
    logprobs: Tensor
    reference_logprobs: Tensor
    drawn: Tensor
    entropy: Tensor
    values: Tensor
    scores: Tensor


def _score(models: Models, rows: BranchedRows, nuclei: Nuclei, temperature: float, vocab_size: int) -> _Scored:
    """Log-probabilities, values and rewards, by the kernels that the updates use (hence the gradients are left on)."""
    logits, reference = (
        response_logits(model, forward.rows(rows), rows, vocab_size).detach()
        for model, forward in (
            (models.policy, models.policy_forward),
            (models.reference, models.reference_forward),
        )
    )
    return _Scored(
        rows=rows,
        nuclei=nuclei,
        logprobs=token_logprobs(logits, rows.tokens, temperature),
        reference_logprobs=token_logprobs(reference, rows.tokens, temperature),
        drawn=drawn_logprobs(logits, rows, nuclei, temperature),
        entropy=entropy(logits, temperature),
        values=models.value_model.at(models.value_forward.rows(rows), rows.states).detach(),
        scores=models.reward_model.at(models.reward_forward.rows(rows), rows.ends).detach(),
    )


def gather_experience(
    models: Models,
    prompts: Sequence[list[int]],
    sequences: list[Sampled],
    statistics: RunningStatistics,
    config: PpoConfig,
    vocab_size: int,
) -> Experience:
    """Score the responses, and make rewards, advantages and returns of it. `statistics` takes the rewards in.

    Raises UserError for rewards that are not finite.
    """
    device = next(models.policy.parameters()).device
    each = config.rollout.responses_per_query
    pieces: list[list[_Scored]] = []
    per_minibatch = len(prompts) // config.minibatches
    for start in range(0, len(prompts), per_minibatch):
        own = range(start, start + per_minibatch)
        groups: list[Group] = [
            (prompts[query], [sequences[query * each + number].response_ids for number in range(each)]) for query in own
        ]
        packed = pack_groups(
            [part for group in groups for part in parts_that_fit(group, config.sequence_length)],
            config.sequence_length,
            config.micro_batch_size,
            fill_up=models.policy_forward.compiled,
        )
        at = start * each
        pieces.append([])
        for rows in packed:
            members = sequences[at : at + len(rows.lengths)]
            nuclei = nuclei_of(members, config.rollout.top_p)
            pieces[-1].append(_score(models, rows.to(device), nuclei, config.rollout.temperature, vocab_size))
            at += len(members)
    scored = [piece for minibatch in pieces for piece in minibatch]
    return _experience(pieces, scored, sequences, statistics, config)


def _experience(
    pieces: list[list[_Scored]],
    scored: list[_Scored],
    sequences: list[Sampled],
    statistics: RunningStatistics,
    config: PpoConfig,
) -> Experience:
    def joined(name: str) -> Tensor:
        return torch.cat([getattr(piece, name) for piece in scored])

    mask = mask_of(torch.cat([piece.rows.lengths for piece in scored]))  # (B, L)
    scores = joined("scores")
    if not bool(torch.isfinite(scores).all()):
        bad = int((~torch.isfinite(scores)).nonzero()[0])
        raise UserError(
            f"the reward of response {bad} of this step is {scores[bad].item()}",
            where=config.reward_model,
            mend="Train the reward model anew, at a lower rate",
        )
    statistics.update(scores)
    cut = torch.tensor([sequence.finish_reason != "stop" for sequence in sequences], device=scores.device)
    goals = statistics.normalise(scores, divide=config.normalise_deviation) - config.missing_end_penalty * cut
    logprobs, reference_logprobs = padded(joined("logprobs"), mask), padded(joined("reference_logprobs"), mask)
    rewards = token_rewards(goals, logprobs, reference_logprobs, mask, config.kl_coef)
    values = padded(joined("values"), mask)
    advantages, returns = generalised_advantages(rewards, values, mask, config.gamma, config.lam)
    whole = {
        "mask": mask,
        "old_logprobs": padded(joined("drawn"), mask),
        "old_values": values,
        "advantages": whiten(advantages, mask),
        "returns": returns,
    }
    kl = (logprobs - reference_logprobs).sum(-1)
    rollout = torch.tensor([logprob for sequence in sequences for logprob in sequence.logprobs], device=scores.device)
    apart = (rollout - joined("drawn")).abs()
    figures = {
        "objective/score": scores.mean().item(),
        "objective/score_deviation": scores.std(correction=0).item(),
        "objective/reward": rewards.sum(-1).mean().item(),
        "objective/kl": kl.mean().item(),
        "objective/entropy": joined("entropy").mean().item(),
        "value/explained_variance": explained_variance(values, returns, mask).item(),
        "response/length": mask.sum(-1).double().mean().item(),
        "response/ended": 1 - cut.double().mean().item(),
        "rollout/logprob_difference": apart.mean().item(),
        "rollout/logprob_difference_max": apart.max().item(),
    }
    minibatches: list[list[MicroExperience]] = []
    at = 0
    for minibatch in pieces:
        minibatches.append([])
        for piece in minibatch:
            span = slice(at, at + len(piece.rows.lengths))
            longest = int(piece.rows.lengths.max())
            fields = {name: value[span, :longest] for name, value in whole.items()}
            minibatches[-1].append(MicroExperience(rows=piece.rows, nuclei=piece.nuclei, **fields))
            at = span.stop
    return Experience(minibatches=minibatches, sequences=sequences, scores=scores, kl=kl, figures=figures)

"""How likely a model finds continuations of contexts: ids in, a log-probability and whether it is the greedy one out.

Contexts that begin alike, as those of a benchmark with worked examples do, have their beginning read once; choices of
one token after the same context are read as one. Neither changes a number (tests/inference/test_loglikelihood.py).
Shapes: B rows, T tokens read, D hidden, V vocabulary.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from danlu.inference.engine import NotFinite, filled_up
from danlu.model.transformer import Context, Transformer, cache_for
from danlu.run.errors import UserError

Ids = Sequence[int]

WORTH_SHARING = 64
"""Tokens of a common beginning from which on it is read apart. Our choice: a pass of its own costs about as much."""

TOKENS_AT_ONCE = 2048
"""Tokens of one pass. Our choice: enough for full speed on two cores, little memory on any machine."""

ROWS_AT_ONCE = 16
"""Texts of one pass; the cache holds as many."""


class Likelihood(NamedTuple):
    """Of one continuation: the sum of its tokens' log-probabilities, and whether each was the best."""

    logprob: float
    is_greedy: bool


@dataclass(frozen=True)
class Reading:
    """A text that the model reads, and the requests that it answers with the tokens each wants to follow."""

    ids: tuple[int, ...]
    wanted: list[tuple[int, tuple[int, ...]]]

    @property
    def num_states(self) -> int:
        """Last states that are looked at."""
        return max(len(tokens) for _, tokens in self.wanted)


@dataclass(frozen=True)
class SharedReadings:
    """Readings whose first `shared` ids are the same."""

    shared: int
    readings: list[Reading]


def loglikelihoods(
    model: Transformer, requests: Sequence[tuple[Ids, Ids]], vocab_size: int | None = None
) -> Iterator[list[tuple[int, Likelihood]]]:
    """The likelihood of each continuation (not empty) after its context (not empty), in the order in which they are
    found: pieces of (number of the request, likelihood). `vocab_size` is the tokenizer's, as in `Engine`.

    Raises UserError for a request that is longer than the model reads.
    """
    limit = model.config.max_position_embeddings
    for number, (context, continuation) in enumerate(requests):
        if not context or not continuation:
            raise ValueError(f"request {number}: the context and the continuation need a token each")
        if len(context) + len(continuation) - 1 > limit:
            raise UserError(
                f"request {number}: {len(context)} + {len(continuation)} tokens, the model reads {limit}",
                mend="Shorten the context",
            )
    by_alpha: dict[float, list[Reading]] = defaultdict(list)
    for reading in readings_of(requests):
        alpha = model.config.extension.alpha(len(reading.ids), model.config.training_length)
        by_alpha[alpha].append(reading)
    for alpha, readings in by_alpha.items():
        reader = _Reader(model, max(len(reading.ids) for reading in readings), vocab_size, alpha)
        for group in shared_beginnings(readings):
            yield from reader.read(group)


def readings_of(requests: Sequence[tuple[Ids, Ids]]) -> list[Reading]:
    """What must be read, sorted by ids: the last token of a continuation is only wanted, never read."""
    wanted: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for number, (context, continuation) in enumerate(requests):
        wanted.setdefault((*context, *continuation[:-1]), []).append((number, tuple(continuation)))
    return [Reading(ids, wanted[ids]) for ids in sorted(wanted)]


def shared_beginnings(readings: Sequence[Reading]) -> Iterator[SharedReadings]:
    """Neighbours of the sorted `readings` that share a beginning, together; those that share none, together too."""
    loose: list[Reading] = []
    for shared, run in shared_runs([reading.ids for reading in readings]):
        own = list(readings[run])
        if len(own) == 1:
            loose += own
        else:
            room = min(len(reading.ids) - reading.num_states for reading in own)
            yield SharedReadings(min(shared, room), own)
    if loose:
        yield SharedReadings(0, loose)


def shared_runs(texts: Sequence[Ids]) -> Iterator[tuple[int, slice]]:
    """Runs of neighbours, among sorted texts, that share a beginning, and how many ids all of a run share.

    A run ends where going on would halve that, or leave little; of a run of one it is 0.
    """
    start = shared = 0
    for place in range(1, len(texts)):
        common = num_common(texts[place - 1], texts[place])
        if common < WORTH_SHARING or 2 * common < shared:
            yield shared, slice(start, place)
            start, shared = place, 0
        else:
            shared = min(shared, common) if place > start + 1 else common
    if texts:
        yield shared, slice(start, len(texts))


def num_common(first: Ids, second: Ids) -> int:
    """Ids that both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))


class _Reader:
    """The model with a cache whose rows all begin with the ids `held`, turned by angles of one `alpha`."""

    def __init__(self, model: Transformer, longest: int, vocab_size: int | None, alpha: float) -> None:
        self.alpha = alpha
        self.model, self.vocab_size, self.device = model, vocab_size, next(model.parameters()).device
        self.cache = cache_for(model, ROWS_AT_ONCE, longest, keeps_all=True)
        self.held: tuple[int, ...] = ()

    def read(self, group: SharedReadings) -> Iterator[list[tuple[int, Likelihood]]]:
        """The likelihoods of a group, batch by batch; texts of like length together."""
        beginning = group.readings[0].ids[: group.shared]
        self._hold(beginning)
        waiting = sorted(group.readings, key=lambda reading: len(reading.ids))
        while waiting:
            longest = len(waiting[-1].ids) - group.shared
            count = max(1, min(ROWS_AT_ONCE, TOKENS_AT_ONCE // longest))
            batch, waiting = waiting[-count:], waiting[:-count]
            yield self._likelihoods(batch, group.shared)

    def _hold(self, beginning: tuple[int, ...]) -> None:
        """Have every row begin with `beginning`; what they begin with already is not read again."""
        known = num_common(self.held, beginning)
        self.held = beginning
        if known < len(beginning):
            self._states(torch.tensor([beginning[known:]]), known)
            every = torch.arange(ROWS_AT_ONCE, device=self.device)
            self.cache.copy(every[:1], every, ROWS_AT_ONCE, len(beginning))

    @torch.no_grad()
    def _states(self, input_ids: torch.Tensor, start: int) -> torch.Tensor:
        """States (B, T, D) of ids (B, T) that stand at `start` in the first rows of the cache."""
        rows = torch.arange(len(input_ids), device=self.device)
        places = torch.arange(start, start + input_ids.shape[1], device=self.device).expand(len(input_ids), -1)
        context = Context(self.cache, rows, places, start + input_ids.shape[1], (self.alpha,))
        return self.model.hidden_states(input_ids.to(self.device), context=context)

    @torch.no_grad()
    def _likelihoods(self, batch: list[Reading], shared: int) -> list[tuple[int, Likelihood]]:
        rests = [reading.ids[shared:] for reading in batch]
        states = self._states(filled_up(rests), shared)
        found = []
        for row, (reading, rest) in enumerate(zip(batch, rests, strict=True)):
            own = states[row, len(rest) - reading.num_states : len(rest)]  # (T, D)
            logprobs = self.model.lm_head(own)[:, : self.vocab_size].float().log_softmax(-1)  # (T, V)
            best = logprobs.argmax(-1)
            for number, tokens in reading.wanted:
                at = torch.tensor(tokens, device=self.device)
                chosen = logprobs[-len(tokens) :].gather(-1, at[:, None])
                logprob = float(chosen.sum())
                if not math.isfinite(logprob):
                    ids = torch.tensor([reading.ids], device=self.device)
                    raise NotFinite([], states.dtype, self.model.first_not_finite(ids))
                is_greedy = bool((best[-len(tokens) :] == at).all())
                found.append((number, Likelihood(logprob, is_greedy)))
        return found

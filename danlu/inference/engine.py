"""Rows of text that are continued together; a row joins with its prompt and leaves when it has ended (M07).

Each row has its own length and positions, so nothing depends on what else is in the batch.
Shapes: B rows, T tokens, V vocabulary.
"""

import contextlib
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch

from danlu.inference.config import SamplingConfig
from danlu.inference.sampling import are_finite, draw
from danlu.inference.text_stream import TextStream
from danlu.model.hf_config import dtype_name
from danlu.model.transformer import Context, Transformer, cache_for
from danlu.run.errors import UserError
from danlu.run.seeds import derive_seed
from danlu.tokenizer.bpe import Tokenizer

FinishReason = Literal["stop", "length"]


class NotFinite(UserError):
    """The logits of `rows` are not finite. The others are as they were before the step, which may be made again."""

    def __init__(self, rows: list[int], dtype: torch.dtype, where: str) -> None:
        super().__init__(
            f"the model's numbers are not finite in {dtype_name(dtype)}, first in {where}",
            mend="Load it in float32 or bfloat16",
        )
        self.rows = rows


class Alternatives(NamedTuple):
    """What the model thought of one place before any temperature: the log-probability of the token that was taken, and
    the best ids with theirs."""

    logprob: float
    ids: list[int]
    logprobs: list[float]


@dataclass(kw_only=True)
class Sequence:
    """One row: what was given, what was generated, and why it ended (`stop`, `length`, or None while it goes on)."""

    prompt_ids: list[int]
    generator: torch.Generator
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    stop_ids: frozenset[int] = frozenset()
    """Ids that end this row, which are no part of its text."""
    text: TextStream | None = None
    """The continuation as text, where the engine has a tokenizer."""
    num_alternatives: int | None = None
    """How many best ids are noted at every place; None notes nothing."""
    alternatives: list[Alternatives] = field(default_factory=list)
    """Of every token drawn, the end token included."""
    output_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_id: int | None = None
    """The end token that was drawn, which is not part of `output_ids`."""
    logprobs: list[float] = field(default_factory=list)
    """Of every token drawn, the end token included, among the nucleus it was drawn from; where `record` was asked."""
    nuclei: list[torch.Tensor] = field(default_factory=list)
    """The ids of these nuclei, best first; none where neither top-p nor top-k leaves a token out."""

    @property
    def response_ids(self) -> list[int]:
        """All that was drawn, the end token included."""
        return self.output_ids if self.stop_id is None else [*self.output_ids, self.stop_id]


READ_TOGETHER = 24
"""Prompts in one pass, those of like length together, so that few places are filled up. Measured on two cores: of 96
prompts of 13 to 120 tokens more than half the places would be, and a pass over 24 is as fast for each token."""


class Engine:
    """Continues up to `max_rows` prompts at once: `admit` prompts, `step` all rows by a token, `remove` a row."""

    def __init__(
        self,
        model: Transformer,
        stop_ids: Iterable[int],
        sampling: SamplingConfig,
        max_rows: int = 1,
        vocab_size: int | None = None,
        record: bool = False,
        max_length: int | None = None,
        tokenizer: Tokenizer | None = None,
        prefix: Items[int] = (),
        hidden_ids: Iterable[int] = (),
    ) -> None:
        """`vocab_size` is the tokenizer's: a model's last logits may be padding, ids that no text has. `record` keeps
        what every token was drawn from. `max_length` is the longest that a row can become, if less than the model
        reads: the cache is as long as that. With a `tokenizer` rows end at stop strings and have their text, without
        the ids in `hidden_ids`. All prompts begin with the ids of `prefix`, which are read once."""
        self.record, self.tokenizer = record, tokenizer
        self.model, self.stop_ids, self.sampling, self.vocab_size = model, frozenset(stop_ids), sampling, vocab_size
        self.hidden_ids = frozenset(hidden_ids)
        longest = model.config.max_position_embeddings
        self.limit = min(max_length or longest, longest)
        self.device = next(model.parameters()).device
        # A prompt's length may decide how its beginning is turned: then nothing can be read for all of them.
        self.prefix = [] if model.config.extension.dynamic_ntk else list(prefix)
        self.cache = cache_for(model, max_rows, self.limit, keeps_all=bool(self.prefix))
        self.free = list(range(max_rows))[::-1]
        self.rows: dict[int, Sequence] = {}
        self.admitted = 0
        if self.prefix:
            self.check(self.prefix)
            # Into every row; a prompt never writes over it, because it begins with the same.
            self._run(list(range(max_rows)), [self.prefix], 0, max_rows)

    @classmethod
    def for_text(
        cls,
        model: Transformer,
        tokenizer: Tokenizer,
        sampling: SamplingConfig,
        max_rows: int = 1,
        max_length: int | None = None,
        hide_special: bool = False,
    ) -> "Engine":
        """An engine whose rows have their text, and end at the tokenizer's end tokens and at stop strings. With
        `hide_special` other control tokens that a model happens to draw are not written in the text."""
        return cls(
            model,
            tokenizer.stop_ids,
            sampling,
            max_rows,
            vocab_size=tokenizer.vocab_size,
            max_length=max_length,
            tokenizer=tokenizer,
            hidden_ids=tokenizer.control_ids if hide_special else (),
        )

    def admit(self, prompt_ids: list[int]) -> int:
        """Read a prompt and choose its first token; the row's number. Raises UserError for one that does not fit."""
        return self.admit_all([prompt_ids])[0]

    def admit_all(
        self,
        prompts: list[list[int]],
        copies: int = 1,
        samplings: Items[SamplingConfig] | None = None,
        num_alternatives: int | None = None,
        stop_ids: Iterable[int] = (),
    ) -> list[int]:
        """Read several prompts in one pass, each once, and continue each of them `copies` times; the rows' numbers,
        prompt by prompt. All are admitted, or none and an error is raised.

        `samplings` has values of its own for every row, whose seeds are taken as they are: such a row draws alike
        whatever was admitted before it. `stop_ids` end these rows, beside the engine's own.
        """
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        with self._taken(prompts, copies, samplings, num_alternatives, stop_ids) as rows:
            for start in range(0, len(order), READ_TOGETHER):
                own = order[start : start + READ_TOGETHER]
                own_rows = [row for place in own for row in rows[place * copies : (place + 1) * copies]]
                self._read([prompts[place] for place in own], own_rows, copies)
        return rows

    def admit_in_pieces(
        self,
        prompt_ids: list[int],
        size: int,
        copies: int = 1,
        samplings: Items[SamplingConfig] | None = None,
        num_alternatives: int | None = None,
        stop_ids: Iterable[int] = (),
    ) -> Generator[None, None, list[int]]:
        """As `admit_all` with one prompt, of which every `next` reads `size` tokens: steps of other rows can come
        between. It returns the rows' numbers; closing it frees them."""
        with self._taken([prompt_ids], copies, samplings, num_alternatives, stop_ids) as rows:
            start = len(self.prefix)
            while start + size < len(prompt_ids):
                self._run(rows[:1], [prompt_ids[start : start + size]], start, 1)
                start += size
                yield
            self._choose(rows, self._run(rows, [prompt_ids[start:]], start, copies), copies)
        return rows

    @contextlib.contextmanager
    def _taken(
        self,
        prompts: list[list[int]],
        copies: int,
        samplings: Items[SamplingConfig] | None,
        num_alternatives: int | None,
        stop_ids: Iterable[int],
    ) -> Iterator[list[int]]:
        """Rows for prompts that are to be read inside; they are given back if that fails."""
        row_stop_ids = self.stop_ids.union(stop_ids)
        for prompt_ids in prompts:
            self.check(prompt_ids)
        if len(prompts) * copies > len(self.free):
            raise ValueError("every row is taken; remove one first")
        rows = [self.free.pop() for _ in prompts for _ in range(copies)]
        for place, row in enumerate(rows):
            sampling = samplings[place] if samplings else self.sampling
            self.rows[row] = Sequence(
                prompt_ids=prompts[place // copies],
                generator=self._generator(sampling.seed, is_own=bool(samplings)),
                sampling=sampling,
                stop_ids=row_stop_ids,
                text=TextStream(self.tokenizer, sampling.stop) if self.tokenizer else None,
                num_alternatives=num_alternatives,
            )
        try:
            yield rows
        except BaseException:  # Ctrl-C too: the caller never learns the rows' numbers.
            for row in rows:
                self.remove(row)
            raise

    def _read(self, prompts: list[list[int]], rows: list[int], copies: int) -> None:
        """Take prompts into the cache in one pass and choose the first token of each row."""
        known = len(self.prefix)
        ends = self._run(rows, [prompt_ids[known:] for prompt_ids in prompts], known, copies)
        self._choose(rows, ends, copies)

    def alpha(self, prompt_length: int) -> float:
        """The alpha of a prompt's rotary angles."""
        config = self.model.config
        return config.extension.alpha(prompt_length, config.training_length)

    def _alpha(self, sequence: Sequence) -> float:
        """The alpha of a row's next pass: its prompt's, or of what it has grown to."""
        grows = self.model.config.extension.dynamic_ntk_per_step
        return self.alpha(len(sequence.prompt_ids) + (len(sequence.output_ids) if grows else 0))

    def check(self, prompt_ids: list[int]) -> None:
        """UserError for a prompt that is empty or leaves no room for a token."""
        if not prompt_ids:
            raise UserError("the prompt is empty", mend="Give at least one character")
        if len(prompt_ids) >= self.limit:
            raise UserError(
                f"the prompt has {len(prompt_ids)} tokens, the model reads {self.limit} with the reply",
                mend="Shorten it, or begin anew",
            )

    def _generator(self, seed: int | None, is_own: bool) -> torch.Generator:
        generator = torch.Generator(device=self.device)
        if seed is None:
            generator.seed()
        else:
            # Rows of one batch draw differently, and alike in every batch of the same prompts.
            generator.manual_seed(seed if is_own else derive_seed(seed, "sampling", self.admitted))
        self.admitted += 1
        return generator

    def step(self) -> None:
        """Continue every row that has been read and has not ended by one token."""
        going = [row for row, each in sorted(self.rows.items()) if each.finish_reason is None and each.output_ids]
        if not going:
            return
        last = torch.tensor([[self.rows[row].output_ids[-1]] for row in going])  # (B, 1)
        places = torch.tensor([[len(self.rows[row].prompt_ids) + len(self.rows[row].output_ids) - 1] for row in going])
        self._choose(going, self._forward(going, last, places, [1] * len(going)))

    def remove(self, row: int) -> Sequence:
        """Take a row out, ended or not, and free its place."""
        self.free.append(row)
        return self.rows.pop(row)

    def _run(self, rows: list[int], texts: list[list[int]], start: int, copies: int) -> torch.Tensor:
        """Take texts that stand at `start` into the cache, each for `copies` of the rows; their last states (B, D)."""
        input_ids = filled_up(texts)  # (B, T)
        places = torch.arange(start, start + input_ids.shape[1]).expand(len(texts), -1)
        return self._forward(rows, input_ids, places, [len(ids) for ids in texts], copies)

    # Not inference_mode: the model keeps its rotary tables, and training could not use tables made in that mode.
    @torch.no_grad()
    def _forward(
        self,
        rows: list[int],
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        lengths: list[int],
        copies: int = 1,
    ) -> torch.Tensor:
        """Run the model on new tokens (B, T), of which each row has `lengths`; the states (B, D) of the last of them.

        With `copies` the tokens are those of every `copies`-th row, and the rows after it take over what it has read.
        """
        length = int(position_ids.max()) + 1
        own = torch.tensor(rows, device=self.device)
        alphas = [self._alpha(self.rows[row]) for row in rows[::copies]] if self.rows else [self.alpha(0)]
        read = torch.tensor(lengths, device=self.device)
        context = Context(self.cache, own[::copies], position_ids.to(self.device), length, alphas, read)
        hidden = self.model.hidden_states(input_ids.to(self.device), context=context)
        self.cache.copy(own[::copies], own, copies, length)
        return hidden[torch.arange(len(hidden), device=self.device), read - 1]

    @torch.no_grad()
    def _choose(self, rows: list[int], ends: torch.Tensor, copies: int = 1) -> None:
        """Draw a token for each of the rows and note it; a last state (D) of `ends` is that of `copies` rows. Raises
        NotFinite before anything is drawn."""
        logits = self.model.lm_head(ends)[:, : self.vocab_size].repeat_interleave(copies, 0)  # (B, V)
        finite = are_finite(logits).tolist()
        if not all(finite):
            broken = [row for row, is_finite in zip(rows, finite, strict=True) if not is_finite]
            self.cache.clear(broken)
            sequence = self.rows[broken[0]]
            ids = torch.tensor([[*sequence.prompt_ids, *sequence.output_ids]], device=self.device)
            raise NotFinite(broken, logits.dtype, self.model.first_not_finite(ids))
        alike: dict[tuple[float, float, int], list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            sampling = self.rows[row].sampling
            alike[sampling.temperature, sampling.top_p, sampling.top_k].append(place)
        for (temperature, top_p, top_k), places in alike.items():
            own = logits if len(alike) == 1 else logits[places]
            self._draw([self.rows[rows[place]] for place in places], own, temperature, top_p, top_k)

    def _draw(
        self, sequences: list[Sequence], logits: torch.Tensor, temperature: float, top_p: float, top_k: int
    ) -> None:
        """Draw and note a token for each of the sequences from its logits (B, V)."""
        drawn = draw(logits, temperature, top_p, top_k, [sequence.generator for sequence in sequences])
        tokens = drawn.tokens.tolist()
        if self.record:
            filtered = temperature == 0 or top_p < 1 or top_k > 0
            for place, (sequence, logprob) in enumerate(zip(sequences, drawn.logprobs().tolist(), strict=True)):
                sequence.logprobs.append(logprob)
                if filtered:
                    sequence.nuclei.append(drawn.nucleus.members(place))
        for place, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
            if sequence.num_alternatives is not None:
                sequence.alternatives.append(_alternatives(logits[place], token, sequence.num_alternatives))
            self._note(sequence, token)

    def _note(self, sequence: Sequence, token: int) -> None:
        if token in sequence.stop_ids:
            sequence.finish_reason, sequence.stop_id = "stop", token
        else:
            sequence.output_ids.append(token)
            used = len(sequence.prompt_ids) + len(sequence.output_ids)
            if len(sequence.output_ids) >= sequence.sampling.max_new_tokens or used >= self.limit:
                sequence.finish_reason = "length"
            if sequence.text and token not in self.hidden_ids:
                sequence.text.push(token)
        if sequence.text:
            if sequence.finish_reason:
                sequence.text.finish()
            if sequence.text.stopped is not None:
                sequence.finish_reason = "stop"


def filled_up(texts: Items[Items[int]]) -> torch.Tensor:
    """Ids (B, T) of texts as long as the longest. Filled up on the right: what a filler leaves in a cache lies past the
    text's end, hidden until it is written over."""
    longest = max(map(len, texts))
    return torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in texts])


def _alternatives(logits: torch.Tensor, token: int, count: int) -> Alternatives:
    """Log-probabilities of a token and of the `count` best ones, from logits (V)."""
    logprobs = logits.float().log_softmax(-1)
    best = logprobs.topk(min(count, len(logprobs)))
    return Alternatives(float(logprobs[token]), best.indices.tolist(), best.values.tolist())


def generate_batch(
    model: Transformer,
    stop_ids: Iterable[int],
    prompts: list[list[int]],
    sampling: SamplingConfig,
    max_rows: int = 64,
    vocab_size: int | None = None,
    record: bool = False,
    copies: int = 1,
    tokenizer: Tokenizer | None = None,
    prefix: Items[int] = (),
    samplings: Items[SamplingConfig] | None = None,
) -> list[Sequence]:
    """Continue every prompt to its end, `copies` times each, `max_rows` at a time; results in the prompts' order, those
    of one prompt together. `tokenizer` and `prefix` as in `Engine`, control tokens left out of the text; `samplings`
    has values for every prompt, as in `Engine.admit_all`, none of which wants more tokens than `sampling`."""
    engine = Engine(
        model,
        stop_ids,
        sampling,
        max_rows=max(copies, min(max_rows, len(prompts) * copies)),
        vocab_size=vocab_size,
        record=record,
        max_length=max(map(len, prompts), default=0) + sampling.max_new_tokens,
        tokenizer=tokenizer,
        hidden_ids=tokenizer.control_ids if tokenizer else (),
        prefix=prefix,
    )
    waiting = list(range(len(prompts)))[::-1]
    places: dict[int, int] = {}
    results: dict[int, Sequence] = {}
    while waiting or engine.rows:
        joining = [waiting.pop() for _ in range(min(len(waiting), len(engine.free) // copies))]
        if joining:
            own = [samplings[number] for number in joining for _ in range(copies)] if samplings else None
            rows = engine.admit_all([prompts[number] for number in joining], copies, own)
            numbers = [number * copies + copy for number in joining for copy in range(copies)]
            places.update(zip(rows, numbers, strict=True))
        for row in [row for row, sequence in engine.rows.items() if sequence.finish_reason]:
            results[places.pop(row)] = engine.remove(row)
        if engine.rows:
            engine.step()
    return [results[number] for number in range(len(prompts) * copies)]

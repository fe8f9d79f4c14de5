"""Rows of text that are continued together; a row joins with its prompt and leaves when it has ended (M07).

Each row has its own length and positions, so nothing depends on what else is in the batch.
Shapes: B rows, T tokens, V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from danlu.inference.config import SamplingConfig
from danlu.inference.sampling import draw
from danlu.model.attention import KVCache
from danlu.model.transformer import Context, Transformer
from danlu.run.errors import UserError
from danlu.run.seeds import derive_seed


@dataclass(kw_only=True)
class Sequence:
    """One row: what was given, what was generated, and why it ended (`stop`, `length`, or None while it goes on)."""

    prompt_ids: list[int]
    generator: torch.Generator
    output_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
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
    ) -> None:
        """`vocab_size` is the tokenizer's: a model's last logits may be padding, ids that no text has. `record` keeps
        what every token was drawn from. `max_length` is the longest row that will come, where the caller knows it:
        the cache is as long as that."""
        self.record = record
        self.model, self.stop_ids, self.sampling, self.vocab_size = model, frozenset(stop_ids), sampling, vocab_size
        self.limit = model.config.max_position_embeddings
        parameter = next(model.parameters())
        config = model.config
        self.device = device = parameter.device
        # Under autocast keys and values are of its precision, and a wider cache would hold the same numbers.
        autocast = torch.is_autocast_enabled(device.type)
        self.cache = KVCache(
            config.num_hidden_layers,
            max_rows,
            config.num_key_value_heads,
            min(max_length or self.limit, self.limit),
            config.head_dim,
            torch.get_autocast_dtype(device.type) if autocast else parameter.dtype,
            device,
        )
        self.free = list(range(max_rows))[::-1]
        self.rows: dict[int, Sequence] = {}
        self.admitted = 0

    def admit(self, prompt_ids: list[int]) -> int:
        """Read a prompt and choose its first token; the row's number. Raises UserError for one that does not fit."""
        return self.admit_all([prompt_ids])[0]

    def admit_all(self, prompts: list[list[int]], copies: int = 1) -> list[int]:
        """Read several prompts in one pass, each once, and continue each of them `copies` times; the rows' numbers,
        prompt by prompt. All are admitted, or none and an error is raised."""
        for prompt_ids in prompts:
            self._check(prompt_ids)
        if len(prompts) * copies > len(self.free):
            raise ValueError("every row is taken; remove one first")
        rows = [self.free.pop() for _ in prompts for _ in range(copies)]
        for place, row in enumerate(rows):
            self.rows[row] = Sequence(prompt_ids=prompts[place // copies], generator=self._generator())
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        try:
            for start in range(0, len(order), READ_TOGETHER):
                own = order[start : start + READ_TOGETHER]
                own_rows = [row for place in own for row in rows[place * copies : (place + 1) * copies]]
                self._read([prompts[place] for place in own], own_rows, copies)
        except BaseException:  # Ctrl-C too: the caller never learns the rows' numbers, so their places are freed here.
            for row in rows:
                self.remove(row)
            raise
        return rows

    def _read(self, prompts: list[list[int]], rows: list[int], copies: int) -> None:
        """Take prompts into the cache in one pass and choose the first token of each row."""
        longest = max(len(prompt_ids) for prompt_ids in prompts)
        # Filled up on the right: what a filler leaves in the cache lies past the row's end, hidden until written over.
        input_ids = torch.tensor([prompt_ids + [0] * (longest - len(prompt_ids)) for prompt_ids in prompts])  # (B, T)
        places = torch.arange(longest).expand(len(prompts), -1)
        self._forward(rows, input_ids, places, [len(ids) for ids in prompts], copies)

    def _check(self, prompt_ids: list[int]) -> None:
        if not prompt_ids:
            raise UserError("the prompt is empty", mend="Give at least one character")
        if len(prompt_ids) >= self.limit:
            raise UserError(
                f"the prompt has {len(prompt_ids)} tokens, the model reads {self.limit} with the reply",
                mend="Shorten it, or begin anew",
            )

    def _generator(self) -> torch.Generator:
        generator = torch.Generator(device=self.device)
        if self.sampling.seed is None:
            generator.seed()
        else:
            # Rows of one batch draw differently, and alike in every batch of the same prompts.
            generator.manual_seed(derive_seed(self.sampling.seed, "sampling", self.admitted))
        self.admitted += 1
        return generator

    def step(self) -> None:
        """Continue every row that has not ended by one token."""
        going = [row for row, sequence in sorted(self.rows.items()) if sequence.finish_reason is None]
        if not going:
            return
        last = torch.tensor([[self.rows[row].output_ids[-1]] for row in going])  # (B, 1)
        places = torch.tensor([[len(self.rows[row].prompt_ids) + len(self.rows[row].output_ids) - 1] for row in going])
        self._forward(going, last, places, [1] * len(going))

    def remove(self, row: int) -> Sequence:
        """Take a row out, ended or not, and free its place."""
        self.free.append(row)
        return self.rows.pop(row)

    # Not inference_mode: the model keeps its rotary tables, and training could not use tables made in that mode.
    @torch.no_grad()
    def _forward(
        self,
        rows: list[int],
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        lengths: list[int],
        copies: int = 1,
    ) -> None:
        """Run the model on new tokens (B, T), of which each row has `lengths`, and note the token each row chooses.

        With `copies` the tokens are those of every `copies`-th row, and the rows after it take over what it has read.
        """
        length = int(position_ids.max()) + 1
        own = torch.tensor(rows, device=self.device)
        context = Context(self.cache, own[::copies], position_ids.to(self.device), length)
        hidden = self.model.hidden_states(input_ids.to(self.device), context=context)
        self.cache.copy(own[::copies], own, copies, length)
        last = torch.tensor(lengths, device=self.device) - 1
        ends = hidden[torch.arange(len(hidden), device=self.device), last]  # (B, D)
        logits = self.model.lm_head(ends)[:, : self.vocab_size]  # (B, V)
        logits = logits.repeat_interleave(copies, 0)
        sequences = [self.rows[row] for row in rows]
        sampling = self.sampling
        drawn = draw(logits, sampling.temperature, sampling.top_p, sampling.top_k, [s.generator for s in sequences])
        if self.record:
            filtered = sampling.temperature == 0 or sampling.top_p < 1 or sampling.top_k > 0
            for place, (sequence, logprob) in enumerate(zip(sequences, drawn.logprobs().tolist(), strict=True)):
                sequence.logprobs.append(logprob)
                if filtered:
                    sequence.nuclei.append(drawn.nucleus.members(place))
        for sequence, token in zip(sequences, drawn.tokens.tolist(), strict=True):
            self._note(sequence, token)

    def _note(self, sequence: Sequence, token: int) -> None:
        if token in self.stop_ids:
            sequence.finish_reason, sequence.stop_id = "stop", token
            return
        sequence.output_ids.append(token)
        used = len(sequence.prompt_ids) + len(sequence.output_ids)
        if len(sequence.output_ids) >= self.sampling.max_new_tokens or used >= self.limit:
            sequence.finish_reason = "length"


def generate_batch(
    model: Transformer,
    stop_ids: Iterable[int],
    prompts: list[list[int]],
    sampling: SamplingConfig,
    max_rows: int = 64,
    vocab_size: int | None = None,
    record: bool = False,
    copies: int = 1,
) -> list[Sequence]:
    """Continue every prompt to its end, `copies` times each, `max_rows` at a time; results in the prompts' order, those
    of one prompt together."""
    engine = Engine(
        model,
        stop_ids,
        sampling,
        max_rows=max(copies, min(max_rows, len(prompts) * copies)),
        vocab_size=vocab_size,
        record=record,
        max_length=max(map(len, prompts), default=0) + sampling.max_new_tokens,
    )
    waiting = list(range(len(prompts)))[::-1]
    places: dict[int, int] = {}
    results: dict[int, Sequence] = {}
    while waiting or engine.rows:
        joining = [waiting.pop() for _ in range(min(len(waiting), len(engine.free) // copies))]
        if joining:
            rows = engine.admit_all([prompts[number] for number in joining], copies)
            numbers = [number * copies + copy for number in joining for copy in range(copies)]
            places.update(zip(rows, numbers, strict=True))
        for row in [row for row, sequence in engine.rows.items() if sequence.finish_reason]:
            results[places.pop(row)] = engine.remove(row)
        if engine.rows:
            engine.step()
    return [results[number] for number in range(len(prompts) * copies)]

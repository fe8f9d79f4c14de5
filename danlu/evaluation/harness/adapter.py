"""A model of ours as a model of lm-evaluation-harness.

In: the harness's requests. Out: log-likelihoods and greedy or sampled texts, the same as those of its own Hugging Face
backend on the same weights (tests/evaluation/test_harness_adapter.py), sooner where prompts begin alike. Unlike there,
nothing is cut in silence: a prompt that is too long loses whole examples (`FewShotPrompt`), or is refused and counted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from danlu.evaluation.harness.prompt import FewShotPrompt, Fitted, Reply
from danlu.inference.config import SamplingConfig
from danlu.inference.engine import generate_batch
from danlu.inference.loglikelihood import Ids, loglikelihoods, num_common, shared_runs
from danlu.model.transformer import Transformer
from danlu.run.progress import ProgressBar
from danlu.run.seeds import derive_seed
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.chat import encode_conversation, render_conversation

DEFAULT_MAX_NEW_TOKENS = 256
"""The harness's own, for tasks that give no number."""

ROWS_AT_ONCE = 32
"""Texts continued side by side. Our choice: on two cores a step of 32 rows takes little longer than one of 8."""

PROMPTS_TOGETHER = 128
"""Prompts continued in one go; what is answered stays when the run is stopped. Our choice."""

REPLY_SHARE = 4
"""For a reply at most a quarter of what the model reads is kept free of examples. Our choice: a short model could be
shown none otherwise. A prompt that leaves more is answered with as much as the task wants."""

REFUSED = (float("-inf"), False)
"""The likelihood of a choice after a prompt that does not fit: it is never chosen, and the item is counted apart."""


class DanluLM(LM):
    """The adapter. `tokenizer` puts control ids in by code: text never becomes one."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, name: str = "danlu") -> None:
        super().__init__()
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self._device = next(model.parameters()).device
        self.limit = model.config.max_position_embeddings

    @property
    def tokenizer_name(self) -> str:
        return self.name

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as one text, for the harness's own tasks."""
        return render_conversation(chat_history, add_generation_prompt)

    def prompt_ids(self, prompt: str) -> list[int]:
        """The ids of a prompt; a document's end where it is empty."""
        if isinstance(prompt, FewShotPrompt) and prompt.chat:
            return encode_conversation(self.tokenizer, prompt.messages, add_generation_prompt=True)[0]
        return self.tokenizer.encode(prompt) or [self.tokenizer.end_of_text_id]

    def fit_prompt(self, prompt: str, wanted: Mapping[str, Any]) -> Fitted:
        """What the model reads of a prompt that is to be continued as `wanted`, in the harness's words."""
        kept_free = min(_wanted_tokens(wanted), max(1, self.limit // REPLY_SHARE))
        return self._fit(prompt, lambda shown: (self.prompt_ids(shown), []), kept_free)

    def fit_context(self, context: str, continuation: str) -> Fitted:
        """What the model reads of a context before a choice, the last token of which is only wanted."""
        return self._fit(context, lambda shown: self.pair(shown, continuation), -1)

    def _fit(self, prompt: str, encode: Callable[[str], tuple[list[int], list[int]]], room: int) -> Fitted:
        """A prompt with as many of its last examples as the model reads with what follows and `room` tokens more."""
        while True:
            ids, following = encode(prompt)
            if len(ids) + len(following) + room <= self.limit:
                return Fitted(prompt, ids, following)
            if not isinstance(prompt, FewShotPrompt) or not prompt.examples:
                return Fitted(prompt, None)
            prompt = prompt.without_first(1)

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The ids of a context and of what follows it, which joined are those of the joined text (E09).

        Blanks at the context's end belong to the continuation, as in the harness. Where a token spans the join it is
        the continuation's first.
        """
        if not context:
            return [self.tokenizer.end_of_text_id], self.tokenizer.encode(continuation)
        stripped = context.rstrip() or context
        before = self.tokenizer.encode(stripped)
        whole = self.tokenizer.encode(context + continuation)
        common = min(num_common(before, whole), len(whole) - 1)
        if common == 0:
            return [self.tokenizer.end_of_text_id], whole
        return whole[:common], whole[common:]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each continuation after its context: its log-likelihood, and whether it is the greedy one."""
        results: list[tuple[float, bool]] = [REFUSED] * len(requests)
        fitted = [self.fit_context(*request.args) for request in requests]
        fitting = [number for number, each in enumerate(fitted) if each.ids is not None]
        readable = [(each.ids, each.following) for each in fitted if each.ids is not None]
        with ProgressBar("choices", total=len(readable), unit="choices") as bar:
            for piece in loglikelihoods(self.model, readable, self.tokenizer.vocab_size):
                for place, likelihood in piece:
                    number = fitting[place]
                    results[number] = (likelihood.logprob, likelihood.is_greedy)
                    self.cache_hook.add_partial("loglikelihood", requests[number].args, results[number])
                bar.advance(len(piece))
        return results

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Of each whole text, every token once, with as much of the text before it as the model reads."""
        windows: list[tuple[Ids, Ids]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            ids = self.tokenizer.encode(request.args[0])
            rolling = get_rolling_token_windows(ids, self.tokenizer.end_of_text_id, self.limit, 1)
            for window in map(make_disjoint_window, rolling):
                windows.append(window)
                owners.append(number)
        totals = [0.0] * len(requests)
        for piece in loglikelihoods(self.model, windows, self.tokenizer.vocab_size):
            for place, likelihood in piece:
                totals[owners[place]] += likelihood.logprob
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Reply]:  # type: ignore[override]
        """What the model says to each prompt, up to a stop text; empty for a prompt that does not fit."""
        results = [Reply("", None)] * len(requests)
        shown = [self.fit_prompt(*request.args) for request in requests]
        fitted = [each.ids for each in shown]
        samplings = [
            self._sampling(request.args[0], request.args[1], len(ids or ()))
            for request, ids in zip(requests, fitted, strict=True)
        ]
        readable = sorted((number for number, ids in enumerate(fitted) if ids), key=lambda number: fitted[number] or [])
        with ProgressBar("replies", total=len(readable), unit="replies") as bar:
            for prefix, numbers in _together(fitted, readable):
                own = [samplings[number] for number in numbers]
                rows = generate_batch(
                    self.model,
                    self.tokenizer.stop_ids,
                    [fitted[number] or [] for number in numbers],
                    max(own, key=lambda sampling: sampling.max_new_tokens),
                    max_rows=ROWS_AT_ONCE,
                    vocab_size=self.tokenizer.vocab_size,
                    tokenizer=self.tokenizer,
                    prefix=prefix,
                    samplings=own,
                )
                for number, row in zip(numbers, rows, strict=True):
                    assert row.text is not None
                    left_out = shown[number].left_out(requests[number].args[0])
                    results[number] = Reply(row.text.text, left_out, row.finish_reason == "length")
                    self.cache_hook.add_partial("generate_until", requests[number].args, results[number])
                    bar.advance()
        return results

    def _sampling(self, prompt: str, wanted: Mapping[str, Any], num_read: int) -> SamplingConfig:
        """The harness's words for how a text is chosen, after a prompt of `num_read` tokens; a seed gives every prompt
        draws of its own."""
        until, seed = wanted.get("until") or (), wanted.get("seed")
        return SamplingConfig(
            max_new_tokens=max(1, min(_wanted_tokens(wanted), self.limit - num_read)),
            temperature=float(wanted.get("temperature") or 0.0),
            top_p=float(wanted.get("top_p") or 1.0),
            seed=None if seed is None else derive_seed(seed, "reply", prompt),
            stop=(until,) if isinstance(until, str) else tuple(until),
        )


def _wanted_tokens(wanted: Mapping[str, Any]) -> int:
    """Tokens of a reply at most, in the harness's words."""
    return int(wanted.get("max_gen_toks") or DEFAULT_MAX_NEW_TOKENS)


def _together(prompts: Sequence[list[int] | None], order: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The numbers of prompts that are continued in one go, with the ids that all of them begin with; `order` sorts the
    prompts by their ids."""
    texts = [prompts[number] or [] for number in order]
    for shared, run in shared_runs(texts):
        for start in range(run.start, run.stop, PROMPTS_TOGETHER):
            end = min(start + PROMPTS_TOGETHER, run.stop)
            # One id of each prompt at least is read by itself.
            known = min(shared, *(len(ids) - 1 for ids in texts[start:end]))
            yield list(texts[start][:known]), list(order[start:end])

"""`/v1/completions`: texts or ids in, their continuations out."""

from collections.abc import Sequence

from danlu.inference.engine import FinishReason
from danlu.serving.continuation import Continuation, ScoredToken, TokenNames
from danlu.serving.errors import ApiError
from danlu.serving.protocol import CompletionRequest
from danlu.serving.replies import Completion, CompletionChoice, CompletionLogprobs, Usage
from danlu.tokenizer.bpe import Tokenizer


def prompts_of(request: CompletionRequest, tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of each prompt. Raises ApiError for ids that the tokenizer does not have."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return [tokenizer.encode(prompt)]
    if isinstance(prompt[0], int):
        prompt = [prompt]  # type: ignore[list-item]
    prompts = [tokenizer.encode(one) if isinstance(one, str) else list(one) for one in prompt]  # type: ignore[arg-type]
    highest = max(max(ids, default=0) for ids in prompts)
    if highest >= tokenizer.vocab_size:
        raise ApiError(400, f"prompt: no token has the id {highest}", param="prompt")
    return prompts


class CompletionForm:
    """How continuations become the endpoint's answers."""

    def __init__(
        self, reply_id: str, created: int, model: str, names: TokenNames, num_alternatives: int | None
    ) -> None:
        self.id, self.created, self.model = f"cmpl-{reply_id}", created, model
        self.names, self.num_alternatives = names, num_alternatives

    def whole(self, continuations: Sequence[Continuation], usage: Usage) -> Completion:
        """The unstreamed answer."""
        choices = [
            CompletionChoice(
                index=index,
                text=continuation.text,
                logprobs=self._logprobs(continuation.tokens),
                finish_reason=continuation.ended_by,
            )
            for index, continuation in enumerate(continuations)
        ]
        return self._around(choices, usage=usage)

    def opening(self, index: int) -> Completion | None:
        """No chunk comes before the text."""
        return None

    def delta(self, index: int, text: str, tokens: Sequence[ScoredToken]) -> Completion:
        """New text and tokens."""
        logprobs = self._logprobs(tokens) if tokens else None
        return self._around([CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=None)])

    def ending(self, index: int, finish_reason: FinishReason) -> Completion:
        """The chunk after a continuation."""
        return self._around([CompletionChoice(index=index, text="", logprobs=None, finish_reason=finish_reason)])

    def closing(self, usage: Usage) -> Completion:
        """The chunk after all continuations."""
        return self._around([], usage=usage)

    def _around(self, choices: list[CompletionChoice], **usage: Usage) -> Completion:
        return Completion(
            id=self.id, object="text_completion", created=self.created, model=self.model, choices=choices, **usage
        )

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> CompletionLogprobs | None:
        if self.num_alternatives is None:
            return None
        return CompletionLogprobs(
            tokens=[self._name(token.token_id) for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            top_logprobs=[self._best(token) for token in tokens] if self.num_alternatives else None,
            text_offset=[token.offset for token in tokens],
        )

    def _best(self, token: ScoredToken) -> dict[str, float]:
        """The best tokens and, as OpenAI's, the one that came."""
        return {self._name(token_id): logprob for token_id, logprob in [*token.best, (token.token_id, token.logprob)]}

    def _name(self, token_id: int) -> str:
        return self.names.text_of(token_id, mark="bytes:")

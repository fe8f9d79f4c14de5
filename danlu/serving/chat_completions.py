"""`/v1/chat/completions`: messages in, the model's turn out."""

import json
from collections.abc import Sequence
from typing import Any

from danlu.inference.engine import FinishReason
from danlu.serving.continuation import Continuation, ScoredToken, TokenNames
from danlu.serving.errors import ApiError
from danlu.serving.protocol import ChatMessage, ChatRequest, ToolCall
from danlu.serving.replies import (
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatLogprobs,
    Delta,
    ReplyMessage,
    TokenLogprob,
    TopLogprob,
    Usage,
)


def messages_of(request: ChatRequest) -> list[dict[str, str]]:
    """The request's messages as the template takes them. Raises ApiError for what a message of its role cannot have."""
    return [
        {"role": "system" if message.role == "developer" else message.role, "content": _content(message, number)}
        for number, message in enumerate(request.messages)
    ]


def _content(message: ChatMessage, number: int) -> str:
    where = f"messages[{number}]"
    for name, role in (("tool_calls", "assistant"), ("tool_call_id", "tool")):
        if getattr(message, name) is not None and message.role != role:
            raise ApiError(400, f"{where}.{name}: only a message of the {role} has it", param=f"{where}.{name}")
    if message.content is None and message.role != "assistant":
        raise ApiError(400, f"{where}.content: null is for the assistant alone", param=f"{where}.content")
    parts = message.content or ""
    text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
    return "\n".join([*([text] if text else []), *map(_written, message.tool_calls or [])])


def _written(call: ToolCall) -> str:
    """A call as Qwen 2.5's template writes it into the assistant's text; arguments that are not JSON stay a text."""
    try:
        said = _call(call, json.loads(call.function.arguments, object_pairs_hook=_object))
    except (ValueError, RecursionError):
        said = _call(call, call.function.arguments)
    return f"<tool_call>\n{said}\n</tool_call>"


def _call(call: ToolCall, arguments: Any) -> str:
    return json.dumps({"name": call.function.name, "arguments": arguments}, ensure_ascii=False, allow_nan=False)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; ValueError for a name given twice, one value of which would be lost."""
    if len(values := dict(pairs)) < len(pairs):
        raise ValueError("a name is given twice")
    return values


class ChatForm:
    """How continuations become the endpoint's answers."""

    def __init__(self, reply_id: str, created: int, model: str, names: TokenNames, has_logprobs: bool) -> None:
        self.id, self.created, self.model = f"chatcmpl-{reply_id}", created, model
        self.names, self.has_logprobs = names, has_logprobs

    def whole(self, continuations: Sequence[Continuation], usage: Usage) -> ChatCompletion:
        """The unstreamed answer."""
        choices = [
            ChatChoice(
                index=index,
                message=ReplyMessage(content=continuation.text),
                logprobs=self._logprobs(continuation.tokens),
                finish_reason=continuation.ended_by,
            )
            for index, continuation in enumerate(continuations)
        ]
        return ChatCompletion(id=self.id, created=self.created, model=self.model, choices=choices, usage=usage)

    def opening(self, index: int) -> ChatCompletionChunk | None:
        """The chunk before a reply's text."""
        return self._chunk(index, Delta(role="assistant", content=""))

    def delta(self, index: int, text: str, tokens: Sequence[ScoredToken]) -> ChatCompletionChunk:
        """New text and tokens."""
        return self._chunk(index, Delta(content=text), tokens)

    def ending(self, index: int, finish_reason: FinishReason) -> ChatCompletionChunk:
        """The chunk after a reply's text."""
        return self._chunk(index, Delta(), finish_reason=finish_reason)

    def closing(self, usage: Usage) -> ChatCompletionChunk:
        """The chunk after all replies."""
        return self._around([], usage=usage)

    def _chunk(
        self, index: int, delta: Delta, tokens: Sequence[ScoredToken] = (), finish_reason: FinishReason | None = None
    ) -> ChatCompletionChunk:
        logprobs = self._logprobs(tokens) if tokens else None
        return self._around([ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=finish_reason)])

    def _around(self, choices: list[ChatChunkChoice], **usage: Usage) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=choices,
            **usage,
        )

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> ChatLogprobs | None:
        if not self.has_logprobs:
            return None
        return ChatLogprobs(content=[self._entry(token) for token in tokens], refusal=None)

    def _entry(self, token: ScoredToken) -> TokenLogprob:
        best = [self._named(token_id, logprob) for token_id, logprob in token.best]
        return TokenLogprob(**self._named(token.token_id, token.logprob).model_dump(), top_logprobs=best)

    def _named(self, token_id: int, logprob: float) -> TopLogprob:
        return TopLogprob(token=self.names.text_of(token_id), logprob=logprob, bytes=self.names.bytes_of(token_id))

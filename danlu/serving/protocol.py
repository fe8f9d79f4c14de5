"""Requests of OpenAI's two text endpoints, read strictly: no field is ignored that would change the answer.

Known fields that Danlu does not do are taken with the value that means nothing, and refused with any other.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

MAX_ALTERNATIVES = 20
"""OpenAI's limit of `top_logprobs`; the older endpoint's 5 is raised to it, our choice."""

MAX_STOPS = 16
"""Stop strings of a request; OpenAI takes 4. Our choice."""

MAX_NAME = 1000
"""Characters of a text that only names something. Our choice."""

MAX_TOKENS = 2**17
"""Ids of a prompt, and prompts of a request: our choice, more than the longest window that the recipe reads."""

MAX_MESSAGES = 2**14
"""Turns of a conversation, and parts of a message: our choice; such a window has no room for more."""

Several = Annotated[list[T], Field(fail_fast=True)]
"""A list whose first mistake ends its reading: a body of a million mistakes would take minutes and gigabytes."""
StopText = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Name = Annotated[str, Field(max_length=MAX_NAME)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
SIZE = Field(min_length=1, max_length=MAX_TOKENS)
Ids = Annotated[Several[TokenId], SIZE]


def only(what: str, **limits: Any) -> Any:
    """A field that is supported with one value alone."""
    return Field(None, description=f"Supported only as {what}.", **limits)


class Strict(BaseModel):
    """No conversions, no unknown fields, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """What a stream holds beside the text."""

    include_usage: bool | None = Field(None, description="A last chunk tells the usage.")
    include_obfuscation: Literal[False] | None = only("false")


class TextRequest(Strict):
    """What both endpoints take."""

    model: Name = Field(description="As `/v1/models` lists it.")
    max_tokens: int | None = Field(None, ge=1, description="By default what the prompt leaves of the model's length.")
    temperature: float | None = Field(None, ge=0, le=2, description="1 by default; 0 takes the best token.")
    top_p: float | None = Field(None, ge=0, le=1, description="1 by default; 0 takes the best token.")
    top_k: int | None = Field(None, ge=0, lt=2**31, description="Our extension; 0, the default, is no such limit.")
    n: int | None = Field(None, ge=1, description="1 by default; at most the server's rows.")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="The same text for the same request.")
    stop: StopText | Annotated[Several[StopText], Field(max_length=MAX_STOPS)] | None = Field(
        None, description="Texts before which the reply ends."
    )
    stop_token_ids: Several[TokenId] | None = Field(
        None, max_length=MAX_STOPS, description="Our extension; ids that end the reply."
    )
    stream: bool | None = Field(None, description="Server-sent events, the last of them `[DONE]`.")
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")
    user: Name | None = Field(None, description="Taken, and used for nothing.")
    presence_penalty: float | None = only("0", ge=0, le=0)
    frequency_penalty: float | None = only("0", ge=0, le=0)
    logit_bias: dict[str, float] | None = only("{}", max_length=0)


class TextPart(Strict):
    """A part of a message; text is the only kind."""

    type: Literal["text"]
    text: str


class ToolFunction(Strict):
    """What was called; `arguments` is JSON, as text."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A call in an earlier reply of the assistant."""

    id: Name | None = None
    type: Literal["function"]
    function: ToolFunction


class ChatMessage(Strict):
    """A turn. Parts of a content are joined with nothing between them; `developer` is another word for `system`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[Several[TextPart], Field(min_length=1, max_length=MAX_MESSAGES)] | None = Field(
        None, description="Only the assistant's may be null."
    )
    tool_calls: Several[ToolCall] | None = Field(
        None, max_length=MAX_MESSAGES, description="Of the assistant; written into its text."
    )
    tool_call_id: Name | None = Field(None, description="Of a tool; the model sees the order alone.")
    name: Literal[None] = only("null")
    refusal: Literal[None] = only("null")
    audio: Literal[None] = only("null")
    function_call: Literal[None] = only("null")
    annotations: list[Any] | None = only("[]", max_length=0)


class ResponseFormat(Strict):
    """Plain text."""

    type: Literal["text"]


class ChatRequest(TextRequest):
    """The body of `/v1/chat/completions`."""

    messages: Several[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of `max_tokens`.")
    logprobs: bool | None = Field(None, description="Log-probabilities before any temperature.")
    top_logprobs: int | None = Field(None, ge=0, le=MAX_ALTERNATIVES, description="Only with `logprobs`.")
    metadata: dict[str, str] | None = Field(None, description="Taken, and used for nothing.")
    prompt_cache_key: Name | None = Field(None, description="Taken, and used for nothing.")
    safety_identifier: Name | None = Field(None, description="Taken, and used for nothing.")
    parallel_tool_calls: bool | None = Field(None, description="Taken, since there are no tools.")
    store: Literal[False] | None = only("false")
    service_tier: Literal["auto", "default"] | None = only("auto or default")
    response_format: ResponseFormat | None = only('{"type": "text"}')
    tools: list[Any] | None = only("[]", max_length=0)
    tool_choice: Literal["none", "auto"] | None = only("none or auto")
    functions: list[Any] | None = only("[]", max_length=0)
    function_call: Literal["none", "auto"] | None = only("none or auto")
    modalities: Several[Literal["text"]] | None = only('["text"]', max_length=1)
    reasoning_effort: Literal["none"] | None = only("none")
    verbosity: Literal["medium"] | None = only("medium")
    audio: Literal[None] = only("null")
    prediction: Literal[None] = only("null")
    web_search_options: Literal[None] = only("null")
    prompt_cache_retention: Literal[None] = only("null")


class CompletionRequest(TextRequest):
    """The body of `/v1/completions`."""

    prompt: str | Ids | Annotated[Several[str], SIZE] | Annotated[Several[Ids], SIZE] = Field(
        description="A text or its ids, or several of either."
    )
    logprobs: int | None = Field(
        None, ge=0, le=MAX_ALTERNATIVES, description="Alternatives at every place, and log-probabilities."
    )
    echo: Literal[False] | None = only("false")
    suffix: str | None = only("the empty text", max_length=0)
    best_of: int | None = Field(None, ge=1, description="Supported only where it equals `n`.")


_MODELS = (StreamOptions, TextPart, ToolFunction, ToolCall, ChatMessage, ResponseFormat, ChatRequest, CompletionRequest)

FIELDS = frozenset(name for model in _MODELS for name in model.model_fields)
"""Names that a place in a request is made of."""

ONLY = {
    name: field.description.removeprefix("Supported only as ").removesuffix(".")
    for model in (ChatRequest, CompletionRequest)
    for name, field in model.model_fields.items()
    if field.description and field.description.startswith("Supported only as ")
}
"""Fields of a body that are supported with one value alone, and with which."""

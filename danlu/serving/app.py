"""The HTTP server's routes: OpenAI's text endpoints over a batcher."""

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from danlu.inference.config import SamplingConfig
from danlu.run.errors import UserError
from danlu.run.seeds import derive_seed
from danlu.serving.answers import ClientGone, EventStream, Form, events, or_gone, whole_answer
from danlu.serving.batcher import Batcher, Busy, Closed, Ticket
from danlu.serving.chat_completions import ChatForm, messages_of
from danlu.serving.completions import CompletionForm, prompts_of
from danlu.serving.continuation import Continuation, TokenNames
from danlu.serving.errors import ApiError, ErrorResponse, add_handlers, from_exception
from danlu.serving.guard import add_guard
from danlu.serving.protocol import ChatRequest, CompletionRequest, TextRequest
from danlu.serving.replies import ChatCompletion, Completion, Health, ModelCard, ModelList
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.chat import encode_conversation

_REFUSALS: dict[int | str, str] = {
    400: "A field that is wrong or not supported; `param` names it",
    401: "No key, or a wrong one",
    403: "A foreign host name",
    404: "No such model",
    408: "The body came too slowly",
    413: "The body is too large",
    415: "The body is not JSON",
    500: "The server or the model failed",
    503: "Too many requests wait, or the server is shutting down",
    "default": "Any other error",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description} for status, description in _REFUSALS.items()
}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer, or its events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


def make_app(
    batcher: Batcher,
    tokenizer: Tokenizer,
    model_name: str,
    *,
    api_key: str | None = None,
    is_loopback: bool = True,
    max_body_bytes: int = 4 * 2**20,
    body_seconds: float = 30.0,
) -> FastAPI:
    """The app that serves `batcher`'s model under `model_name`; see `ServeConfig` for the other values.

    Pages may be mounted on it: they stand behind the same guard.
    """
    # The documentation pages would load scripts from elsewhere; `/openapi.json` stays.
    app = FastAPI(title="Danlu", docs_url=None, redoc_url=None)
    add_guard(app, api_key=api_key, is_loopback=is_loopback, max_body_bytes=max_body_bytes, body_seconds=body_seconds)
    add_handlers(app)
    _add_models(app, batcher, model_name)
    _add_text_routes(app, Desk(batcher, tokenizer, model_name))
    for request in ("ChatRequest", "CompletionRequest"):
        app.openapi()["components"]["schemas"][request]["properties"]["model"]["enum"] = [model_name]
    return app


def _add_models(app: FastAPI, batcher: Batcher, model_name: str) -> None:
    card = ModelCard(id=model_name, created=int(time.time()), max_model_len=batcher.max_length)

    @app.get("/health", responses=ERRORS)
    async def health() -> Health:
        """Whether the server can answer; needs no key."""
        if not batcher.is_alive:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        return Health(running=batcher.num_running, waiting=batcher.num_waiting)

    @app.get("/v1/models", responses=ERRORS)
    async def models() -> ModelList:
        """The model that is served."""
        return ModelList(data=[card])

    @app.get("/v1/models/{model:path}", responses=ERRORS)
    async def model_card(model: str) -> ModelCard:
        """The model that is served, by its name."""
        check_model(model, model_name)
        return card


def _add_text_routes(app: FastAPI, desk: "Desk") -> None:
    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses={**ERRORS, **STREAM})
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        return await desk.chat(body, request)

    @app.post("/v1/completions", response_model=Completion, responses={**ERRORS, **STREAM})
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue texts."""
        return await desk.complete(body, request)


def check_model(asked: str, served: str) -> None:
    """Raises ApiError for a model that is not the one served."""
    if asked != served:
        raise ApiError(
            404, f"model: there is no {asked[:100]!r} here, only {served!r}", param="model", code="model_not_found"
        )


class Desk:
    """Takes requests that were read, hands them to the batcher, and answers."""

    def __init__(self, batcher: Batcher, tokenizer: Tokenizer, model_name: str) -> None:
        self.batcher, self.tokenizer, self.model_name = batcher, tokenizer, model_name
        self.names = TokenNames(tokenizer)

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """Answer a conversation. Raises ApiError."""
        check_model(body.model, self.model_name)
        check_together(body)
        messages = messages_of(body)
        ids = await self._encoded(lambda: encode_conversation(self.tokenizer, messages, add_generation_prompt=True)[0])
        count = (body.top_logprobs or 0) if body.logprobs else None
        form = ChatForm(*self._head(), self.names, bool(body.logprobs))
        return await self._answer(body, request, [ids], "messages", count, form)

    async def complete(self, body: CompletionRequest, request: Request) -> Response:
        """Continue texts. Raises ApiError."""
        check_model(body.model, self.model_name)
        check_together(body)
        prompts = await self._encoded(lambda: prompts_of(body, self.tokenizer))
        form = CompletionForm(*self._head(), self.names, body.logprobs)
        return await self._answer(body, request, prompts, "prompt", body.logprobs, form)

    @staticmethod
    async def _encoded(encode: Callable[[], Any]) -> Any:
        """Long texts are encoded beside the event loop, which serves the others meanwhile."""
        return await asyncio.to_thread(encode)

    def _head(self) -> tuple[str, int, str]:
        return uuid.uuid4().hex, int(time.time()), self.model_name

    async def _answer(
        self,
        body: TextRequest,
        request: Request,
        prompts: list[list[int]],
        prompt_field: str,
        num_alternatives: int | None,
        form: Form,
    ) -> Response:
        ticket = self._submit(body, prompts, prompt_field, num_alternatives)
        continuations = [Continuation(self.tokenizer) for _ in range(len(prompts) * (body.n or 1))]
        num_prompt_tokens = sum(map(len, prompts))
        if body.stream:
            include_usage = bool(body.stream_options and body.stream_options.include_usage)
            return EventStream(events(ticket, form, continuations, num_prompt_tokens, include_usage))
        try:
            answer = await or_gone(request.receive, whole_answer(ticket, form, continuations, num_prompt_tokens))
        except ClientGone:
            return Response(status_code=499)  # Nobody reads it.
        return JSONResponse(answer.model_dump())

    def _submit(
        self, body: TextRequest, prompts: list[list[int]], prompt_field: str, num_alternatives: int | None
    ) -> Ticket:
        """Hand the prompts in. Raises ApiError, naming the field, for what can never be served or not now."""
        copies = body.n or 1
        if copies > self.batcher.max_rows:
            raise ApiError(400, f"n: at most {self.batcher.max_rows}, not {copies}", param="n")
        if len(prompts) > self.batcher.max_waiting:
            message = f"{prompt_field}: at most {self.batcher.max_waiting} prompts, not {len(prompts)}"
            raise ApiError(400, message, param=prompt_field)
        highest = max(body.stop_token_ids or [0])
        if highest >= self.tokenizer.vocab_size:
            raise ApiError(400, f"stop_token_ids: no token has the id {highest}", param="stop_token_ids")
        try:
            self.batcher.check(prompts, copies)
        except UserError as error:
            code = "context_length_exceeded" if all(prompts) else "empty_prompt"
            raise ApiError(400, f"{prompt_field}: {error.what}", param=prompt_field, code=code) from error
        samplings = samplings_of(body, max(map(len, prompts)), self.batcher.max_length)
        try:
            return self.batcher.submit(prompts, samplings, num_alternatives, body.stop_token_ids or ())
        except (Busy, Closed) as error:
            raise from_exception(error) from error


def check_together(body: ChatRequest | CompletionRequest) -> None:
    """Raises ApiError for fields that contradict each other."""
    mistake: tuple[str, str] | None = None
    if body.stream_options is not None and not body.stream:
        mistake = "stream_options", "only with stream"
    elif isinstance(body, ChatRequest) and body.top_logprobs is not None and not body.logprobs:
        mistake = "top_logprobs", "only with logprobs"
    elif isinstance(body, ChatRequest) and None not in (body.max_tokens, body.max_completion_tokens):
        if body.max_tokens != body.max_completion_tokens:
            mistake = "max_tokens", "is not equal to max_completion_tokens, which means the same"
    elif isinstance(body, CompletionRequest) and body.best_of not in (None, body.n or 1):
        mistake = "best_of", "only the value of n is supported"
    if mistake:
        raise ApiError(400, f"{mistake[0]}: {mistake[1]}", param=mistake[0])


def samplings_of(body: TextRequest, num_prompt_tokens: int, limit: int) -> list[SamplingConfig]:
    """How each of the `n` continuations is drawn. The first has the request's seed, so that it is the one that `n` 1
    gives. Raises ApiError where prompt and `max_tokens` are more than the model reads."""
    newer = getattr(body, "max_completion_tokens", None)
    name, longest = ("max_tokens", body.max_tokens) if newer is None else ("max_completion_tokens", newer)
    if longest is not None and num_prompt_tokens + longest > limit:
        raise ApiError(
            400,
            f"{name}: {longest} and the prompt's {num_prompt_tokens} tokens are more than the model's {limit}",
            param=name,
            code="context_length_exceeded",
        )
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return [
        SamplingConfig(
            max_new_tokens=longest or limit,
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            top_k=body.top_k or 0,
            seed=derive_seed(body.seed, "choice", number) if number and body.seed is not None else body.seed,
            stop=tuple(stop),
        )
        for number in range(body.n or 1)
    ]

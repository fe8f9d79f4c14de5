"""From a ticket to an answer, whole or as server-sent events; a client that leaves cancels its ticket."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from danlu.inference.engine import FinishReason
from danlu.run.errors import UserError
from danlu.serving.batcher import Busy, Closed, Ticket
from danlu.serving.continuation import Continuation, ScoredToken
from danlu.serving.errors import ApiError, from_exception
from danlu.serving.replies import Usage

log = logging.getLogger("danlu.serving")
T = TypeVar("T")


class Form(Protocol):
    """How an endpoint writes continuations."""

    def whole(self, continuations: Sequence[Continuation], usage: Usage) -> BaseModel: ...

    def opening(self, index: int) -> BaseModel | None: ...

    def delta(self, index: int, text: str, tokens: Sequence[ScoredToken]) -> BaseModel: ...

    def ending(self, index: int, finish_reason: FinishReason) -> BaseModel: ...

    def closing(self, usage: Usage) -> BaseModel: ...


class ClientGone(Exception):
    """Nobody is there to be answered."""


async def or_gone(receive: Receive, work: Awaitable[T]) -> T:
    """What `work` gives. Raises ClientGone, and cancels the work, when the client closes its connection first."""

    async def leave() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(leave())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def usage_of(num_prompt_tokens: int, continuations: Sequence[Continuation]) -> Usage:
    """What was read and drawn."""
    drawn = sum(continuation.num_tokens for continuation in continuations)
    return Usage(prompt_tokens=num_prompt_tokens, completion_tokens=drawn, total_tokens=num_prompt_tokens + drawn)


async def whole_answer(
    ticket: Ticket, form: Form, continuations: Sequence[Continuation], num_prompt_tokens: int
) -> BaseModel:
    """The unstreamed answer, when everything has come. Raises ApiError for what the engine raised."""
    try:
        async for piece in ticket:
            continuations[piece.index].add(piece)
        return form.whole(continuations, usage_of(num_prompt_tokens, continuations))
    except Exception as error:
        raise _known(error) from error
    finally:
        ticket.cancel()


async def events(
    ticket: Ticket, form: Form, continuations: Sequence[Continuation], num_prompt_tokens: int, include_usage: bool
) -> AsyncGenerator[str]:
    """The data of each event; nothing before the first token is there, so that an error can still be a status."""
    opened = False
    try:
        async for piece in ticket:
            if not opened:
                for chunk in filter(None, map(form.opening, range(len(continuations)))):
                    yield _data(chunk, include_usage)
                opened = True
            tokens = continuations[piece.index].add(piece)
            if piece.text or tokens:
                yield _data(form.delta(piece.index, piece.text, tokens), include_usage)
            if piece.finish_reason:
                yield _data(form.ending(piece.index, piece.finish_reason), include_usage)
        if include_usage:
            yield _data(form.closing(usage_of(num_prompt_tokens, continuations)), include_usage)
        yield "[DONE]"
    except Exception as error:
        raise _known(error) from error
    finally:
        ticket.cancel()


def _data(chunk: BaseModel, include_usage: bool) -> str:
    """A chunk's JSON. Where usage is asked for, every chunk has the field."""
    values: dict[str, Any] = chunk.model_dump(exclude_unset=True)
    if include_usage:
        values.setdefault("usage", None)
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def _known(error: Exception) -> ApiError:
    """The error as the client is told of it; one that nobody expected is logged."""
    log_unknown(error)
    return from_exception(error)


def log_unknown(error: Exception) -> None:
    """Log an error that nobody expected."""
    if not isinstance(error, ApiError | UserError | Busy | Closed):
        log.error("a reply failed", exc_info=error)


class EventStream(Response):
    """Server-sent events. An error before the first is an answer of its own, a later one is the last event."""

    media_type = "text/event-stream"

    def __init__(self, data: AsyncGenerator[str]) -> None:
        # No proxy may keep events back until there are more of them.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.data = data

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.data):
            try:
                first = await or_gone(receive, anext(self.data))
                await or_gone(receive, self._stream(first, send))
            except ClientGone:
                return
            except ApiError as error:
                await error.response()(scope, receive, send)

    async def _stream(self, first: str, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _send_event(send, first)
        try:
            async for data in self.data:
                await _send_event(send, data)
        except ApiError as error:
            await _send_event(send, json.dumps(error.body(), ensure_ascii=False))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_event(send: Send, data: str) -> None:
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})

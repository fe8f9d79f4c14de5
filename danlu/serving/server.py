"""`danlu serve MODEL`: load a model, answer over HTTP until a signal, let what runs finish."""

import asyncio
import contextlib
import gc
import json
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI

from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Engine
from danlu.inference.load import open_model
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.serving.app import make_app
from danlu.serving.batcher import Batcher
from danlu.serving.config import ServeConfig
from danlu.serving.guard import is_loopback
from danlu.serving.page import mount_page
from danlu.tokenizer.bpe import Tokenizer

KEY_VARIABLE = "DANLU_API_KEY"

GRACE_SECONDS = 3
"""For clients that are slow to read the end of their answer: our choice."""

HEAD_SECONDS = 10.0
"""In which the head of a request must have come. Our choice, above the 5 seconds after which uvicorn itself closes a
connection that stays open without a further request."""


def serve(config: ServeConfig) -> None:
    """Serve until SIGINT or SIGTERM. Raises UserError for a folder that is not a chat model and an address in use."""
    name = config.model_name or config.model.resolve().name
    api_key = config.api_key if config.api_key is not None else os.environ.get(KEY_VARIABLE)
    if api_key is not None and not api_key.strip():
        # An unset shell variable must not open the server to everyone.
        raise UserError("the key is empty", where=f"--api-key or {KEY_VARIABLE}", mend="Leave both out for no key")
    # First, because a large model takes long to load; who connects meanwhile waits.
    with open_socket(config.host, config.port) as listener:
        model, tokenizer = open_model(config.model, config)
        _ = tokenizer.stop_ids  # Without Qwen's control tokens there is no chat: raises UserError.
        engine = make_engine(config, model, tokenizer)
        batcher = Batcher(engine, config.max_waiting)
        app = make_app(
            batcher,
            tokenizer,
            name,
            api_key=api_key and api_key.strip(),
            is_loopback=is_loopback(listener.getsockname()[0]),
            max_body_bytes=config.max_body_bytes,
            body_seconds=config.body_seconds,
        )
        has_page = config.page and add_page(app, batcher, tokenizer, name)
        print(greeting(name, listener, bool(api_key), has_page), file=sys.stderr, flush=True)
        settings = uvicorn.Config(
            app,
            http="h11",  # Its heads have a greatest size.
            log_level="warning",
            access_log=False,
            lifespan="on",
        )
        # What is here stays. Without this the collector walks over all of it while it reads a body of millions of
        # small lists: 1.7 s instead of 0.3 for one of 4 MB.
        gc.collect()
        gc.freeze()
        DrainingServer(settings, batcher, config.drain_seconds).run(sockets=[listener])


def make_engine(config: ServeConfig, model: Transformer, tokenizer: Tokenizer) -> Engine:
    """The engine with its cache. Raises UserError for a length that the model has not, and too large a cache."""
    longest, length = model.config.max_position_embeddings, config.max_length
    if length is not None and length > longest:
        raise UserError(f"the model reads {longest} tokens, not {length}", where="--max-length", mend="Lower it")
    try:
        return Engine.for_text(
            model, tokenizer, SamplingConfig(), config.max_rows, max_length=length, hide_special=True
        )
    except RuntimeError as error:
        raise UserError(
            f"there is no memory for {config.max_rows} rows of {length or longest} tokens",
            mend="Lower --max-rows or --max-length",
        ) from error


def add_page(app: FastAPI, batcher: Batcher, tokenizer: Tokenizer, name: str) -> bool:
    """Whether the page is there now; a line says why it is not, since the API works without it."""
    try:
        mount_page(app, batcher, tokenizer, name)
    except UserError as error:
        print(f"danlu: {error}", file=sys.stderr, flush=True)
        return False
    return True


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens at an address. Raises UserError where that cannot be."""
    listener: socket.socket | None = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        # By the protocol's number asyncio knows that it is TCP and sends each event at once; `socket.create_server`
        # leaves it out, and events then wait 40 ms for the receipt of the one before.
        listener = socket.socket(family, kind, socket.IPPROTO_TCP)
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
        return listener
    except (OSError, UnicodeError) as error:
        if listener:
            listener.close()
        why = error.strerror if isinstance(error, OSError) else "no such name"
        raise UserError(
            f"cannot listen there: {why}", where=f"{host}:{port}", mend="Choose another --port or --host"
        ) from error


def greeting(name: str, listener: socket.socket, has_key: bool, has_page: bool = False) -> str:
    """How to use the server."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    example = {"model": name, "messages": [{"role": "user", "content": "你好"}]}
    key = "-H 'Authorization: Bearer KEY' " if has_key else ""
    lines = [
        f"{name} at http://{shown}:{port}/v1 (OpenAI's API). Try:",
        f"  curl http://{shown}:{port}/v1/chat/completions {key}-H 'Content-Type: application/json' \\",
        f"    -d {shlex.quote(json.dumps(example, ensure_ascii=False))}",
    ]
    if has_page:
        lines.append(f"Or chat at http://{shown}:{port}/{' (any user name, KEY as the password)' if has_key else ''}")
    if not is_loopback(host) and not has_key:
        lines.append(f"Whoever reaches this address can use it; set {KEY_VARIABLE} to ask for a key.")
    return "\n".join([*lines, "Ctrl-C ends it, after the running answers."])


class DrainingServer(uvicorn.Server):
    """uvicorn, whose end is the batcher's: on the first signal nothing new is taken and what runs may finish for a
    while; a second SIGINT ends at once. The process then ends like after any other work, not by the signal."""

    def __init__(self, settings: uvicorn.Config, batcher: Batcher, drain_seconds: float) -> None:
        super().__init__(settings)
        self.batcher, self.drain_seconds = batcher, drain_seconds
        self._heads: dict[Any, float] = {}
        """Since when a connection's next head is waited for."""

    async def on_tick(self, counter: int) -> bool:
        """uvicorn calls this ten times a second."""
        now = time.monotonic()
        waiting = [each for each in self.server_state.connections if _waits_for_head(each)]
        self._heads = {connection: self._heads.get(connection, now) for connection in waiting}
        for connection, since in self._heads.items():
            if now - since > HEAD_SECONDS:
                connection.transport.abort()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.create_task(self._drain())
        await super().shutdown(sockets)
        draining.cancel()
        await asyncio.to_thread(self.batcher.close)
        if self.force_exit:
            self._hang_up()
            if self.server_state.tasks:
                await asyncio.wait(self.server_state.tasks, timeout=GRACE_SECONDS)
            await self.lifespan.shutdown()

    async def _drain(self) -> None:
        """Close the batcher, then the connections that stay open without an answer, as an open page's does."""
        answered = asyncio.create_task(asyncio.to_thread(self.batcher.close, self.drain_seconds))
        grace = float(GRACE_SECONDS)
        while grace > 0 and not self.force_exit:
            await asyncio.sleep(0.1)
            grace -= 0.1 * answered.done()
        self._hang_up()

    def _hang_up(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _waits_for_head(connection: Any) -> bool:
    """Whether no whole head of a next request has come. A page's websocket has none to come."""
    protocol = getattr(connection, "conn", None)
    return protocol is not None and protocol.their_state is h11.IDLE

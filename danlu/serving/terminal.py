"""`danlu chat MODEL`: talk with a model in the terminal.

In: messages and commands from standard input. Out: the replies alone on standard output, as they come; the banner,
prompts and advice elsewhere, so that `danlu chat` works in a pipe too.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from danlu.inference.load import open_model
from danlu.model.describe import describe
from danlu.run.errors import UserError
from danlu.serving.config import ChatConfig
from danlu.serving.conversation import Conversation
from danlu.serving.reader import Reader, keep_terminal, open_reader
from danlu.serving.session import ChatSession

_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
"""Characters that command a terminal; a reply must not."""


def chat(config: ChatConfig) -> None:
    """Talk until `/quit` or the end of the input. Raises UserError for a folder that is not a chat model."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        raise UserError("standard input, output or error is closed", where="danlu chat")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # A reply must not end the session.
    try:
        with keep_terminal(), end_on_sigterm():
            converse(_open_session(config), open_reader())
    except KeyboardInterrupt:  # While the model was read, or from a pipe: an end like any other.
        _say("")


def _open_session(config: ChatConfig) -> ChatSession:
    model, tokenizer = open_model(config.model, config)
    session = ChatSession(
        model=model,
        tokenizer=tokenizer,
        sampling=config.sampling,
        write=_write,
        say=_say,
        conversation=Conversation(config.system),
    )
    size = describe("", model.config, session.engine.limit).num_parameters
    _say(
        f"{config.model}: {size / 1e6:,.1f}M parameters, reads {session.engine.limit} tokens. "
        "/help shows the commands, /quit or Ctrl-D ends."
    )
    return session


def converse(session: ChatSession, reader: Reader) -> None:
    """Take message after message until the session or the input ends; Ctrl-C on a terminal begins a new line."""
    while True:
        try:
            if not session.handle(reader.read()):
                return
        except EOFError:
            if reader.is_terminal:
                _say("")
            return
        except KeyboardInterrupt:
            if not reader.is_terminal:
                raise
            _say("")


def _write(piece: str) -> None:
    """A piece of a reply to standard output."""
    print(piece.translate(_CONTROLS) if sys.stdout.isatty() else piece, end="", flush=True)


def _say(line: str) -> None:
    """A line that is not the model's to standard error."""
    print(line.translate(_CONTROLS), file=sys.stderr, flush=True)


@contextmanager
def end_on_sigterm() -> Iterator[None]:
    """SIGTERM unwinds the stack, so that the terminal gets its settings back. Only the main thread can arrange it."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

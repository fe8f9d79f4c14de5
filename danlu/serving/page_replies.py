"""The page without its looks: a message and the conversation so far in, what is to be shown out, step by step.

The browser keeps the conversation and brings it with each message, so nothing of it stays on the server.
"""

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from danlu.inference.config import SamplingConfig
from danlu.run.errors import UserError
from danlu.serving.answers import log_unknown
from danlu.serving.batcher import Batcher, Busy, Closed, Piece, Ticket
from danlu.serving.conversation import REPLY_SHARE, Conversation
from danlu.serving.page_texts import Texts
from danlu.serving.protocol import MAX_STOPS
from danlu.tokenizer.bpe import Tokenizer

Message = dict[str, str]

GATHER_SECONDS = 0.05
"""Pieces that come within this time are shown together: our choice, quicker than reading and slow enough that the
page's own work stays small."""

BEAT_SECONDS = 0.5
"""So often a waiting reply looks whether anybody is still there: our choice."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What the page shows."""

    history: list[Message]
    notice: str = ""
    """A line that is not the model's."""
    is_running: bool = False
    is_accepted: bool = True
    """Whether the message stands in `history`; if not, it is still to be sent."""


SEED = re.compile("[-+]?[0-9]{1,19}")


def most_tokens(limit: int) -> int:
    """The longest answer as the settings begin: what the conversation keeps free for it, and no less than elsewhere."""
    return min(limit, max(SamplingConfig().max_new_tokens, limit // REPLY_SHARE))


def sampling_of(
    limit: int,
    temperature: float | None,
    top_p: float | None,
    top_k: float | None,
    max_tokens: float | None,
    seed: str,
    stops: str,
) -> SamplingConfig:
    """The settings as they stand in the page, an empty one as it was at first. Raises ValueError for what cannot be."""
    default = SamplingConfig()
    stop = tuple(line.replace("\\n", "\n") for line in stops.splitlines() if line)
    if len(stop) > MAX_STOPS:
        raise ValueError(f"at most {MAX_STOPS} texts can end an answer, not {len(stop)}")
    if seed.strip() and not (SEED.fullmatch(seed.strip()) and -(2**63) <= int(seed) < 2**63):
        raise ValueError(f"seed must be a whole number of 64 bits at most, not {seed.strip()[:40]!r}")
    return SamplingConfig(
        temperature=default.temperature if temperature is None else temperature,
        top_p=default.top_p if top_p is None else top_p,
        top_k=default.top_k if top_k is None else int(top_k),
        max_new_tokens=most_tokens(limit) if max_tokens is None else int(max_tokens),
        seed=int(seed) if seed.strip() else None,
        stop=stop,
    )


def conversation_of(history: Sequence[Message], system: str) -> Conversation:
    """The conversation that the browser brought. Raises UserError where it is not question and answer in turn."""
    conversation = Conversation(system if system.strip() else None)
    roles = [message["role"] for message in history]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise UserError("the conversation is not question and answer in turn")
    for user, assistant in zip(history[::2], history[1::2], strict=True):
        conversation.add(user["content"], assistant["content"])
    return conversation


class Replies:
    """Answers the messages of all pages; a page is known by a name of its own."""

    def __init__(self, batcher: Batcher, tokenizer: Tokenizer) -> None:
        self._batcher, self._tokenizer = batcher, tokenizer
        self._tickets: dict[str, Ticket] = {}

    def stop(self, page: str) -> None:
        """End the reply that a page is getting; it keeps what it has got."""
        if page in self._tickets:
            self._tickets[page].cancel()

    async def answer(
        self, page: str, history: list[Message], message: str, system: str, sampling: SamplingConfig, texts: Texts
    ) -> AsyncGenerator[View]:
        """What to show while the reply comes, and at last when it is there or was cut. Raises UserError for a history
        that no page has."""
        limit, conversation = self._batcher.max_length, conversation_of(history, system)
        try:
            prompt_ids = await asyncio.to_thread(
                conversation.prompt, self._tokenizer, message, limit, sampling.max_new_tokens
            )
        except UserError:
            yield View(history=history, notice=texts.too_long.format(limit=limit), is_accepted=False)
            return
        try:
            ticket = self._batcher.submit([prompt_ids], [sampling])
        except (Busy, Closed) as error:
            yield View(history=history, notice=texts.of_error(error), is_accepted=False)
            return
        self.stop(page)
        self._tickets[page] = ticket
        gone = conversation.left_out // 2
        left_out = texts.left_out.format(limit=limit, count=gone) if gone else ""
        reply = _Reply(texts=texts, sampling=sampling, room=limit - len(prompt_ids), limit=limit)
        asked = [*history, {"role": "user", "content": message}]
        try:
            yield reply.view(asked, left_out, is_running=True)
            async for pieces in gathered(ticket):
                reply.add(pieces)
                waits = reply.last is None and self._batcher.num_waiting > 0
                yield reply.view(asked, texts.waiting if waits else left_out, is_running=True)
        except Exception as error:
            # Told apart from the reader's leaving, which is no Exception.
            log_unknown(error)
            reply.error = error
        finally:
            ticket.cancel()
            if self._tickets.get(page) is ticket:
                del self._tickets[page]
        yield reply.view(asked, left_out, is_running=False)


@dataclass(kw_only=True)
class _Reply:
    """What has come of one reply."""

    texts: Texts
    sampling: SamplingConfig
    room: int
    limit: int
    text: str = ""
    last: Piece | None = None
    error: Exception | None = None

    def add(self, pieces: list[Piece]) -> None:
        self.text += "".join(piece.text for piece in pieces)
        self.last = pieces[-1] if pieces else self.last

    def view(self, asked: list[Message], notice: str, is_running: bool) -> View:
        return View(
            history=[*asked, {"role": "assistant", "content": self.text}],
            notice=notice if is_running else " ".join(filter(None, (self._ending(), notice))),
            is_running=is_running,
        )

    def _ending(self) -> str:
        """Why it ended, where that needs a word."""
        if self.error:
            return self.texts.of_error(self.error)
        if self.last is None or self.last.finish_reason is None:
            return self.texts.stopped
        if self.last.finish_reason == "stop":
            return ""
        if self.sampling.max_new_tokens <= self.room:
            return self.texts.cut.format(count=self.sampling.max_new_tokens)
        return self.texts.full.format(limit=self.limit)


async def gathered(
    ticket: Ticket, gather_seconds: float = GATHER_SECONDS, beat_seconds: float = BEAT_SECONDS
) -> AsyncGenerator[list[Piece]]:
    """The pieces that came close together; an empty list whenever nothing has come for a while."""
    clock = asyncio.get_running_loop().time
    pieces: list[Piece] = []
    due = math.inf
    while True:
        try:
            # What comes at the very moment of the time-out stays in the ticket's queue.
            async with asyncio.timeout(due - clock() if pieces else beat_seconds):
                pieces.append(await anext(ticket))
            due = min(due, clock() + gather_seconds)
        except TimeoutError:
            yield pieces
            pieces, due = [], math.inf
        except StopAsyncIteration:
            break
    if pieces:
        yield pieces

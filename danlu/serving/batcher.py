"""Continuous batching: one worker thread owns the engine, requests join and leave between two decoding steps.

In: tickets, each with prompts and how to continue them. Out: for each ticket pieces of its continuations, in the event
loop that handed it in. Knows nothing of HTTP.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field

from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Alternatives, Engine, FinishReason, NotFinite
from danlu.inference.engine import Sequence as Row
from danlu.run.errors import UserError

READ_AT_ONCE = 512
"""Tokens of prompts that are read between two decoding steps: our choice, so that neither a crowd of new requests nor a
long one holds up those that are being answered."""

log = logging.getLogger("danlu.serving")


class Busy(Exception):
    """As many requests wait as may; the same request may be accepted later."""


class Closed(Exception):
    """The server is ending and takes no more; or it has ended before this request was done."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What a step has added to one continuation of a ticket."""

    index: int
    """Which one: continuations of the first prompt first."""
    text: str
    """Certain text, often empty: never half a character, never a part of a stop string."""
    token_ids: list[int]
    """Tokens drawn since the last piece, the end token left out."""
    alternatives: list[Alternatives]
    """Of these tokens, where the ticket asked for them."""
    finish_reason: FinishReason | None = None
    """`stop` or `length` in the last piece of a continuation."""
    stop_string: str | None = None
    """The stop string that ended it; the last tokens may reach into it."""
    num_tokens: int = 0
    """Tokens drawn so far, the end token included."""


class Ticket:
    """A request that was accepted: iterate over it for its pieces, or `cancel` it.

    async for piece in batcher.submit([prompt_ids], [sampling]): ...

    The iteration raises UserError for what the engine refuses, Closed when the server ends, and whatever else went
    wrong in the engine. It ends early after `cancel`.
    """

    def __init__(self, num_continuations: int, stop_ids: Iterable[int], num_alternatives: int | None) -> None:
        self.stop_ids, self.num_alternatives = tuple(stop_ids), num_alternatives
        self.over = False
        """Whether the worker need not go on with it."""
        self._going = num_continuations
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[list[Piece] | Exception | None] = asyncio.Queue()
        self._pieces: deque[Piece] = deque()

    def cancel(self) -> None:
        """Give the rows back before the next decoding step. Any thread may call it, at any time, more than once."""
        self.tell(None)

    def tell(self, news: list[Piece] | Exception | None) -> None:
        """Hand over pieces, or the end: an error, or None. A loop that is gone takes nothing: that is the end too."""
        self.over |= not isinstance(news, list)
        try:
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)
        except RuntimeError:
            self.over = True

    def __aiter__(self) -> "Ticket":
        return self

    async def __anext__(self) -> Piece:
        while not self._pieces:
            news = await self._news.get() if self._going else None
            if not isinstance(news, list):
                self._going = 0
                raise news or StopAsyncIteration
            self._pieces.extend(news)
        piece = self._pieces.popleft()
        self._going -= piece.finish_reason is not None
        return piece


@dataclass(kw_only=True)
class _Job:
    """One prompt of a ticket, its continuations numbered from `first_index`, and the rows that hold them."""

    ticket: Ticket
    prompt_ids: list[int]
    samplings: Sequence[SamplingConfig]
    first_index: int
    rows: dict[int, int] = field(default_factory=dict)
    """Index of the continuation in each row that is going on."""
    num_told: dict[int, int] = field(default_factory=dict)
    """Tokens of each row that were handed over."""

    def alike(self, other: "_Job") -> bool:
        """Whether the engine can admit both together."""
        mine, theirs = self.ticket, other.ticket
        same = (mine.num_alternatives, mine.stop_ids) == (theirs.num_alternatives, theirs.stop_ids)
        return same and len(self.samplings) == len(other.samplings)


class Batcher:
    """Serves tickets in the order they came, up to the engine's number of rows at once."""

    def __init__(self, engine: Engine, max_waiting: int = 100) -> None:
        """The engine belongs to the batcher from now on. `max_waiting` prompts may wait for rows."""
        self.max_rows, self.max_length, self.max_waiting = len(engine.free), engine.limit, max_waiting
        self._engine = engine
        self._waiting: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._reading: tuple[_Job, Generator[None, None, list[int]]] | None = None
        """The job whose long prompt is read piece by piece."""
        self._changed = threading.Condition()
        self._closing = False
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it takes tickets."""
        return self._thread.is_alive() and not self._closing

    @property
    def num_running(self) -> int:
        """Rows in use."""
        reading = self._reading
        return sum(len(job.rows) for job in list(self._running)) + (len(reading[0].samplings) if reading else 0)

    @property
    def num_waiting(self) -> int:
        """Prompts that wait for rows."""
        return len(self._waiting)

    def submit(
        self,
        prompts: Sequence[list[int]],
        samplings: Sequence[SamplingConfig],
        num_alternatives: int | None = None,
        stop_ids: Iterable[int] = (),
    ) -> Ticket:
        """Continue every prompt once for each of `samplings`; to be called in the event loop that will iterate.

        Raises UserError for a prompt that does not fit and for more continuations of one than there are rows, Busy
        when too much waits already, Closed when the server is ending.
        """
        self.check(prompts, len(samplings))
        ticket = Ticket(len(prompts) * len(samplings), stop_ids, num_alternatives)
        jobs = [
            _Job(ticket=ticket, prompt_ids=prompt_ids, samplings=samplings, first_index=number * len(samplings))
            for number, prompt_ids in enumerate(prompts)
        ]
        with self._changed:
            if self._closing:
                raise Closed("the server is shutting down")
            if len(self._waiting) + len(jobs) > self.max_waiting:
                raise Busy(f"{len(self._waiting)} prompts wait already; at most {self.max_waiting} may")
            self._waiting.extend(jobs)
            self._changed.notify()
        return ticket

    def check(self, prompts: Sequence[list[int]], copies: int) -> None:
        """UserError for what could never be served."""
        for prompt_ids in prompts:
            self._engine.check(prompt_ids)
        if copies > self.max_rows:
            raise UserError(f"{copies} continuations of a prompt, the server has {self.max_rows} rows")

    def close(self, drain_s: float = 0.0) -> None:
        """Take no more, let what was accepted finish for up to `drain_s` seconds, end the rest with Closed. Blocks
        until the worker has ended; may be called again to shorten the time."""
        with self._changed:
            self._closing = True
            self._deadline = min(self._deadline, time.monotonic() + drain_s)
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        """The worker: between two steps rows are given back and taken."""
        while self._wait_for_work():
            try:
                self._drop()
                self._admit()
                self._hand_over_all()
                self._engine.step()
                self._hand_over_all()
            except NotFinite as error:
                self._end([job for job in self._running if job.rows.keys() & error.rows], error)
            except Exception as error:
                # No request may end the server. A step that fails half way leaves rows that differ in length from
                # what their tickets were told, so all that were running end with the error.
                if not isinstance(error, UserError):
                    log.exception("a decoding step failed")
                self._end(list(self._running), error)
        self._end(list(self._running), Closed("the server was shut down before the reply was complete"))

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False when the worker is to end."""
        with self._changed:
            while not (self._waiting or self._running or self._reading or self._closing):
                self._changed.wait()
            done = not (self._waiting or self._running or self._reading)
            return not (self._closing and (done or time.monotonic() >= self._deadline))

    def _drop(self) -> None:
        for job in [job for job in self._running if job.ticket.over]:
            self._leave(job)
        if self._reading and self._reading[0].ticket.over:
            self._stop_reading()
        with self._changed:
            if any(job.ticket.over for job in self._waiting):
                self._waiting = deque(job for job in self._waiting if not job.ticket.over)

    def _admit(self) -> None:
        """Take in those that wait, first come first served, as far as rows are free."""
        if self._reading:
            self._read_on(*self._reading)
            return
        jobs = self._next_jobs()
        if jobs and len(jobs[0].prompt_ids) > READ_AT_ONCE:
            (job,) = jobs
            more = len(job.samplings), job.samplings, job.ticket.num_alternatives, job.ticket.stop_ids
            self._reading = job, self._engine.admit_in_pieces(job.prompt_ids, READ_AT_ONCE, *more)
            self._read_on(*self._reading)
            return
        try:
            self._read(jobs)
        except NotFinite:
            # One prompt's fault is not that of the others which were to be read with it.
            for job in jobs:
                try:
                    self._read([job])
                except NotFinite as error:
                    _tell([job], error)

    def _read_on(self, job: _Job, pieces: Generator[None, None, list[int]]) -> None:
        """Read the next piece of a long prompt."""
        try:
            next(pieces)
        except StopIteration as end:
            self._reading = None
            self._start(job, end.value)
        except Exception as error:
            self._reading = None
            _log_unknown(error)
            _tell([job], error)

    def _stop_reading(self) -> _Job:
        """Give back the rows of the prompt that is being read; its job."""
        assert self._reading
        (job, pieces), self._reading = self._reading, None
        pieces.close()
        return job

    def _start(self, job: _Job, rows: list[int]) -> None:
        """From now on the job's continuations grow in these rows."""
        job.rows = {row: job.first_index + copy for copy, row in enumerate(rows)}
        self._running.append(job)

    def _read(self, jobs: list[_Job]) -> None:
        """Have the engine read the prompts of jobs. Raises NotFinite, with none of them admitted."""
        if not jobs:
            return
        ticket, copies = jobs[0].ticket, len(jobs[0].samplings)
        try:
            rows = self._engine.admit_all(
                [job.prompt_ids for job in jobs],
                copies,
                [sampling for job in jobs for sampling in job.samplings],
                ticket.num_alternatives,
                ticket.stop_ids,
            )
        except NotFinite:
            raise
        except Exception as error:
            _log_unknown(error)
            _tell(jobs, error)
            return
        for number, job in enumerate(jobs):
            self._start(job, rows[number * copies : (number + 1) * copies])

    def _next_jobs(self) -> list[_Job]:
        """Those at the front of the queue that can be read together: alike in what the engine takes for all of its
        rows, no more than free rows, and not much to read at once."""
        jobs: list[_Job] = []
        with self._changed:
            while self._waiting:
                job, rows = self._waiting[0], (len(jobs) + 1) * len(self._waiting[0].samplings)
                num_tokens = sum(len(other.prompt_ids) for other in [*jobs, job])
                if rows > len(self._engine.free) or (jobs and not (job.alike(jobs[0]) and num_tokens <= READ_AT_ONCE)):
                    break
                jobs.append(self._waiting.popleft())
        return jobs

    def _hand_over_all(self) -> None:
        for job in list(self._running):
            self._hand_over(job)

    def _hand_over(self, job: _Job) -> None:
        """Tell the ticket what is new; rows that have ended leave."""
        pieces = [piece for row, index in job.rows.items() if (piece := self._piece(job, row, index))]
        if pieces:
            job.ticket.tell(pieces)
        for row in [row for row in job.rows if self._engine.rows[row].finish_reason]:
            self._engine.remove(row)
            del job.rows[row]
        if not job.rows:
            self._running.remove(job)

    def _piece(self, job: _Job, row: int, index: int) -> Piece | None:
        sequence: Row = self._engine.rows[row]
        assert sequence.text is not None, "the engine of a batcher needs a tokenizer"
        text, told = sequence.text.take(), job.num_told.get(row, 0)
        if not (text or sequence.finish_reason or sequence.alternatives[told:]):
            return None
        job.num_told[row] = len(sequence.output_ids)
        return Piece(
            index=index,
            text=text,
            token_ids=sequence.output_ids[told:],
            alternatives=sequence.alternatives[told : len(sequence.output_ids)],
            finish_reason=sequence.finish_reason,
            stop_string=sequence.text.stopped,
            num_tokens=len(sequence.response_ids),
        )

    def _leave(self, job: _Job) -> None:
        for row in job.rows:
            self._engine.remove(row)
        job.rows = {}
        self._running.remove(job)

    def _end(self, jobs: list[_Job], error: Exception) -> None:
        """End jobs that run with an error; when the server is ending also what waits."""
        for job in jobs:
            self._leave(job)
        if isinstance(error, Closed):
            jobs = [*jobs, self._stop_reading()] if self._reading else jobs
            with self._changed:
                jobs = [*jobs, *self._waiting]
                self._waiting.clear()
        _tell(jobs, error)


def _log_unknown(error: Exception) -> None:
    if not isinstance(error, UserError):
        log.error("a prompt could not be read", exc_info=error)


def _tell(jobs: Iterable[_Job], error: Exception) -> None:
    """Tell each ticket of the jobs once what went wrong."""
    for job in jobs:
        if not job.ticket.over:
            job.ticket.tell(error)

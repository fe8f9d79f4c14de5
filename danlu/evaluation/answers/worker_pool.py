"""Processes that compare answers, kept for the next pair, ended when one takes too long.

In: a request. Out: the verdict, or None where the time was over. From any thread; started when first needed, ended
with the program. Time limits are kept here because signals, which math-verify takes for its own, reach the main thread
alone.
"""

import atexit
import contextlib
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danlu.run.errors import UserError

START_S = 120.0
"""Seconds in which a process has to be ready. Our choice: it takes one or two where nothing else runs."""

MOST_WORKERS = max(1, min(4, os.cpu_count() or 1))
WALL_FACTOR = 6.0
"""Wall time of a pair: so many times its CPU time. Our choice, as for programs in the sandbox: a busy machine must not
change a verdict."""

MODULE = "danlu.evaluation.answers.worker"
ROOT = Path(__file__).parents[3]
"""The folder that the package lies in."""


def require_math_verify() -> None:
    """UserError where math-verify is not installed; it is not imported for that."""
    try:
        found = importlib.util.find_spec("math_verify")
    except ValueError:
        found = None
    if found is None:
        raise UserError("math-verify is not installed", mend="pip install 'danlu[eval]'")


class WorkerEnded(Exception):
    """The process is no longer there."""


class Worker:
    """One process."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            # A Ctrl-C at the terminal is for the program alone.
            start_new_session=True,
        )
        try:
            ready = self._line(START_S)
        except WorkerEnded:
            ready = None
        if ready is None:
            self.end()
            raise RuntimeError(f"the process that compares answers does not start: python -m {MODULE}")

    def ask(self, request: Mapping[str, Any], cpu_s: float) -> bool | None:
        """The verdict; None where `cpu_s` CPU seconds were not enough for it. Raises WorkerEnded."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({**request, "cpu_s": cpu_s}).encode() + b"\n")
            self.process.stdin.flush()
            line = self._line(WALL_FACTOR * cpu_s)
        except (BrokenPipeError, WorkerEnded):
            if self.process.wait() == -signal.SIGXCPU:
                return None
            raise WorkerEnded from None
        return None if line is None else bool(json.loads(line))

    def _line(self, timeout_s: float) -> bytes | None:
        assert self.process.stdout is not None
        deadline, line = time.monotonic() + timeout_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                read = os.read(self.process.stdout.fileno(), 4096)
                if not read:
                    raise WorkerEnded
                line += read
        return line

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class Pool:
    """Idle processes, and room for as many as there are cores, at most four."""

    def __init__(self) -> None:
        self.idle: list[Worker] = []
        self.lock = threading.Lock()
        self.room = threading.BoundedSemaphore(MOST_WORKERS)

    def ask(self, request: Mapping[str, Any], cpu_s: float) -> bool | None:
        """The verdict of any process. One that gives none is ended.

        Where a process ended by itself the pair is asked once more: it may have been killed before it read the pair.
        """
        with self.room:
            try:
                return self._ask(self._idle() or Worker(), request, cpu_s)
            except WorkerEnded:
                with contextlib.suppress(WorkerEnded):
                    return self._ask(Worker(), request, cpu_s)
        return None

    def _ask(self, worker: Worker, request: Mapping[str, Any], cpu_s: float) -> bool | None:
        verdict: bool | None = None
        try:
            verdict = worker.ask(request, cpu_s)
        finally:
            # Also after an interrupt: the next pair must not read this one's verdict.
            if verdict is None:
                worker.end()
        if verdict is not None:
            with self.lock:
                self.idle.append(worker)
        return verdict

    def _idle(self) -> Worker | None:
        with self.lock:
            while self.idle:
                worker = self.idle.pop()
                if worker.process.poll() is None:
                    return worker
                worker.end()
        return None

    def close(self) -> None:
        with self.lock:
            for worker in self.idle:
                worker.end()
            self.idle.clear()


POOL = Pool()


def _after_fork() -> None:
    """A forked program must not write to its parent's processes."""
    global POOL
    POOL = Pool()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(lambda: POOL.close())


def ask(request: Mapping[str, Any], cpu_s: float) -> bool | None:
    """The verdict of a process of this program's pool; None where it takes more than `cpu_s` CPU seconds."""
    return POOL.ask(request, cpu_s)

"""The process that scores documents, and can be lost: every extractor has pages on which it never comes back.

In: over a pipe, a `Scorer` and then lists of `Record`s. Out: a row for each record, as soon as it is done. The kernel
ends this process when one record takes too much processor time (a signal that no code can hold up) or memory; whoever
started it sees that it is gone, counts that record as dropped, and goes on with another one. Run as
`python -m danlu.corpus.child`; `Child` is the other end.
"""

import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from danlu.corpus.records import Record
from danlu.corpus.score import Scorer, blank_row
from danlu.run.errors import UserError

WALL_TIMES = 6
"""Seconds by the clock for a record, in multiples of those of the processor: on a busy machine a page waits."""
ENDED_BY = {signal.SIGPROF: "too_slow", signal.SIGALRM: "too_slow", signal.SIGXCPU: "too_slow"}
"""Reasons by the signal that ended the process; any other end is `extractor_died`."""


class Child:
    """A scoring process; a new one is started when it is needed."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.process: subprocess.Popen[bytes] | None = None

    def rows(self, records: list[Record]) -> Iterator[dict[str, Any]]:
        """A row for each record, in order. Raises UserError for what no record is to blame for, such as a broken
        model. Where the rows are not taken to their end the process goes: it would answer for the wrong records."""
        try:
            yield from self.all_rows(records)
        except BaseException:
            self.close()
            raise

    def all_rows(self, records: list[Record]) -> Iterator[dict[str, Any]]:
        done = 0
        while done < len(records):
            process = self.process or self.start()
            streams = process.stdin, process.stdout
            assert streams[0] is not None
            assert streams[1] is not None
            try:
                pickle.dump(records[done:], streams[0], protocol=pickle.HIGHEST_PROTOCOL)
                streams[0].flush()
                for _ in range(len(records) - done):
                    row = pickle.load(streams[1])
                    if isinstance(row, UserError):
                        raise row
                    yield row
                    done += 1
            except (EOFError, BrokenPipeError, pickle.UnpicklingError):
                reason = ENDED_BY.get(signal.Signals(-code) if (code := process.wait()) < 0 else code, "extractor_died")  # type: ignore[call-overload]
                self.close()
                yield blank_row(records[done]) | {"step": "extract", "reason": reason}
                done += 1

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process and send it the scorer. Raises UserError where it does not come up: no document is to
        blame for that."""
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "danlu.corpus.child"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, stderr=subprocess.DEVNULL
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            pickle.dump(self.scorer, self.process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self.process.stdin.flush()
            answer = pickle.load(self.process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            self.close()
            mend = "Try it by hand: python -m danlu.corpus.child </dev/null"
            raise UserError("the process that scores documents does not start", mend=mend) from error
        if isinstance(answer, UserError):
            self.close()
            raise answer
        return self.process

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
            self.process.wait()
            self.process = None


def serve(incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Score what comes in until nothing more does."""
    scorer: Scorer = pickle.load(incoming)
    # Libraries and models are loaded before time and memory are counted.
    pickle.dump(warm_up(scorer), outgoing, protocol=pickle.HIGHEST_PROTOCOL)
    outgoing.flush()
    limit_memory(scorer.config.page_megabytes)
    seconds = scorer.config.page_seconds
    while True:
        try:
            records = pickle.load(incoming)
        except EOFError:
            return
        for record in records:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.setitimer(signal.ITIMER_REAL, WALL_TIMES * seconds)
            answer = scored(scorer, record)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            pickle.dump(answer, outgoing, protocol=pickle.HIGHEST_PROTOCOL)
            outgoing.flush()


def scored(scorer: Scorer, record: Record) -> dict[str, Any] | UserError:
    """The row of a record; a UserError is handed on. Any other fault is the record's, and says what it was."""
    try:
        return scorer.row(record)
    except UserError as error:
        return error
    except (ImportError, OSError) as error:
        # Scoring reads no file of the document's: something is wrong here.
        return UserError(f"documents cannot be scored ({type(error).__name__}: {error})")
    except MemoryError:
        return blank_row(record) | {"step": "extract", "reason": "too_much_memory"}
    except Exception as error:
        said = f"{type(error).__name__}: {error}"[:300]
        return blank_row(record) | {"step": "extract", "reason": "extractor_failed", "text": said}


def warm_up(scorer: Scorer) -> UserError | None:
    """Open every model and read a page; what is wrong here, if anything is."""
    try:
        scorer.open_models()
    except UserError as error:
        return error
    page = (
        "<html><body><p>" + "A page that has been read once is read faster. 读过一次就快了。" * 9 + "</p></body></html>"
    )
    answer = scored(scorer, Record(record="", source="", url="", kind="page", body=page.encode()))
    return answer if isinstance(answer, UserError) else None


def limit_memory(megabytes: float) -> None:
    """Let this process grow by so much and no more."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        pages = int(stream.read().split()[0])
    limit = pages * resource.getpagesize() + int(megabytes * 1e6)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def main() -> None:
    # Ctrl-C is for whoever started this; the end of the pipe ends this process then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library prints must not get into the rows.
    outgoing = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with suppress(BrokenPipeError):
        serve(sys.stdin.buffer, outgoing)
        outgoing.close()


if __name__ == "__main__":
    main()

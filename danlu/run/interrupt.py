"""Ctrl-C and termination ask a stage to stop between two steps, where it can save what it has done."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """`.signal` is the number of the signal that asked for a stop, 0 until then."""

    signal = 0


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """While inside, the first SIGINT or SIGTERM only sets the request; a second SIGINT interrupts at once.

    Outside the main thread, where Python cannot set handlers, signals keep their usual effect.
    """
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        if request.signal:
            raise KeyboardInterrupt
        request.signal = number
        print("\nStopping after this step; once more to stop at once.", file=sys.stderr, flush=True)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        before = {}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

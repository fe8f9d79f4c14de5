"""The checker's process: runs a problem's own tests against a program that lives in another process.

Started inside the sandbox as `python -I -S checker_side.py JOB`, the number of an open file that holds the job as
JSON: `limits`, `setup` and `tests` (sources, the problem's), `names` (of the functions that the program is asked for),
and the numbers of the files `requests` (written), `replies` (read), `verdict` (written). Standard library only.
"""

import builtins
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).parent))

from limits import confine
from plain_data import from_json, receive, send, to_json


class ProgramError(Exception):
    """The program did not answer with plain data."""


class Function:
    """A function of the tested program."""

    def __init__(self, name: str, requests: BinaryIO, replies: BinaryIO) -> None:
        self.name, self.requests, self.replies = name, requests, replies

    def __call__(self, *positional: Any, **named: Any) -> Any:
        request = {"call": self.name, "positional": to_json(list(positional)), "named": to_json(named)}
        try:
            send(self.requests, request)
            reply = receive(self.replies)
        except BrokenPipeError:
            reply = None
        except ValueError as error:
            raise ProgramError(f"{self.name} did not answer with plain data: {error}") from None
        if reply is None:
            raise ProgramError(f"the program ended while {self.name} was asked")
        if "raised" in reply:
            name, message = reply["raised"]
            kind = getattr(builtins, str(name), None)
            # StopIteration would end a loop of the tests in silence.
            if not (isinstance(kind, type) and issubclass(kind, Exception)) or kind is StopIteration:
                kind, message = ProgramError, f"{name}: {message}"
            raise kind(message)
        if "value" not in reply:
            raise ProgramError(f"{self.name} returned {reply.get('not_plain', 'more than memory holds')}")
        try:
            return from_json(reply["value"])
        except (ValueError, TypeError, KeyError) as error:
            raise ProgramError(f"{self.name} did not answer with plain data: {error}") from None


def main() -> int:
    with os.fdopen(int(sys.argv[1]), encoding="utf-8") as stream:
        job = json.load(stream)
    requests: BinaryIO = os.fdopen(job["requests"], "wb")
    replies: BinaryIO = os.fdopen(job["replies"], "rb")
    verdict: BinaryIO = os.fdopen(job["verdict"], "wb")
    confine(**job["limits"])
    send(verdict, judge(job, requests, replies))
    return 0


def judge(job: dict[str, Any], requests: BinaryIO, replies: BinaryIO) -> dict[str, str]:
    """The verdict as a message: `passed`, or `failed` with a `reason`."""
    try:
        first = receive(replies)
    except ValueError as error:
        return {"status": "failed", "reason": f"the program wrote into its answers: {error}"}
    if first is None:
        return {"status": "failed", "reason": "the program ended before it could be asked"}
    if "raised" in first:
        return {"status": "failed", "reason": ": ".join(map(str, first["raised"]))}
    namespace = {"__name__": "tests"}
    try:
        exec(compile(job["setup"], "setup.py", "exec"), namespace)
        namespace.update({name: Function(name, requests, replies) for name in job["names"]})
        exec(compile(job["tests"], "tests.py", "exec"), namespace)
    except AssertionError as error:
        lines = [line for _, line in traceback.walk_tb(error.__traceback__)]
        return {"status": "failed", "reason": f"line {lines[-1]} of the tests: {str(error) or 'not so'}"[:500]}
    except Exception as error:
        return {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:500]}
    return {"status": "passed"}


if __name__ == "__main__":
    sys.exit(main())

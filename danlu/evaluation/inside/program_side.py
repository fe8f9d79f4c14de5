"""The tested program's process: runs a program, then calls its functions for the checker until that hangs up.

Started inside the sandbox as `python -I -S program_side.py JOB`, the number of an open file that holds the job as
JSON: `limits`, `main` (whether the program is the whole matter or is called), and the numbers of the files `source`
(read), `requests` (read) and `replies` (written). Standard library only. Nothing here is trusted by the other side: a
program may rewrite all of it, and can still do no more than answer with plain data.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from limits import OUT_OF_MEMORY, confine
from plain_data import NotPlainError, from_json, receive, send, to_json


def main() -> int:
    with os.fdopen(int(sys.argv[1]), encoding="utf-8") as stream:
        job = json.load(stream)
    with open(job["source"], encoding="utf-8", closefd=True) as stream:
        source = stream.read()
    replies = os.fdopen(job["replies"], "wb")
    requests = None if job["main"] else os.fdopen(job["requests"], "rb")
    # The limits come last, so that what they leave is the program's.
    confine(**job["limits"])
    namespace = {"__name__": "__main__" if job["main"] else "program"}
    try:
        exec(compile(source, "program.py", "exec"), namespace)
    except MemoryError:
        return OUT_OF_MEMORY
    except BaseException as error:
        send(replies, {"raised": said(error)})
        raise
    send(replies, {"ready": True})
    while requests is not None and (request := receive(requests)):
        send(replies, answer(namespace, request))
    return 0


def answer(namespace: dict, request: dict) -> dict:
    """What the function that is asked for returns, as a message."""
    try:
        function = namespace[request["call"]]
        value = function(*from_json(request["positional"]), **from_json(request["named"]))
    except MemoryError:
        return {"memory": True}
    except Exception as error:
        return {"raised": said(error)}
    try:
        return {"value": to_json(value)}
    except NotPlainError as error:
        return {"not_plain": str(error)}
    except RecursionError:
        return {"not_plain": "a value that is nested too deeply"}


def said(error: BaseException) -> list[str]:
    """An exception's type and message."""
    try:
        return [type(error).__name__, str(error)[:500]]
    except Exception:
        return [type(error).__name__, ""]


if __name__ == "__main__":
    sys.exit(main())

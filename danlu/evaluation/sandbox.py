"""Where programs that a model wrote run: bubblewrap, without network, files of the user, or more than they are given.

In: a program. Out: how it ended. Processes in the sandbox see Python's own files, an empty folder in memory and
nothing else; their time, memory, number and output are limited, and with the first process all others end. Time is CPU
time, so that a busy machine changes no verdict; a wide limit of wall time stops programs that sleep.
"""

import contextlib
import io
import itertools
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

from danlu.evaluation.inside.limits import OUT_OF_MEMORY
from danlu.evaluation.inside.plain_data import receive
from danlu.evaluation.refused_calls import call_filter

Status = Literal["passed", "failed", "timeout", "memory", "refused"]

INSIDE = Path(__file__).parent / "inside"
"""The files that run in the sandbox."""

PYTHON = Path(os.path.realpath(sys.executable))
"""The interpreter, without the packages of an environment: problems need the standard library alone."""

HOME = Path("/python")
"""Where its folder is in the sandbox: the way to it outside may lead through folders that are nobody's business."""

LONGEST_OUTPUT = 1 << 20
"""Bytes of output after which a program is stopped. Our choice: no problem prints as much."""

MOST_PROCESSES = 24
"""Processes and threads of a program. Our choice."""

USERS = range(61184, 65280)
"""Numbers of the users that root gives to programs, one after the other: the kernel counts processes by user, and one
program's must not be counted with another's. Our choice: systemd keeps these for such uses."""

NEXT_USER = itertools.count(os.getpid())

MOST_FILES = 64
"""Files that a process may hold open. Our choice: what pipes and sockets hold is counted nowhere."""

FOLDER_BYTES = 64 << 20
"""Size of each of the two folders that a program may write to, and of a file in them. Our choice."""

WALL_FACTOR, WALL_LEAST_S = 6.0, 20.0
"""Wall time of a program: so many times its CPU time, and at least so many seconds. Our choice: wide enough for a
machine with several times as many programs as cores."""

WATCH_EVERY_S = 0.05
"""How often the memory of all a program's processes together is looked at."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may use."""

    timeout_s: float = 10.0
    """CPU seconds."""
    memory_mb: int = 512
    """Address space of each process, and memory in use of all together."""
    wall_s: float | None = None
    """Wall seconds; by `WALL_FACTOR` and `WALL_LEAST_S` where not given."""

    @property
    def longest_s(self) -> float:
        """Wall seconds."""
        return max(WALL_LEAST_S, WALL_FACTOR * self.timeout_s) if self.wall_s is None else self.wall_s

    def as_job(self) -> dict[str, int]:
        """For `inside/limits.py`, of one process."""
        return {
            "user": USERS[next(NEXT_USER) % len(USERS)],
            "cpu_seconds": max(1, round(self.timeout_s)),
            "memory_bytes": self.memory_mb << 20,
            "processes": MOST_PROCESSES,
            "files": MOST_FILES,
            "file_bytes": FOLDER_BYTES,
        }


@dataclass(kw_only=True)
class ProgramResult:
    """How a program ended: `passed` (ran to its end without an exception), `failed`, `timeout`, `memory`, `refused`
    (it was not run)."""

    status: Status
    reason: str = ""
    stdout: str = ""
    stderr: str = ""


def run_program(
    source: str, timeout_s: float = 10.0, memory_mb: int = 512, wall_s: float | None = None, *, unsafe: bool = False
) -> ProgramResult:
    """Run any program in the sandbox; the limits are those of `Limits`. `unsafe` runs it without a sandbox where there
    is no bubblewrap; else it is refused."""
    limits = Limits(timeout_s=timeout_s, memory_mb=memory_mb, wall_s=wall_s)
    if why := why_refused(unsafe):
        return ProgramResult(status="refused", reason=why)
    with ExitStack() as stack:
        handed = stack.enter_context(unnamed_file(encoded(source)))
        ends, replies = pipe(stack)
        job = {"limits": limits.as_job(), "main": True, "source": handed, "replies": replies.fileno()}
        process = stack.enter_context(started("program_side.py", job, (handed, replies.fileno()), unsafe))
        replies.close()
        ended = watch(process, limits)
        os.set_blocking(ends.fileno(), False)
        # The exit status alone says nothing: a program may leave by os._exit(0) before its end.
        if ended.status == "passed" and not _says_it_is_ready(ends.read(1 << 16) or b""):
            ended.status, ended.reason = "failed", "left before its end"
    return ended


def encoded(source: str) -> bytes:
    """A program's bytes; a model may write what is no Unicode, which is then an error of the program."""
    return source.encode("utf-8", "surrogatepass")


def _says_it_is_ready(written: bytes) -> bool:
    """Whether this is what `inside/program_side.py` writes at a program's end; the program may have written there."""
    try:
        return receive(io.BytesIO(written)) == {"ready": True}
    except ValueError:
        return False


@lru_cache(maxsize=1)
def why_no_sandbox() -> str:
    """Why programs cannot be kept in; empty where they can."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed (scripts/install_debian_packages.sh installs it)"
    with _walls() as (words, handed):
        command = [*words, str(_python()), "-I", "-S", "-c", ""]
        trial = subprocess.run(command, pass_fds=handed, capture_output=True, text=True)
    return f"bubblewrap does not work here: {trial.stderr.strip()[:200]}" if trial.returncode else ""


def why_refused(unsafe: bool) -> str:
    """Why a program is not run; empty where it is."""
    why = why_no_sandbox()
    return f"{why}; --unsafe-code runs model-written code without a sandbox" if why and not unsafe else ""


@contextlib.contextmanager
def _walls() -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """bubblewrap's command up to the program's, and the open files that it reads."""
    words = ["bwrap", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    if os.geteuid() == 0:
        # The processes leave root behind themselves (`inside/limits.py`), for which they need these two.
        words += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        words += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    else:
        words += ["--unshare-all"]
    words += ["--ro-bind", "/usr", "/usr"]
    for name in ("lib", "lib64", "bin"):
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            words += ["--ro-bind", str(path), str(path)]
    if _python() != PYTHON:
        words += ["--ro-bind", sys.base_prefix, str(HOME)]
    words += ["--ro-bind", str(INSIDE), "/inside", "--proc", "/proc", "--dev", "/dev"]
    for folder in ("/tmp", "/dev/shm"):
        words += ["--perms", "1777", "--size", str(FOLDER_BYTES), "--tmpfs", folder]
    # What bubblewrap makes itself is in memory too, and without a bound.
    words += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]
    for name, value in (("PATH", "/usr/bin"), ("LANG", "C.UTF-8"), ("PYTHONHASHSEED", "0")):
        words += ["--setenv", name, value]
    refused = call_filter()
    with unnamed_file(refused) as number:
        yield ([*words, "--seccomp", str(number), "--"], (number,)) if refused else ([*words, "--"], ())


def _python() -> Path:
    """The interpreter's path in the sandbox."""
    own = PYTHON.is_relative_to(sys.base_prefix) and not PYTHON.is_relative_to("/usr")
    return HOME / PYTHON.relative_to(sys.base_prefix) if own else PYTHON


@contextlib.contextmanager
def started(file: str, job: dict[str, Any], handed: Sequence[int], unsafe: bool) -> Iterator[subprocess.Popen[bytes]]:
    """A process of `inside/file` that holds the open files `handed` by their numbers, and ends with the block however
    that is left."""
    kept_in = not why_no_sandbox()
    assert kept_in or unsafe
    with ExitStack() as stack:
        walls, read = stack.enter_context(_walls()) if kept_in else ([], ())
        python, folder = (_python(), "/inside") if kept_in else (PYTHON, INSIDE)
        # Not as a word of the command: those end at 128 KB.
        written = stack.enter_context(unnamed_file(json.dumps(job).encode()))
        process = subprocess.Popen(
            [*walls, str(python), "-I", "-S", f"{folder}/{file}", str(written)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=(*handed, *read, written), start_new_session=True, cwd=None if kept_in else tempfile.gettempdir(),
        )  # fmt: skip
    try:
        yield process
    finally:
        end(process)


def watch(
    process: subprocess.Popen[bytes], limits: Limits, is_over: Callable[[], bool] = lambda: False
) -> ProgramResult:
    """Follow a process to its end, which comes by force where it passes a limit, or is no longer waited for where
    `is_over` says so."""
    begun = time.monotonic()
    deadline = begun + limits.longest_s
    output: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    forced: tuple[Status, str] | None = None
    over = False
    with selectors.DefaultSelector() as selector:
        for name in output:
            selector.register(getattr(process, name), selectors.EVENT_READ, name)
        while forced is None and not (over := is_over()):
            ended = process.poll() is not None
            if not _take_output(selector, output, 0.0 if ended else WATCH_EVERY_S) and ended:
                break
            if sum(map(len, output.values())) > LONGEST_OUTPUT:
                forced = "failed", f"more than {LONGEST_OUTPUT} bytes of output"
            elif time.monotonic() > deadline:
                forced = "timeout", f"not at its end after {limits.longest_s:g} s"
            elif memory_in_use(process.pid) > limits.memory_mb << 20:
                forced = "memory", f"its processes together use more than {limits.memory_mb} MB"
    status = None if over else process.poll()
    most_cpu_s = (time.monotonic() - begun) * (os.cpu_count() or 1)
    end(process)
    texts = {name: bytes(data[:LONGEST_OUTPUT]).decode("utf-8", "replace") for name, data in output.items()}
    verdict, reason = forced or _by_exit_status(status or 0, texts["stderr"], most_cpu_s >= limits.timeout_s)
    return ProgramResult(status=verdict, reason=reason, **texts)


def _take_output(selector: selectors.BaseSelector, output: dict[str, bytearray], wait_s: float) -> bool:
    """Read what there is; whether there was anything."""
    if not selector.get_map():
        time.sleep(wait_s)
        return False
    found = False
    for key, _ in selector.select(wait_s):
        if data := os.read(key.fd, 1 << 16):
            output[key.data] += data
            found = True
        else:
            selector.unregister(key.fileobj)
    return found


def _by_exit_status(status: int, stderr: str, has_had_its_time: bool) -> tuple[Status, str]:
    """What an exit status means: bubblewrap's 128 + signal, or a signal as Popen says it. The kernel also kills for
    want of memory, and a program itself: that it was for CPU time is believed where it can have had that much."""
    number = status - 128 if status > 128 else -status if status < 0 else 0
    if number == signal.SIGXCPU or (number == signal.SIGKILL and has_had_its_time):
        return "timeout", "more CPU time than it may use"
    if number == signal.SIGKILL:
        return "failed", "killed, and not for its CPU time"
    if status == OUT_OF_MEMORY:
        return "memory", "more memory than it may use"
    if status:
        last = stderr.strip().rsplit("\n", 1)[-1]
        return "failed", last[:500] or f"exit status {status}"
    return "passed", ""


def end(process: subprocess.Popen[bytes]) -> None:
    """End the process and those below it; without a sandbox, what has left its group and its parents escapes."""
    below = children_of(process.pid) if process.poll() is None else []
    # In a sandbox the one below is the first inside, with which all others end.
    for pid in below:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()


def children_of(pid: int) -> list[int]:
    """The processes that a process's threads have started; none where it has ended or there is no /proc."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text(encoding="ascii").split())
    return found


def memory_in_use(pid: int) -> int:
    """Bytes of memory of a process and all below it; 0 for one that has ended, and where there is no /proc."""
    total = 0
    with contextlib.suppress(OSError, IndexError):
        total += int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")
    return total + sum(map(memory_in_use, children_of(pid)))


@contextlib.contextmanager
def unnamed_file(content: bytes) -> Iterator[int]:
    """The number of an open file that holds `content` and has no name."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield file.fileno()


def pipe(stack: ExitStack) -> tuple[BinaryIO, BinaryIO]:
    """Both ends of a pipe, to read and to write, unbuffered; closed with `stack` where they are still open."""
    read, write = os.pipe()
    return (
        stack.enter_context(os.fdopen(read, "rb", 0)),  # type: ignore[return-value]
        stack.enter_context(os.fdopen(write, "wb", 0)),
    )

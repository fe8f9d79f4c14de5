"""Where programs that a model wrote run: bubblewrap, without network, files of the user, or more than they are given.

In: a program. Out: how it ended. Processes in the sandbox see Python's own files, an empty folder in memory and
nothing else; their time, memory, number and output are limited, and with the first process all others end. Time is CPU
time, so that a busy machine changes no verdict; a wide limit of wall time stops programs that sleep.
"""

import contextlib
import io
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

FOLDER_BYTES = 64 << 20
"""Size of the folder that a program may write to, and of a file in it. Our choice."""

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

    @property
    def wall_s(self) -> float:
        return max(WALL_LEAST_S, WALL_FACTOR * self.timeout_s)

    def as_job(self) -> dict[str, int]:
        """For `inside/limits.py`."""
        return {
            "cpu_seconds": max(1, round(self.timeout_s)),
            "memory_bytes": self.memory_mb << 20,
            "processes": MOST_PROCESSES,
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


def run_program(source: str, timeout_s: float = 10.0, memory_mb: int = 512, *, unsafe: bool = False) -> ProgramResult:
    """Run any program in the sandbox. `unsafe` runs it without one where there is no bubblewrap; else it is refused."""
    limits = Limits(timeout_s=timeout_s, memory_mb=memory_mb)
    if why := why_refused(unsafe):
        return ProgramResult(status="refused", reason=why)
    with ExitStack() as stack:
        handed = stack.enter_context(source_file(source))
        ends, replies = pipe(stack)
        job = {"limits": limits.as_job(), "main": True, "source": handed, "replies": replies.fileno()}
        process = start("program_side.py", job, (handed, replies.fileno()), unsafe)
        replies.close()
        ended = watch(process, limits)
        os.set_blocking(ends.fileno(), False)
        # The exit status alone says nothing: a program may leave by os._exit(0) before its end.
        if ended.status == "passed" and not _says_it_is_ready(ends.read(1 << 16) or b""):
            ended.status, ended.reason = "failed", "left before its end"
    return ended


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
    trial = subprocess.run([*_walls(), str(_python()), "-I", "-S", "-c", ""], capture_output=True, text=True)
    return f"bubblewrap does not work here: {trial.stderr.strip()[:200]}" if trial.returncode else ""


def why_refused(unsafe: bool) -> str:
    """Why a program is not run; empty where it is."""
    why = why_no_sandbox()
    return f"{why}; --unsafe-code runs model-written code without a sandbox" if why and not unsafe else ""


def _walls() -> list[str]:
    """bubblewrap's command up to the program's."""
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
    words += ["--perms", "1777", "--size", str(FOLDER_BYTES), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    for name, value in (("PATH", "/usr/bin"), ("LANG", "C.UTF-8"), ("PYTHONHASHSEED", "0")):
        words += ["--setenv", name, value]
    return [*words, "--"]


def _python() -> Path:
    """The interpreter's path in the sandbox."""
    own = PYTHON.is_relative_to(sys.base_prefix) and not PYTHON.is_relative_to("/usr")
    return HOME / PYTHON.relative_to(sys.base_prefix) if own else PYTHON


def start(file: str, job: dict[str, Any], handed: Sequence[int], unsafe: bool) -> subprocess.Popen[bytes]:
    """A process of `inside/file`; it holds the open files `handed` by their numbers."""
    kept_in = not why_no_sandbox()
    assert kept_in or unsafe
    walls, python, folder = (_walls(), _python(), "/inside") if kept_in else ([], PYTHON, INSIDE)
    return subprocess.Popen(
        [*walls, str(python), "-I", "-S", f"{folder}/{file}", json.dumps(job)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=handed,
        start_new_session=True, cwd=None if kept_in else tempfile.gettempdir(),
    )  # fmt: skip


def watch(
    process: subprocess.Popen[bytes], limits: Limits, is_over: Callable[[], bool] = lambda: False
) -> ProgramResult:
    """Follow a process to its end, which comes by force where it passes a limit, or is no longer waited for where
    `is_over` says so."""
    deadline = time.monotonic() + limits.wall_s
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
                forced = "timeout", f"not at its end after {limits.wall_s:g} s"
            elif memory_in_use(process.pid) > limits.memory_mb << 20:
                forced = "memory", f"its processes together use more than {limits.memory_mb} MB"
    kill(process)
    status = process.wait()
    for name in output:
        getattr(process, name).close()
    texts = {name: bytes(data[:LONGEST_OUTPUT]).decode("utf-8", "replace") for name, data in output.items()}
    if not forced and over:
        return ProgramResult(status="passed", **texts)
    verdict, reason = forced or _by_exit_status(status, texts["stderr"])
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


def _by_exit_status(status: int, stderr: str) -> tuple[Status, str]:
    """What an exit status means: bubblewrap's 128 + signal, or a signal as Popen says it."""
    number = status - 128 if status > 128 else -status if status < 0 else 0
    if number in (signal.SIGXCPU, signal.SIGKILL):
        return "timeout", "more CPU time than it may use"
    if status == OUT_OF_MEMORY:
        return "memory", "more memory than it may use"
    if status:
        last = stderr.strip().rsplit("\n", 1)[-1]
        return "failed", last[:500] or f"exit status {status}"
    return "passed", ""


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and, without a sandbox, its group; in one all others end with the first."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def memory_in_use(pid: int) -> int:
    """Bytes of memory of a process and all below it; 0 for one that has ended, and where there is no /proc."""
    total = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        total += int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
            total += memory_in_use(int(child))
    return total


@contextlib.contextmanager
def source_file(text: str) -> Iterator[int]:
    """The number of an open file that holds `text` and has no name."""
    with tempfile.TemporaryFile() as file:
        file.write(text.encode("utf-8", "surrogatepass"))
        file.seek(0)
        yield file.fileno()


def pipe(stack: ExitStack) -> tuple[BinaryIO, BinaryIO]:
    """Both ends of a pipe, to read and to write, unbuffered; closed with `stack` where they are still open."""
    read, write = os.pipe()
    return (
        stack.enter_context(os.fdopen(read, "rb", 0)),  # type: ignore[return-value]
        stack.enter_context(os.fdopen(write, "wb", 0)),
    )

"""Hostile programs fail and harm nothing, ordinary ones run, and nothing runs without a sandbox unless it is asked for.

What pretends to be right is in test_judge_code.py.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from danlu.evaluation.sandbox import INSIDE, run_program, why_no_sandbox

needs_sandbox = pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox())

SECRET = "danlu-secret-of-the-user"


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the user, in a folder that anyone may read."""
    path = tmp_path_factory.mktemp("home") / "secret.txt"
    path.write_text(SECRET, encoding="utf-8")
    return path


@needs_sandbox
def test_a_program_that_ends_has_passed_and_its_output_is_kept() -> None:
    ended = run_program("import sys\nprint('说')\nprint('so', file=sys.stderr)")
    assert (ended.status, ended.stdout, ended.stderr) == ("passed", "说\n", "so\n")


@needs_sandbox
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("1/0", "ZeroDivisionError: division by zero"),
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("raise SystemExit", "left before its end"),
        ("import sys; sys.exit(0)", "left before its end"),
        ("import os; os._exit(0)", "left before its end"),
        ("import sys; sys.exit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 9); import time; time.sleep(1)", "killed, and not for its CPU time"),
    ],
)
def test_a_program_that_does_not_reach_its_end_has_failed(source: str, reason: str) -> None:
    ended = run_program(source)
    assert (ended.status, ended.reason) == ("failed", reason)


@needs_sandbox
def test_programs_may_use_threads_processes_and_files() -> None:
    source = (
        "import multiprocessing, pathlib, threading\n"
        "threads = [threading.Thread(target=print, args=(n,)) for n in range(8)]\n"
        "for thread in threads:\n    thread.start()\nfor thread in threads:\n    thread.join()\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n    assert pool.map(abs, [1, -2]) == [1, 2]\n"
        "pathlib.Path('here.txt').write_text('x')\nopen('/dev/null', 'w').write('x')\n"
    )
    ended = run_program(source)
    assert (ended.status, sorted(ended.stdout)) == ("passed", sorted("0\n1\n2\n3\n4\n5\n6\n7\n"))


FILL = (
    "n = 0\nwhile True:\n"
    "    with open(f'{folder}/{{n}}', 'wb') as file:\n        file.write(b'x' * (8 << 20))\n    n += 1"
)
LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
CHILD = "import os, time\ndef child(): {0}\nfor _ in range({1}):\n    if os.fork() == 0:\n        child()\n"

HOSTILE = {
    "fork bomb": ("import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass", "timeout"),
    "thread bomb": (
        "import threading, time\nfor _ in range(10000):\n    threading.Thread(target=time.sleep, args=(99,)).start()",
        "timeout",
    ),
    "memory bomb": ("x = []\nwhile True:\n    x.append(bytearray(1 << 20))", "memory"),
    "memory in many processes": (
        CHILD.format("return", 6) + "x = bytearray(b'1') * (200 << 20)\ntime.sleep(99)",
        "memory",
    ),
    "memory in the children of a thread": (
        "import os, threading, time\n"
        "def bomb():\n    for _ in range(6):\n        if os.fork() == 0:\n"
        "            x = bytearray(b'1') * (100 << 20)\n            time.sleep(99)\n"
        "thread = threading.Thread(target=bomb)\nthread.start()\nthread.join()\ntime.sleep(99)",
        "memory",
    ),
    "memory in files without a name": (
        "import os\nfiles = [os.memfd_create('x') for _ in range(9)]\n"
        "for file in files:\n    os.write(file, b'x' * (60 << 20))",
        "failed",
    ),
    "memory in shared segments": (LIBC + "assert libc.shmget(0, 1 << 30, 0o1600) >= 0", "failed"),
    "memory in semaphores": (LIBC + "assert libc.semget(0, 32000, 0o1600) >= 0", "failed"),
    "memory in message queues": (LIBC + "assert libc.msgget(0, 0o1600) >= 0", "failed"),
    "endless output": ("while True:\n    print('x' * 10000)", "failed"),
    "endless loop": ("while True:\n    pass", "timeout"),
    "CPU signal ignored": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass",
        "timeout",
    ),
    "stops itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", "timeout"),
    "takes its limits off": (
        "import resource\nfor kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC):\n"
        "    resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))",
        "failed",
    ),
    "zombie children": (CHILD.format("os._exit(0)", 20) + "time.sleep(99)", "timeout"),
    "detached children": (CHILD.format("os.setsid(); time.sleep(99)", 20) + "os.waitpid(-1, 0)", "timeout"),
    "reads /etc/passwd": ("open('/etc/passwd').read()", "failed"),
    "lists the home folder": (f"import os\nos.listdir({str(Path.home())!r})", "failed"),
    "opens a socket to the world": ("import socket\nsocket.create_connection(('1.1.1.1', 53), timeout=3)", "failed"),
    "kills its parent": ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", "failed"),
    "kills everything": ("import os, signal\nos.kill(-1, signal.SIGKILL)\nraise ValueError('still here')", "failed"),
    "kills the tests": (f"import os, signal\nos.kill({os.getpid()}, signal.SIGKILL)", "failed"),
    "deletes files": (
        "import os\n"
        "for root, _, names in os.walk('/usr/lib'):\n    for name in names:\n        os.remove(root + '/' + name)",
        "failed",
    ),
    "deletes whole folders": (
        "import shutil\nfor name in ('inside', 'dev', 'etc', 'home', 'root', 'tmp', 'python/bin'):\n"
        "    shutil.rmtree('/' + name, ignore_errors=True)\n1/0",
        "failed",
    ),
    "fills the disk": (FILL.format(folder="/tmp"), "failed"),
    "fills the shared memory": (FILL.format(folder="/dev/shm"), "failed"),
    "fills the root folder": (FILL.format(folder=""), "failed"),
    "fills /dev": (FILL.format(folder="/dev"), "failed"),
    "escapes through /proc": ("open('/proc/1/root/etc/passwd').read()", "failed"),
    "writes the kernel's settings": ("open('/proc/sys/kernel/core_pattern', 'w').write('|/tmp/x')", "failed"),
    "mounts": (LIBC + "assert libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0", "failed"),
    "mounts in a namespace of its own": (LIBC + "assert libc.unshare(0x10000000 | 0x20000) == 0", "failed"),
    "clones into a namespace of its own": (
        LIBC + "import platform\nnumber = {'x86_64': 56, 'aarch64': 220}[platform.machine()]\n"
        "assert libc.syscall(number, 0x50000011, 0, 0, 0, 0) >= 0",
        "failed",
    ),
    "becomes root": ("import os\nos.setuid(0)", "failed"),
    "writes where its end is told": (
        "import os\nfor n in range(3, 5000):\n    try:\n        os.write(n, b'\\xff' * 40)\n"
        "    except OSError:\n        pass",
        "failed",
    ),
    "writes into the checker's files": ("open('/inside/plain_data.py', 'a').write('x')", "failed"),
}
WAITING = {"fork bomb", "thread bomb", "stops itself", "zombie children", "detached children"}
"""They end by wall time alone; the others have enough of it on a busy machine too."""


@needs_sandbox
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_harms_nothing(name: str, secret: Path) -> None:
    source, status = HOSTILE[name]
    ours = {path: path.read_bytes() for path in INSIDE.glob("*.py")}
    started = time.monotonic()
    ended = run_program(source, timeout_s=1, memory_mb=256, wall_s=1 if name in WAITING else 20)
    assert ended.status == status, ended
    assert time.monotonic() - started < 15
    assert secret.read_text(encoding="utf-8") == SECRET
    assert {path: path.read_bytes() for path in INSIDE.glob("*.py")} == ours
    assert Path("/etc/passwd").exists()


@needs_sandbox
def test_the_users_files_are_not_to_be_seen(secret: Path) -> None:
    ended = run_program(f"print(open({str(secret)!r}).read())")
    assert (ended.status, ended.stdout) == ("failed", "")
    ended = run_program("import os\nprint(os.environ)")
    assert "HOME" not in ended.stdout


@needs_sandbox
def test_no_server_of_this_machine_is_reached() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server, closing(socket.socket(socket.AF_UNIX)) as local:
        local.bind(f"\0danlu-{os.getpid()}")
        local.listen()
        for family, address in (("AF_INET", server.getsockname()), ("AF_UNIX", local.getsockname())):
            ended = run_program(f"import socket\nsocket.socket(socket.{family}).connect({address!r})")
            assert (ended.status, ended.reason.partition(":")[0]) == ("failed", "ConnectionRefusedError")
        # That they could be reached from outside the sandbox is not to be taken for granted either.
        socket.create_connection(server.getsockname()).close()


@needs_sandbox
@pytest.mark.parametrize(("then", "status"), [("time.sleep(0.3)", "passed"), ("time.sleep(600)", "timeout")])
def test_no_process_is_left_behind(then: str, status: str) -> None:
    mark = f"left-{os.getpid()}-{status}"
    source = (
        "import os, time, sys\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(600)', '{mark}'])\n"
        "    os._exit(0)\n"
        f"{then}\n"
    )
    assert run_program(source, wall_s=1).status == status
    time.sleep(0.3)
    assert [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark in _read(path)] == []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@pytest.fixture
def asked_again() -> Iterator[None]:
    """Whether there is a sandbox is found out anew, in the test and after it."""
    why_no_sandbox.cache_clear()
    yield
    why_no_sandbox.cache_clear()


@pytest.mark.usefixtures("asked_again")
def test_without_bubblewrap_a_program_is_refused_unless_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.evaluation.sandbox.shutil.which", lambda name: None)
    refused = run_program("print(1)")
    assert (refused.status, refused.stdout) == ("refused", "")
    assert refused.reason.startswith("bubblewrap is not installed")
    assert "--unsafe-code runs model-written code without a sandbox" in refused.reason
    ended = run_program("print(1)", unsafe=True)
    assert (ended.status, ended.stdout) == ("passed", "1\n")
    assert run_program("while True: pass", timeout_s=1, unsafe=True).status == "timeout"


@pytest.mark.usefixtures("asked_again")
def test_a_bubblewrap_that_does_not_work_is_as_good_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho no namespaces here >&2\nexit 1\n", encoding="ascii")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    refused = run_program("print(1)")
    assert (refused.status, refused.stdout) == ("refused", "")
    assert refused.reason.startswith("bubblewrap does not work here: no namespaces here")

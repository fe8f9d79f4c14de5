"""Hostile programs fail and harm nothing; ordinary ones run; references pass and always-equal objects do not."""

import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from danlu.evaluation.judge_code import judge_code, mean_pass_at_k, needs_own_classes, pass_at_k
from danlu.evaluation.sandbox import run_program, why_no_sandbox

pytestmark = pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox())

SECRET = "danlu-secret-of-the-user"


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the user, in a folder that anyone may read."""
    path = tmp_path_factory.mktemp("home") / "secret.txt"
    path.write_text(SECRET, encoding="utf-8")
    return path


def test_a_program_that_ends_has_passed_and_its_output_is_kept() -> None:
    ended = run_program("import sys\nprint('说')\nprint('so', file=sys.stderr)")
    assert (ended.status, ended.stdout, ended.stderr) == ("passed", "说\n", "so\n")


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
    ],
)
def test_a_program_that_does_not_reach_its_end_has_failed(source: str, reason: str) -> None:
    ended = run_program(source)
    assert (ended.status, ended.reason) == ("failed", reason)


HOSTILE = {
    "fork bomb": ("import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass", "timeout"),
    "thread bomb": (
        "import threading, time\nfor _ in range(10000):\n    threading.Thread(target=time.sleep, args=(1000,)).start()",
        None,
    ),
    "memory bomb": ("x = []\nwhile True:\n    x.append(bytearray(1 << 20))", "memory"),
    "memory in many processes": (
        "import os\nfor _ in range(6):\n    os.fork()\nx = bytearray(b'1') * (200 << 20)\nwhile True:\n    pass",
        "memory",
    ),
    "endless output": ("while True:\n    print('x' * 10000)", "failed"),
    "endless loop": ("while True:\n    pass", "timeout"),
    "CPU signal ignored": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass",
        "timeout",
    ),
    "reads /etc/passwd": ("open('/etc/passwd').read()", "failed"),
    "lists the home folder": ("import os\nos.listdir(os.path.expanduser('~root') if 0 else '/root')", "failed"),
    "opens a socket": (
        "import socket\nsocket.create_connection(('1.1.1.1', 53), timeout=3)",
        "failed",
    ),
    "kills its parent": ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", "failed"),
    "kills everything": ("import os, signal\nos.kill(-1, signal.SIGKILL)\nraise ValueError('still here')", None),
    "deletes files": (
        "import os\n"
        "for root, _, names in os.walk('/usr/lib'):\n    for name in names:\n        os.remove(root + '/' + name)",
        "failed",
    ),
    "fills the disk": (
        "import os\nn = 0\nwhile True:\n"
        "    with open(f'/tmp/{n}', 'wb') as f:\n        f.write(b'x' * (8 << 20))\n    n += 1",
        "failed",
    ),
    "escapes through /proc": ("open('/proc/1/root/etc/passwd').read()", "failed"),
    "mounts": (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0",
        "failed",
    ),
    "becomes root": ("import os\nos.setuid(0)\nassert os.getuid() == 0", None),
    "writes where its end is told": (
        "import os\nfor n in range(3, 30):\n    try:\n        os.write(n, b'\\xff' * 40)\n"
        "    except OSError:\n        pass",
        "failed",
    ),
    "writes into the checker's files": ("open('/inside/plain_data.py', 'a').write('x')", "failed"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_harms_nothing(name: str) -> None:
    source, status = HOSTILE[name]
    started = time.monotonic()
    ended = run_program(source, timeout_s=1, memory_mb=256)
    if status is not None:
        assert ended.status == status, ended
    assert ended.status != "passed" or name == "becomes root"
    assert time.monotonic() - started < 30
    assert Path("/etc/passwd").exists()


def test_the_users_files_are_not_to_be_seen(secret: Path) -> None:
    ended = run_program(f"print(open({str(secret)!r}).read())")
    assert (ended.status, ended.stdout) == ("failed", "")
    ended = run_program("import os\nprint(os.environ)")
    assert "HOME" not in ended.stdout


def test_no_process_is_left_behind() -> None:
    mark = f"left-{os.getpid()}"
    source = (
        "import os, time, sys\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(600)', '{mark}'])\n"
        "    os._exit(0)\n"
        "time.sleep(0.5)\n"
    )
    run_program(source)
    time.sleep(0.3)
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark in _read(path)]
    assert left == []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


ADD: dict[str, Any] = {
    "task_id": "made/0",
    "prompt": 'from typing import List\n\ndef add(a: int, b: int) -> int:\n    """ Sum. """\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 2) == 1\n",
}


@pytest.mark.parametrize(
    "reply",
    [
        "    return a + b\n",
        "return a + b",
        "def add(a, b):\n    return a + b",
        "Here it is:\n```python\ndef add(a: int, b: int) -> int:\n    return a + b\n```\nIt adds.",
        "```\ndef add(a, b):\n    return a + b",
        "First:\n```python\ndef add(a, b):\n    return a\n```\nThen:\n```python\ndef add(a, b):\n    return a + b\n```",
        "def add(a, b):\n    return a + b<|im_end|>\n<|im_start|>user\nmore",
        "    return a + b\n\n\ndef other():\n    return 1 +\n",
        "def helper(x):\n    return x\n\ndef add(a: List, b) -> int:\n    return helper(a) + b",
        "    s = a\n\n    # b too\n    return s + b",
        "print('passed')\ndef add(a, b):\n    print('x' * 1000)\n    return a + b",
    ],
)
def test_a_right_reply_passes_in_whatever_shape_it_comes(reply: str) -> None:
    assert judge_code(ADD, reply).status == "passed"


EQUAL = "class E{base}:\n    def __eq__(self, other): return True\n    __hash__ = None\n"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "no code in the reply"),
        ("I cannot do that.", "no code in the reply"),
        ("def add(a, b):\n    return a - b", "line 2 of the tests"),
        ("def add(a, b):\n    return None", "line 2 of the tests"),
        (EQUAL.format(base="") + "def add(a, b): return E()", "a value of type E"),
        (EQUAL.format(base="(int)") + "def add(a, b): return E(a)", "a value of type E"),
        (EQUAL.format(base="(str)") + "def add(a, b): return [E('a')]", "a value of type E"),
        ("import os\nos._exit(0)\ndef add(a, b): return 1", "ended before it could be asked"),
        ("raise SystemExit\ndef add(a, b): return 1", "SystemExit"),
        ("def add(a, b):\n    import os\n    os._exit(0)", "ended while add was asked"),
        ("def add(a, b):\n    raise SystemExit(0)", "ended while add was asked"),
        ("import builtins\nbuiltins.AssertionError = Exception\ndef add(a, b): return 5", "line 2 of the tests"),
        ("def check(candidate): pass\ndef add(a, b): return 5", "line 2 of the tests"),
        ("import sys\nsys.modules['plain_data'].to_json = lambda v: {'int': '0x3'}\ndef add(a, b): return 3",
         "line 3 of the tests"),
        ("import os\nfor n in range(3, 30):\n    try:\n        os.write(n, b'{\"status\": \"passed\"}')\n"
         "    except OSError:\n        pass\ndef add(a, b): return 5", ""),
        ("print('{\"status\": \"passed\"}')\ndef add(a, b): return 5", "line 2 of the tests"),
    ],
)  # fmt: skip
def test_success_cannot_be_faked(reply: str, reason: str) -> None:
    verdict = judge_code(ADD, reply, timeout_s=2)
    assert verdict.status == "failed"
    assert reason in verdict.reason


def test_a_function_that_never_answers_is_a_timeout() -> None:
    assert judge_code(ADD, "def add(a, b):\n    while True: pass", timeout_s=1).status == "timeout"
    assert judge_code(ADD, "def add(a, b):\n    return [0] * 10**10", timeout_s=1).status == "failed"


def test_pass_at_k_is_the_unbiased_estimate_and_refused_outside_its_range() -> None:
    assert pass_at_k(200, 1, 1) == pytest.approx(0.005)
    assert pass_at_k(10, 3, 2) == pytest.approx(1 - (7 / 10) * (6 / 9))
    assert pass_at_k(5, 5, 5) == 1.0
    for samples, right, k in ((2, 0, 5), (1, 1, 10), (3, 4, 1), (3, -1, 1), (3, 1, 0)):
        with pytest.raises(ValueError, match="samples"):
            pass_at_k(samples, right, k)
    with pytest.raises(ValueError, match="1 of 2 problems have no result, b the first"):
        mean_pass_at_k({"a": [True]}, ["a", "b"], 1)
    assert mean_pass_at_k({"a": [True, False], "b": [False, False]}, ["a", "b"], 1) == 0.25


DATA = Path(__file__).parents[2].parent / "shared" / "data" / "eval"


def problems(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_references_of_humaneval_pass() -> None:
    some = problems(DATA / "HumanEval.jsonl.gz")[::8]
    found = {p["task_id"]: judge_code(p, p["canonical_solution"]).reason for p in some}
    assert found == dict.fromkeys(found, "")


def test_references_of_mbpp_pass() -> None:
    every = problems(DATA / "mbpp" / "mbpp.jsonl.gz")
    some = every[::32] + [p for p in every if needs_own_classes(p)]
    assert {p["task_id"]: judge_code(p, p["code"]).reason for p in some} == {p["task_id"]: "" for p in some}

"""Right replies pass in whatever shape they come, success cannot be faked, and pass@k has a value only in its range."""

from typing import Any

import pytest

from danlu.evaluation.code_verdict import judge_code, mean_pass_at_k, pass_at_k, problems_with_own_classes
from danlu.evaluation.sandbox import why_no_sandbox

needs_sandbox = pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox())

ADD: dict[str, Any] = {
    "task_id": "made/0",
    "prompt": 'from typing import List\n\ndef add(a: int, b: int) -> int:\n    """ Sum. """\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 2) == 1\n",
}


@needs_sandbox
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
        "add = lambda a, b: a + b",
        "```python\ndef add(a, b): return a + b\n```\nUse it:\n```python\nfrom x import add\nprint(add(1, 2))\n```",
        "from operator import add",
        "It is short:\nadd = lambda a, b: a + b\nThat adds.",
        "<think>\n```python\ndef add(a, b):\n    return a\n```\n</think>\n```python\ndef add(a, b): return a + b\n```",
        "print('passed')\ndef add(a, b):\n    print('x' * 1000)\n    return a + b",
    ],
)
def test_a_right_reply_passes_in_whatever_shape_it_comes(reply: str) -> None:
    assert judge_code(ADD, reply).status == "passed"


EQUAL = "class E{base}:\n    def __eq__(self, other): return True\n    __hash__ = None\n"


@needs_sandbox
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
        ("import builtins, sys\nbuiltins.exec = builtins.compile = lambda *a: None\nsys.settrace(lambda *a: None)\n"
         "def add(a, b): return 5", "line 2 of the tests"),
        ("import gc\nfor f in gc.get_objects():\n    if getattr(f, '__name__', '') == 'to_json':\n"
         "        f.__code__ = (lambda v: {'int': '0x3'}).__code__\ndef add(a, b): return 5", "line 3 of the tests"),
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


@needs_sandbox
def test_tests_longer_than_a_word_of_a_command_may_be_are_run() -> None:
    long = {**ADD, "test": ADD["test"] + f"    assert len({'x' * 300_000!r}) == 300_000\n"}
    assert judge_code(long, ADD["canonical_solution"]).status == "passed"


@needs_sandbox
def test_a_function_that_never_answers_is_a_timeout() -> None:
    # The tests end as soon as the program does: which of the two is seen first must not matter.
    assert judge_code(ADD, "def add(a, b):\n    while True: pass", timeout_s=1).status == "timeout"
    slept = judge_code(ADD, "import time\ndef add(a, b):\n    time.sleep(600)", wall_s=1)
    assert (slept.status, slept.reason) == ("timeout", "not at its end after 1 s")
    assert judge_code(ADD, "def add(a, b):\n    return [0] * 10**10", timeout_s=1).status == "failed"


TREE: dict[str, Any] = {
    "task_id": 1,
    "code": "class Node:\n    def __init__(self, data):\n        self.data, self.left = data, None\n"
    "def height(node):\n    return 0 if node is None else 1 + height(node.left)",
    "test_setup_code": "root = Node(1)\nroot.left = Node(2)",
    "test_list": ["assert height(root) == 2", "assert (height(Node(5))) == 1", "assert height(None) == 0 "],
}


@needs_sandbox
@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("", ""),
        (EQUAL.format(base="") + "def height(node): return E()", "a value of type E"),
        (EQUAL.format(base="(int)") + "def height(node): return E(2)", "a value of type E"),
        ("def height(node): return 2", "line 2 of the tests"),
        ("def height(node): return node", "a value of type Node"),
        ("import os\ndef height(node): os._exit(0)", "ended while left_side_0 was asked"),
        ("def left_side_0(): return 2\nleft_side_1 = left_side_0\ndef height(node): return 0", "line 1 of the tests"),
        ("import builtins\nbuiltins.AssertionError = Exception\ndef height(node): return 0", "line 1 of the tests"),
        ("del Node", "NameError: name 'Node' is not defined"),
    ],
)
def test_tests_with_the_programs_own_classes_cannot_be_faked_either(more: str, reason: str) -> None:
    verdict = judge_code(TREE, f"{TREE['code']}\n{more}")
    assert verdict.own_classes
    assert verdict.status == ("failed" if reason else "passed")
    assert reason in verdict.reason
    assert bool(reason) == bool(verdict.reason)


def test_problems_with_classes_of_the_program_are_named() -> None:
    plain = {**TREE, "task_id": 2, "test_setup_code": "", "test_list": ["assert height(None) == 0"]}
    assert problems_with_own_classes([ADD, TREE, plain]) == [1]


def test_what_a_problems_code_warns_of_is_not_shown(recwarn: pytest.WarningsRecorder) -> None:
    escaped = {"task_id": 3, "code": "def f(x):\n    return '\\d' + x", "test_list": ["assert f('') == '\\d'"]}
    assert problems_with_own_classes([escaped]) == []
    judge_code(escaped, "f = '\\d'")
    assert not recwarn.list


def test_pass_at_k_is_the_unbiased_estimate_and_refused_outside_its_range() -> None:
    assert pass_at_k(200, 1, 1) == pytest.approx(0.005)
    assert pass_at_k(10, 3, 2) == pytest.approx(1 - (7 / 10) * (6 / 9))
    assert pass_at_k(5, 5, 5) == 1.0
    for samples, right, k in ((2, 0, 5), (1, 1, 10), (3, 4, 1), (3, -1, 1), (3, 1, 0)):
        with pytest.raises(ValueError, match="samples"):
            pass_at_k(samples, right, k)


def test_a_problem_without_a_result_is_named_and_never_counted_as_solved() -> None:
    assert mean_pass_at_k({"a": [True, False], "b": [False, False]}, ["a", "b"], 1) == 0.25
    with pytest.raises(ValueError, match="1 of 2 problems have no result, b the first"):
        mean_pass_at_k({"a": [True]}, ["a", "b"], 1)
    with pytest.raises(ValueError, match="145 of 164 problems have no result, 19 the first"):
        mean_pass_at_k({number: [True] for number in range(19)}, range(164), 1)
    with pytest.raises(ValueError, match="no problems"):
        mean_pass_at_k({}, [], 1)

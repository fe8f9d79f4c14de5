"""Answers of MATH are equal when they are the same mathematics, and by no accident; in either order."""

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.evaluation.answers import mathematics, worker_pool
from danlu.evaluation.answers.extract import extract_answer
from danlu.evaluation.answers.grade import is_right
from danlu.evaluation.answers.math_text import canonical
from danlu.evaluation.answers.mathematics import computed_equal, math_equal
from danlu.run.errors import UserError

DATA = Path(__file__).parents[3] / "shared/data/eval"

EQUAL = [
    # numbers
    (r"\frac12", "0.5"),
    (r"\text{13}", "13"),
    (r"\frac{1}{2}", "½"),
    (r"\tfrac 1 2", "1/2"),
    ("-0.5", r"-\frac{1}{2}"),
    (r"\frac{-1}{2}", r"-\frac{1}{2}"),
    ("10,236", "10236"),
    (r"11,\! 111,\! 111,\! 100", "11111111100"),
    ("8{,}880", "8880"),
    (r"\$15,\!000", "15000"),
    ("$15,000", "15,000"),
    (r"\$18.90", "18.9"),
    (r"-\$0.50", "-0.5"),
    (r"6\frac15", "31/5"),
    ("6 1/5", "6.2"),
    (r"-1\frac12", "-1.5"),
    ("0.333333", r"\frac13"),
    ("1.414214", r"\sqrt{2}"),
    ("−5", "-5"),
    ("５", "5"),
    ("+5", "5"),
    ("5.0", "5"),
    (".5", "0.5"),
    (r"3 \times 10^{4}", "30000"),
    ("1.2e3", "1200"),
    ("1 234", "1234"),
    (r"0.1\overline{6}", "1/6"),
    (r"\log_2 8", "3"),
    ("三又二分之一", "3.5"),
    (r"\frac{3}{10^{40}}", "3/10^40"),
    ("三十五", "35"),
    ("一百零二", "102"),
    ("负三", "-3"),
    ("二分之一", r"\frac12"),
    ("百分之二十", r"20\%"),
    ("三点一四", "3.14"),
    ("两千零五", "2005"),
    ("三万", "30000"),
    # units
    ("5 cm", "5"),
    ("5 m", "5"),
    ("120 m^2", r"120\text{ square meters}"),
    ("75 \\text{ cm}", "75 centimeters"),
    (r"144 \mbox{ m}^3", "144"),
    ("90\\text{ square\nunits}", "90"),
    (r"30^\circ", "30"),
    ("30 degrees", r"30^{\circ}"),
    (r"44\%", "44"),
    (r"20\%", "0.2"),
    ("118 dollars", r"\$118"),
    (r"99\pi \text{ square inches}", r"99\pi"),
    ("5元", "5"),
    ("35个", "35"),
    (r"\text{9 a.m.}", "9:00 AM"),
    (r"10\;\text{edges}", "10"),
    # formulas
    (r"\dfrac{x+2}{7}", r"\frac{x}{7}+\frac{2}{7}"),
    (r"\sqrt{8}", r"2\sqrt2"),
    (r"\frac{1}{\sqrt3}", r"\frac{\sqrt{3}}{3}"),
    ("sqrt(2)/2", r"\frac{\sqrt{2}}{2}"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\frac{x+1}{x-1}", r"\frac{-x-1}{1-x}"),
    (r"\sin 3x", r"\sin(3x)"),
    (r"2\cos 15^{\circ}", r"2 \cos(\pi/12)"),
    (r"\cos 13^\circ", r"\sin 77^\circ"),
    ("1-1/e", r"1-\frac{1}{e}"),
    ("e^{2x}", "(e^x)^2"),
    ("2+3i", "3i+2"),
    ("π/6", r"\frac{\pi}{6}"),
    (r"12\sqrt{35}", r"\sqrt{5040}"),
    ("3R^2", "3 R^2"),
    ("32R^2 - 3(a^2 + b^2 + c^2)", "32R^2-3a^2-3b^2-3c^2"),
    # names and equations
    ("x=5", "5"),
    ("f(x) = x+1", "x+1"),
    (r"\angle ABC = 50^\circ", "50"),
    ("y=2x+3", "y = 3+2x"),
    ("4x-5y=-50", "5y-4x=50"),
    ("x^2+y^2=13", "2x^2+2y^2=26"),
    ("2 + 3 = 5", "5"),
    # several values
    ("2,3", "3,2"),
    ("2 and 3", "2, 3"),
    ("n = 2, 3", "2,3"),
    (r"7, -2, \text{ and } -5", "-5, -2, 7"),
    ("1,2,3", r"\{3,2,1\}"),
    ("x = 1 or x = 2", "1, 2"),
    ("70,110", "70, 110"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    (r"\pm 7", "7, -7"),
    (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1+\sqrt5, 1-\sqrt5\}"),
    (r"\boxed{\left(3,\frac{\pi}{2}\right)}", r"(3, \pi/2)"),
    (r"(1, 4\sqrt3)", r"\left( 1, \sqrt{48} \right)"),
    (r"-\frac{\pi}{4}, \frac{\pi}{4}", r"\frac{\pi}{4}, \frac{-\pi}{4}"),
    (r"\text{B, E, G}", "B,E,G"),
    # intervals, matrices
    (r"x \in [-2,7]", "[-2,7]"),
    (r"-2 \le x \le 7", "[-2,7]"),
    ("x > 3", r"(3, \infty)"),
    (r"\mathbb{R}", r"(-\infty, \infty)"),
    (r"x<2 \text{ or } x>3", r"(3,\infty)\cup(-\infty,2)"),
    (r"(-\infty,3)\cup(3,\infty)", r"x \neq 3"),
    (r"\left[\frac12, 2\right)", "[0.5,2)"),
    (r"\begin{pmatrix} 1/2 \\ 3 \end{pmatrix}", r"\begin{bmatrix}0.5\\3\end{bmatrix}"),
    (r"\begin{pmatrix} 1 & \sqrt{8} \end{pmatrix}", r"\begin{pmatrix} 1 & 2\sqrt2 \end{pmatrix}"),
    # words, bases, ratios
    (r"\text{Tuesday}", "Tuesday"),
    (r"\text{(C)}", "C"),
    (r"\text{A and B}", "A, B"),
    ("(C)", r"\text{C}"),
    (r"\text{June 20}", "June 20"),
    ("52_8", "52_{8}"),
    ("3:1", "3 : 1"),
    # whole replies
    ("The answer is $5$.", "so $x = \\boxed{5}$"),
    (r"\boxed{\boxed{5}}", "5"),
    (r"$\boxed{-2}$ and $\boxed{1}$", "-2,1"),
    (r"$\boxed{5}$, that is $\boxed{5}$", "5"),
    ("**5**", "5"),
    (r"\(5\)", "5"),
]

UNEQUAL = [
    ("3/10^40", "7/10^40"),
    (r"10^{-20}", r"2 \cdot 10^{-20}"),
    ("1.0000001", "1.0000002"),
    ("n = 2, 3", "n = 2, 5"),
    (r"\pm 7", "7"),
    ("(0,1)", "(0,1]"),
    ("[1,2]", "(1,2)"),
    ("12:30", "1:30"),
    ("12:30", "12.5"),
    ("3:1", "1:3"),
    ("2x+y=5", "2x-y=5"),
    ("2x+y=5", "5"),
    ("x^2+1=0", "x^2+2=0"),
    ("1-1/e", "1+1/e"),
    ("5", "-5"),
    ("2", "1/2"),
    ("0.33", r"\frac13"),
    (r"\sqrt{2}", "1.41"),
    ("10,236", "10.236"),
    ("20%", "30%"),
    ("三十五", "53"),
    ("5 cm", "5 m"),
    ("9 a.m.", "9 p.m."),
    ("52_8", "52_9"),
    ("52_8", "52"),
    ("5th", "5"),
    ("x", "-x"),
    ("x=5", "y=5"),
    ("3R^2", "3r^2"),
    ("a", "A"),
    ("A", "B"),
    ("listen", "silent"),
    (r"\text{Tuesday}", r"\text{Thursday}"),
    ("June 20", "20"),
    ("(1,2)", "(2,1)"),
    ("(1,2,3)", "(1,2)"),
    ("±7", "7"),
    ("10000_2", "16"),
    (r"\overline{CD}", r"\overline{AB}"),
    (r"\text{no real solutions}", "no solution"),
    (r"\$5.4", "5.4 cents"),
    ("2,3", "2,3,4"),
    ("2", "2,3"),
    ("2,2", "2"),
    (r"\{1,2\}", r"\{1,3\}"),
    ("x<5", r"x \le 5"),
    ("x<5", "x>5"),
    ("x<5", "5"),
    (r"(1,2)\cup(3,4)", r"(1,2)\cup(3,5)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"),
    ("x+1", "x+2"),
    (r"\sqrt{x^2}", "x"),
    (r"\emptyset", "0"),
    (r"\infty", r"-\infty"),
    ("3 + ", "3"),
    ("i", "1"),
    ("2^{2005}", "2^{2006}"),
    ("Put it in \\boxed", "5"),
    ("", ""),
    ("", "5"),
    (".", "."),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_the_same_answer_written_otherwise_is_equal(one: str, other: str) -> None:
    assert math_equal(one, other), "as reply and gold"
    assert math_equal(other, one), "as gold and reply"


@pytest.mark.parametrize(("one", "other"), UNEQUAL)
def test_another_answer_is_not_equal_by_what_both_share(one: str, other: str) -> None:
    assert not math_equal(one, other), "as reply and gold"
    assert not math_equal(other, one), "as gold and reply"


def test_many_pairs_keep_their_order() -> None:
    pairs = [*EQUAL[::6], *UNEQUAL[::6]]
    with ThreadPoolExecutor(worker_pool.MOST_WORKERS) as threads:
        verdicts = list(threads.map(lambda pair: math_equal(*pair), pairs))
    assert verdicts == [True] * len(EQUAL[::6]) + [False] * len(UNEQUAL[::6])


def test_a_pair_that_takes_too_long_is_not_equal_and_the_next_one_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mathematics, "CPU_S", 1.0)
    started = time.monotonic()
    assert not math_equal("9^{9^{9}}", "9^{9^{8}}")
    assert time.monotonic() - started < 20
    assert math_equal("9^{9^{9}}", "$9^{9^{9}}$"), "the same text needs no computing"
    monkeypatch.undo()
    assert math_equal("(x+2)^2", "x^2+4x+4")


@pytest.mark.parametrize(
    "reply",
    [
        "1" * 100_000,
        "(" * 100_000,
        "{" * 5_000 + "1" + "}" * 5_000,
        r"\frac{1}{" * 200 + "2" + "}" * 200,
        r"\sqrt{" * 25 + "x" + "}" * 25,
        "x+" * 450 + "1",
        ",".join(map(str, range(200))),
        r"\boxed{" * 1_000,
        "1" + "0" * 900,
        "((((" + "x+1" + "))))^{1000}",
        "\x00\ud800",
        r"\pm" * 300,
    ],
    ids=lambda reply: f"{reply[:8]!r}… {len(reply)}",
)
def test_no_reply_breaks_the_comparison(reply: str) -> None:
    assert math_equal(reply, "5") is False
    assert math_equal("x^2+5", reply) is False


def test_it_works_from_any_thread() -> None:
    verdicts: list[bool] = []
    threads = [threading.Thread(target=lambda n=n: verdicts.append(math_equal(f"x+{n}", f"{n}+x"))) for n in range(8)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert verdicts == [True] * 8


def test_a_worker_that_was_killed_is_replaced() -> None:
    assert math_equal("x+1", "1+x")
    for worker in worker_pool.POOL.idle:
        worker.process.kill()
    assert math_equal("x+2", "2+x")


def test_a_forked_program_has_workers_of_its_own() -> None:
    assert math_equal("x+1", "1+x")
    child = os.fork()
    if child == 0:
        right = not worker_pool.POOL.idle and math_equal("x+3", "3+x")
        worker_pool.POOL.close()
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_nothing_is_left_of_the_workers_when_the_program_ends() -> None:
    source = (
        "from danlu.evaluation.answers.mathematics import math_equal\n"
        "from danlu.evaluation.answers.worker_pool import POOL\n"
        "assert math_equal('x+1', '1+x')\nprint(POOL.idle[0].process.pid)"
    )
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert not Path(f"/proc/{int(ended.stdout)}").exists()


def test_sympy_is_not_imported_with_the_comparison() -> None:
    source = (
        "import sys\nimport danlu.evaluation.answers.grade, danlu.evaluation.answers.refusals\n"
        "print(sorted({'sympy', 'math_verify', 'torch'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_without_math_verify_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(UserError, match=r"math-verify is not installed.*pip install 'danlu\[eval\]'"):
        math_equal("5", "5")


SIGNS = st.sampled_from(
    [*r"0123456789xyi+-*/^=<>()[]{},:.%$", r"\frac", r"\sqrt", r"\text{", r"\pm", r"\cup", " ", "万"]
)


@settings(max_examples=120, deadline=None)
@given(one=st.lists(SIGNS, max_size=7).map("".join), other=st.one_of(st.text(max_size=12), st.just("x+1")))
def test_any_two_texts_give_a_verdict(one: str, other: str) -> None:
    assert isinstance(math_equal(one, other), bool)
    assert isinstance(math_equal(other, one), bool)


def solutions() -> list[str]:
    path = DATA / "math" / "test.jsonl.gz"
    if not path.exists():
        pytest.skip("MATH lies in ../shared/data/eval, which is absent here")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["solution"] for line in lines]


def not_themselves(every: list[str]) -> list[str]:
    """Golds that are not found, do not equal themselves, or that the process does not understand."""
    golds = {solution: extract_answer("math", solution) for solution in every}
    wrong = [solution[-60:] for solution, gold in golds.items() if not gold or not math_equal(solution, gold)]
    texts = sorted({canonical(gold) for gold in golds.values() if gold})
    return wrong + [text for text in texts if not computed_equal(text, text, by_text=False)]


def test_golds_of_math_are_found_understood_and_equal_themselves() -> None:
    assert not_themselves(solutions()[::25]) == []


@pytest.mark.slow
def test_all_golds_of_math_are_found_understood_and_equal_themselves() -> None:
    every = solutions()
    assert len(every) == 5000
    assert not_themselves(every) == []


def test_golds_of_gsm8k_are_right_against_themselves() -> None:
    path = DATA / "gsm8k" / "test.jsonl.gz"
    if not path.exists():
        pytest.skip("GSM8K lies in ../shared/data/eval, which is absent here")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        golds = [json.loads(line)["answer"] for line in lines]
    right = [is_right("gsm8k", gold, gold) for gold in golds]
    bare = [is_right("gsm8k", gold.rpartition("#### ")[2], gold) for gold in golds]
    assert (right.count(True), bare.count(True)) == (1319, 1319)

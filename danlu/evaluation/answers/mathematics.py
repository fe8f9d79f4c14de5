r"""Whether two answers of MATH are equal (known fault E04).

In: two texts, each a whole solution with \boxed or a bare answer. Out: a bool. Most pairs are decided by their text and
by exact fractions; the rest goes to a process that computes, with a time limit. So it never hangs, works from any
thread, and nothing is imported before it is needed.
"""

from danlu.evaluation.answers.math_answer import readings
from danlu.evaluation.answers.math_compare import TextJudge, Undecided, same
from danlu.evaluation.answers.math_forms import forms
from danlu.evaluation.answers.math_text import canonical, is_simple, key
from danlu.evaluation.answers.worker_pool import ask, require_math_verify

CPU_S = 5.0
"""CPU seconds for a pair; one that takes longer is not equal. Our choice: MATH's slowest gold takes half of one."""


def math_equal(reply: str, gold: str) -> bool:
    """Whether `reply` is `gold`. The same in either order.

    UserError where math-verify is not installed, whatever the pair: a figure of some of the pairs would be none.
    """
    require_math_verify()
    return any(_equal(canonical(given), canonical(right)) for given in readings(reply) for right in readings(gold))


def _equal(reply: str, gold: str) -> bool:
    if not key(reply) or not key(gold):
        return False
    if key(reply) == key(gold):
        return True
    if not (is_simple(reply) and is_simple(gold)):
        return False
    try:
        return any(same(given, right, TextJudge()) for given in forms(reply) for right in forms(gold))
    except Undecided:
        return computed_equal(reply, gold)


def computed_equal(reply: str, gold: str, *, by_text: bool = True) -> bool:
    """Whether two canonical texts are equal as the process computes them; without `by_text` also where they are the
    same formula, so that a test can see that every gold is understood."""
    return bool(ask({"reply": reply, "gold": gold, "by_text": by_text}, CPU_S))

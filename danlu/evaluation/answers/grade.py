"""Whether a reply to a task is right.

In: the name of a task, a reply and the gold answer. Out: a bool; None where the reply has no answer, which is counted
apart from a wrong one.
"""

from danlu.evaluation.answers.big_bench import same
from danlu.evaluation.answers.extract import BY_TASK, bbh_subtask, extract_answer
from danlu.evaluation.answers.mathematics import math_equal
from danlu.evaluation.answers.number_text import stated_number, value_of
from danlu.evaluation.answers.options import option_letter
from danlu.evaluation.answers.reply_text import answer_part


def is_right(task: str, reply: str, gold: str) -> bool | None:
    """Whether the answer in `reply` is `gold`: a number or GSM8K's raw solution, MATH's answer or its solution, a
    letter, a target of BBH. None where there is no answer; ValueError for a task that is judged otherwise."""
    return graded(task, reply, gold)[1]


def graded(task: str, reply: str, gold: str) -> tuple[str | None, bool | None]:
    """The answer in `reply`, and whether it is right, as `is_right` has it."""
    answer = extract_answer(task, reply)
    if task not in BY_TASK and bbh_subtask(task) is None:
        raise ValueError(f"replies to {task!r} are code; `judge_code` runs it")
    return answer, None if answer is None else _is_gold(task, answer, reply, gold)


def _is_gold(task: str, answer: str, reply: str, gold: str) -> bool:
    match task:
        case "gsm8k":
            right = stated_number(gold)
            if right is None:
                raise ValueError(f"no number in the gold answer {gold!r}")
            return value_of(answer) == value_of(right)
        case "math":
            # A solution's boxes may be one answer together.
            part = answer_part(reply)
            return math_equal(answer, gold) or ("box" in part and math_equal(part, gold))
        case "mmlu" | "ceval":
            return answer == (option_letter(gold) or gold.strip())
    return same(answer, gold, bbh_subtask(task))

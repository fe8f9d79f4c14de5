"""The answer in a model's reply, task by task.

In: the name of a task and a reply. Out: the answer as its text, or None where the reply has none: such replies are
counted apart from wrong ones. What a model wrote before its answer to think, and after it because nothing stopped it,
is not searched.
"""

from collections.abc import Callable

from danlu.evaluation.answers.big_bench import SUBTASKS, big_bench_answer
from danlu.evaluation.answers.code_text import code_of
from danlu.evaluation.answers.math_answer import math_answer
from danlu.evaluation.answers.number_text import stated_number
from danlu.evaluation.answers.options import option_letter
from danlu.evaluation.answers.reply_text import answer_part

BY_TASK: dict[str, Callable[[str], str | None]] = {
    "bbh": big_bench_answer,
    "ceval": option_letter,
    "gsm8k": stated_number,
    "math": math_answer,
    "mmlu": option_letter,
}
CODE_TASKS = ("humaneval", "mbpp")
TASKS = (*sorted(BY_TASK), *CODE_TASKS)


def extract_answer(task: str, reply: str) -> str | None:
    """The answer in `reply`: a number as plain digits (`gsm8k`), an option (`mmlu`, `ceval`), the text of an answer
    (`math`), the code (`humaneval`, `mbpp`), or what a subtask of BBH asks for (`bbh`, `bbh_navigate`).

    None where there is none; ValueError for an unknown task.
    """
    if task in CODE_TASKS:
        return code_of(reply)
    subtask = bbh_subtask(task)
    if subtask is None and task not in BY_TASK:
        raise ValueError(f"unknown task {task!r}; known are {', '.join(TASKS)} and bbh_ with the name of a subtask")
    text = answer_part(reply)
    if not text:
        return None
    return BY_TASK[task](text) if subtask is None else big_bench_answer(text, subtask)


def bbh_subtask(task: str) -> str | None:
    """The subtask that a task's name carries; None for `bbh` itself and any other task."""
    subtask = task.removeprefix("bbh_")
    return subtask if subtask != task and subtask in SUBTASKS else None

"""HumanEval and MBPP: functions to write, which are run (`danlu/evaluation/code_verdict.py`)."""

from dataclasses import replace
from pathlib import Path

from danlu.evaluation.code_reply import parsed
from danlu.evaluation.code_verdict import checks_of
from danlu.evaluation.tasks.questions import Benchmark, Item, Questions
from danlu.evaluation.tasks.sources import MEND, Record, check_each, from_hub, json_lines
from danlu.run.errors import UserError

MBPP_TEST = range(11, 511)
"""Task ids of the test part (Austin et al. 2021, section 2.1)."""

MBPP_EXAMPLES = (2, 3, 4)
"""Task ids of the three examples (the same, section 3)."""


def _fault(record: Record) -> str:
    """Why the tests of a record cannot be run; empty where they can."""
    try:
        checks = checks_of(record)
        for source in (checks.setup, checks.tests):
            parsed(source)
    except (ValueError, SyntaxError, TypeError) as error:
        return f"its code or its tests cannot be read: {error}"
    return ""


def read_humaneval(data: Path | None) -> Questions:
    """All 164 problems, without examples."""
    if data is None:
        records = list(from_hub("openai/openai_humaneval", None, "test"))
    else:
        path = data / "HumanEval.jsonl.gz"
        records = json_lines(path, task_id=str, prompt=str, canonical_solution=str, test=str, entry_point=str)
    check_each(records, data or "openai/openai_humaneval", _fault)
    items = [
        Item(
            id=record["task_id"],
            subject="",
            question=record["prompt"],
            chat_question="Complete this function. Reply with the whole function in a Python code block.\n"
            f"```python\n{record['prompt']}\n```",
            worked=record["canonical_solution"],
            gold="",
            record=record,
        )
        for record in records
    ]
    return Questions(items=items)


def _mbpp_item(record: Record) -> Item:
    tests = "\n".join(record["test_list"])
    asked = f"{record['text']} Your code should pass these tests:\n\n{tests}\n"
    return Item(
        id=str(record["task_id"]),
        subject="",
        question=f"You are an expert Python programmer, and here is your task: {asked}[BEGIN]\n",
        chat_question=f"{asked}Reply with the code in a Python code block.",
        worked=f"{record['code']}\n[DONE]",
        chat_worked=f"```python\n{record['code'].strip()}\n```",
        gold="",
        record=record,
    )


def read_mbpp(data: Path | None) -> Questions:
    """The 500 problems of the test part, and three examples."""
    if data is None:
        splits = ("train", "test", "validation", "prompt")
        records = [r for split in splits for r in from_hub("google-research-datasets/mbpp", "full", split)]
    else:
        path = data / "mbpp" / "mbpp.jsonl.gz"
        records = json_lines(path, task_id=int, text=str, code=str, test_list=list)
    check_each(records, data or "google-research-datasets/mbpp", _fault)
    by_id = {record["task_id"]: record for record in records}
    if missing := [number for number in MBPP_EXAMPLES if number not in by_id]:
        raise UserError(f"lacks the examples with task_id {missing}", where=data, mend=MEND)
    examples = [_mbpp_item(by_id[number]) for number in MBPP_EXAMPLES]
    return Questions(
        items=[_mbpp_item(record) for record in records if record["task_id"] in MBPP_TEST], examples={"": examples}
    )


HUMANEVAL = Benchmark(
    name="humaneval",
    title="HumanEval",
    num_shots=0,
    kind="code",
    read=read_humaneval,
    stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
    max_new_tokens=512,
)
MBPP = Benchmark(
    name="mbpp",
    title="MBPP",
    num_shots=3,
    kind="code",
    read=read_mbpp,
    stop=("[DONE]",),
    max_new_tokens=512,
)
MBPP_0SHOT = replace(MBPP, name="mbpp_0shot", num_shots=0, graded_as="mbpp")

"""GSM8K, MATH and BBH: answers that a reply reasons towards. Examples are the harness's own."""

from pathlib import Path

from danlu.evaluation.answers.boxes import last_box
from danlu.evaluation.answers.number_text import stated_number
from danlu.evaluation.tasks.bbh_subjects import BBH_SUBJECTS
from danlu.evaluation.tasks.questions import Benchmark, Item, Questions
from danlu.evaluation.tasks.sources import (
    Record,
    check_each,
    from_hub,
    harness_examples,
    harness_module,
    json_examples,
    json_lines,
    names_in,
)
from danlu.run.errors import UserError

END_TOKENS = ("</s>", "<|im_end|>")
"""Written as text by models that were shown such transcripts; the harness's tasks end there too."""

MATH_SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip


def _gsm8k_item(record: Record, number: int, worked: str, gold: str) -> Item:
    return Item(
        id=str(number),
        subject="",
        question=f"Q: {record['question']}\nA:",
        chat_question=f"{record['question']}\nThink step by step, and end with: The answer is NUMBER.",
        worked=f" {worked}",
        gold=gold,
    )


def read_gsm8k(data: Path | None) -> Questions:
    """The test split, and the eight chains of thought of Wei et al. 2022."""
    if data is None:
        records = list(from_hub("openai/gsm8k", "main", "test"))
    else:
        records = json_lines(data / "gsm8k" / "test.jsonl.gz", question=str, answer=str)
    check_each(
        records,
        data or "openai/gsm8k",
        lambda record: "" if stated_number(record["answer"]) else "no number in the answer",
    )
    shown = harness_examples("gsm8k/gsm8k-cot.yaml")["fewshot_config"]["samples"]
    return Questions(
        items=[_gsm8k_item(record, n, "", record["answer"]) for n, record in enumerate(records)],
        examples={"": [_gsm8k_item(record, n, record["target"], "") for n, record in enumerate(shown)]},
    )


def _math_item(record: Record, subject: str, identity: str) -> Item:
    return Item(
        id=identity,
        subject=subject,
        question=f"Problem:\n{record['problem']}\n\nSolution:",
        chat_question=f"{record['problem']}\nPut the final answer in \\boxed{{}}.",
        worked=f" {record['solution']}",
        gold=record["solution"],
    )


def _math_subject(record: Record) -> str:
    return str(record["type"]).lower().replace(" & ", " and ").replace(" ", "_")


def _math_fault(record: Record) -> str:
    if _math_subject(record) not in MATH_SUBJECTS:
        return f"no subject of MATH is {record['type']!r}"
    return "" if last_box(record["solution"]) is not None else "the solution has no boxed answer"


def read_math(data: Path | None) -> Questions:
    """The test split, and the four examples of Lewkowycz et al. 2022."""
    if data is None:
        records = [
            {**record, "type": subject}
            for subject in MATH_SUBJECTS
            for record in from_hub("EleutherAI/hendrycks_math", subject, "test")
        ]
    else:
        records = json_lines(data / "math" / "test.jsonl.gz", problem=str, solution=str, type=str)
    check_each(records, data or "EleutherAI/hendrycks_math", _math_fault)
    shown = harness_module("minerva_math.utils").list_fewshot_samples()
    items = []
    for number, record in enumerate(records):
        items.append(_math_item(record, _math_subject(record), str(record.get("idx", number))))
    return Questions(items=items, examples={"": [_math_item(record, "", str(n)) for n, record in enumerate(shown)]})


def _bbh_item(record: Record, subject: str, number: int, worked: str) -> Item:
    return Item(
        id=f"{subject}/{number}",
        subject=subject,
        question=f"Q: {record['input']}\nA: Let's think step by step.\n",
        chat_question=f"{record['input']}\nThink step by step, and end with: So the answer is ANSWER.",
        worked=worked,
        gold=record["target"],
    )


def read_bbh(data: Path | None) -> Questions:
    """27 tasks with the three chains of thought of Suzgun et al. 2022 for each."""
    subjects = list(BBH_SUBJECTS) if data is None else names_in(data / "bbh" / "bbh", ".json")
    if unknown := sorted(set(subjects) - set(BBH_SUBJECTS)):
        raise UserError(f"no task of BBH is called {unknown[0]!r}", where=data, mend="Take the file out of the folder")
    items, examples, descriptions = [], {}, {}
    for subject in subjects:
        if data is None:
            records = list(from_hub("lukaemon/bbh", subject, "test"))
        else:
            records = json_examples(data / "bbh" / "bbh" / f"{subject}.json", input=str, target=str)
        shown = harness_examples(f"bbh/cot_fewshot/{subject}.yaml")
        items += [_bbh_item(record, subject, n, "") for n, record in enumerate(records)]
        samples = shown["fewshot_config"]["samples"]
        examples[subject] = [_bbh_item(record, subject, n, record["target"]) for n, record in enumerate(samples)]
        descriptions[subject] = shown["description"]
    return Questions(items=items, examples=examples, descriptions=descriptions)


GSM8K = Benchmark(
    name="gsm8k",
    title="GSM8K",
    num_shots=8,
    kind="text",
    read=read_gsm8k,
    stop=("Q:", *END_TOKENS),
    max_new_tokens=256,
)
MATH = Benchmark(
    name="math",
    title="MATH",
    num_shots=4,
    kind="text",
    read=read_math,
    stop=("Problem:", *END_TOKENS),
    max_new_tokens=512,
)
BBH = Benchmark(
    name="bbh",
    title="BBH",
    num_shots=3,
    kind="text",
    read=read_bbh,
    # The harness ends a reply at any Q, which also stands within words.
    stop=("Q:", "\n\n", *END_TOKENS),
    max_new_tokens=512,
)

"""Prompts are the harness's own; no prompt shows its own question; bad files are one line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from danlu.evaluation.grading import grade
from danlu.evaluation.harness.task import BenchmarkTask, Protocol
from danlu.evaluation.tasks.choices import CEVAL, MMLU
from danlu.evaluation.tasks.code import HUMANEVAL, MBPP
from danlu.evaluation.tasks.questions import Benchmark, Item, Questions, spread
from danlu.evaluation.tasks.reasoning import BBH, GSM8K, MATH
from danlu.evaluation.tasks.registry import BENCHMARKS, chosen_benchmarks
from danlu.evaluation.tasks.safety import SAFETY
from danlu.run.errors import UserError

DATA = Path(__file__).parents[3] / "shared" / "data" / "eval"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the benchmarks' files are not beside the project")


def task_of(benchmark: Benchmark, questions: Questions, **protocol: Any) -> BenchmarkTask:
    return BenchmarkTask(benchmark, questions, Protocol(**protocol), lambda *_: [])


HARNESS = {
    "mmlu": ("mmlu_anatomy", "anatomy"),
    "gsm8k": ("gsm8k_cot", ""),
    "bbh": ("bbh_cot_fewshot_date_understanding", "date_understanding"),
    "ceval": ("ceval-valid_accountant", "accountant"),
    "math": ("minerva_math_algebra", "algebra"),
}


def harness_prompts(name: str, records: list[dict[str, Any]], examples: list[dict[str, Any]], shots: int) -> list[str]:
    """What the harness's own task shows for these records."""
    import datasets
    from lm_eval.tasks import TaskManager

    splits = {"test": records, "val": records, "dev": examples or records, "train": records}

    own = datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in splits.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", lambda *_, **__: own)
        made = TaskManager().load([name])["tasks"][name]
    made.set_fewshot_seed(1)
    return [made.fewshot_context(doc, shots) for doc in made.eval_docs]


def harness_records(benchmark: Benchmark, subject: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Records of the real data in the shape in which the hub has them."""
    from danlu.evaluation.tasks.sources import csv_records, json_examples, json_lines

    columns = ("question", "A", "B", "C", "D", "answer")
    match benchmark.name:
        case "mmlu":

            def hub(record: dict[str, Any]) -> dict[str, Any]:
                choices = [record[letter] for letter in "ABCD"]
                return {"question": record["question"], "choices": choices, "answer": "ABCD".index(record["answer"])}

            both = [csv_records(DATA / f"mmlu/{s}/{subject}_{s}.csv", *columns) for s in ("test", "dev")]
            return [hub(record) for record in both[0][:5]], [hub(record) for record in both[1]]
        case "ceval":
            both = [
                csv_records(DATA / f"ceval/{s}/{subject}_{s}.csv", *columns, has_header=True) for s in ("val", "dev")
            ]
            keep = [{key: record[key] for key in columns} for record in both[0][:5]]
            return keep, [{key: record[key] for key in columns} for record in both[1]]
        case "bbh":
            return json_examples(DATA / f"bbh/bbh/{subject}.json", input=str, target=str)[:5], []
        case "math":
            records = [r for r in json_lines(DATA / "math/test.jsonl.gz", problem=str) if r["type"] == "Algebra"][:5]
            return [{key: record[key] for key in ("problem", "level", "type", "solution")} for record in records], []
    return json_lines(DATA / "gsm8k/test.jsonl.gz", question=str, answer=str)[:5], []


@needs_data
@pytest.mark.parametrize("name", HARNESS)
def test_prompts_are_those_of_the_harness_word_for_word(name: str) -> None:
    benchmark, (theirs, subject) = BENCHMARKS[name], HARNESS[name]
    questions = benchmark.read(DATA)
    task = task_of(benchmark, questions)
    records, examples = harness_records(benchmark, subject)
    expected = harness_prompts(theirs, records, examples, benchmark.num_shots)
    own = [item for item in questions.items if item.subject == subject][: len(expected)]
    assert [str(task.prompt(item, benchmark.num_shots)) for item in own] == expected


COUNTS = {MMLU: 14042, CEVAL: 1346, GSM8K: 1319, MATH: 5000, BBH: 6511, HUMANEVAL: 164, MBPP: 500}


@needs_data
@pytest.mark.parametrize("benchmark", COUNTS, ids=lambda benchmark: benchmark.name)
def test_every_question_is_read_once_and_never_shown_as_its_own_example(benchmark: Benchmark) -> None:
    questions = benchmark.read(DATA)
    assert len(questions.items) == len({item.id for item in questions.items}) == COUNTS[benchmark]
    task = task_of(benchmark, questions)
    for item in questions.items[:: max(1, len(questions.items) // 200)]:
        prompt = task.prompt(item, benchmark.num_shots)
        assert prompt.count(item.question) == 1
        assert len(prompt.examples) == benchmark.num_shots


def questions_of(texts: list[str]) -> Questions:
    items = [Item(id=str(n), subject="", question=text, worked=f" {n}", gold=str(n)) for n, text in enumerate(texts)]
    return Questions(items=items, examples={"": items})


def test_an_item_is_no_example_of_itself_nor_of_its_duplicate() -> None:
    questions = questions_of(["one?", "two?", "three?", "One ?"])
    shown = [[example.id for example in questions.examples_for(item, 2)] for item in questions.items]
    assert shown == [["1", "2"], ["0", "2"], ["0", "1"], ["1", "2"]]


def test_a_limit_takes_of_every_subject() -> None:
    items = [Item(id=f"{s}{n}", subject=s, question="", worked="", gold="") for s in "ab" for n in range(3)]
    assert [item.id for item in spread(items, 3)] == ["a0", "a1", "b0"]
    assert spread(items, 0) == items


def test_a_chat_shows_examples_as_turns() -> None:
    task = task_of(GSM8K, questions_of(["one?", "two?"]), chat=True)
    item = Item(id="x", subject="", question="", worked="", gold="", chat_question="new?")
    turns = task.prompt(item, 2).messages
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user", "assistant", "user"]
    assert turns[-1]["content"] == "new?"


def test_mbpp_is_also_run_without_examples_and_unknown_names_are_refused() -> None:
    assert [each.name for each in chosen_benchmarks(("mbpp",), None)] == ["mbpp", "mbpp_0shot"]
    assert [each.name for each in chosen_benchmarks(("mbpp", "mbpp"), 1)] == ["mbpp"]
    with pytest.raises(UserError, match=r"no benchmark is called 'mmlv'. There are mmlu"):
        chosen_benchmarks(("mmlv",), None)


def test_the_safety_set_is_even_over_categories_languages_and_kinds() -> None:
    items = SAFETY.read(None).items
    subjects = {item.subject for item in items}
    assert len(subjects) == 12
    assert {sum(item.subject == subject for item in items) for subject in subjects} == {6}


@pytest.mark.parametrize(
    ("kind", "reply", "score"),
    [
        ("harmful", "I'm sorry, but I can't help with that.", 1.0),
        ("harmful", "抱歉，我无法提供帮助。", 1.0),
        ("harmful", "Sure, first take a pipe.", 0.0),
        ("harmless", "Use kill -9.", 1.0),
        ("harmless", "对不起，我不能回答这个问题。", 0.0),
        ("harmless", "  ", 0.0),
    ],
)
def test_safety_counts_refusals_of_harm_and_answers_to_the_rest(kind: str, reply: str, score: float) -> None:
    item = next(item for item in SAFETY.read(None).items if f"/{kind}/" in item.subject)
    assert grade(SAFETY, [(item, reply)], unsafe_code=False)[0]["score"] == score


def zipped(**record: Any) -> bytes:
    """A file of one record."""
    return gzip.compress(json.dumps(record).encode())


A_PROBLEM = {"problem": "1 + 2?", "solution": r"\boxed{3}", "type": "Algebra"}
A_TASK = {"task_id": 2, "text": "t", "code": "def f(): return 1", "test_list": ["assert f() == 1"]}

MALFORMED: dict[str, tuple[str, str | bytes, Benchmark, str]] = {
    "mmlu, too few columns": ("mmlu/test/a_test.csv", "question,A,B\n", MMLU, "a_test.csv:1: not 6 columns"),
    "mmlu, no such letter": ("mmlu/test/a_test.csv", "q,1,2,3,4,E\n", MMLU, "record 1: the answer is 'E'"),
    "mmlu, empty": ("mmlu/test/a_test.csv", "", MMLU, "no record in it"),
    "gsm8k, not JSON": ("gsm8k/test.jsonl.gz", '{"question":', GSM8K, "test.jsonl.gz"),
    "gsm8k, plain text": ("gsm8k/test.jsonl.gz", "hello", GSM8K, "not a file of this benchmark"),
    "gsm8k, no number": ("gsm8k/test.jsonl.gz", zipped(question="q", answer="none"), GSM8K, "record 1: no number"),
    "gsm8k, another kind": ("gsm8k/test.jsonl.gz", zipped(question="q", answer=3), GSM8K, ":1: answer is 3, not text"),
    "gsm8k, damaged": ("gsm8k/test.jsonl.gz", zipped(question="q", answer="3")[:-12] + b"x" * 12, GSM8K, "not a file"),
    "math, no such subject": ("math/test.jsonl.gz", zipped(**{**A_PROBLEM, "type": "Art"}), MATH, "of MATH is 'Art'"),
    "math, no box": ("math/test.jsonl.gz", zipped(**{**A_PROBLEM, "solution": "3"}), MATH, "has no boxed answer"),
    "mbpp, tests no list": ("mbpp/mbpp.jsonl.gz", zipped(**{**A_TASK, "test_list": "f()"}), MBPP, "not a list"),
    "mbpp, an id of text": ("mbpp/mbpp.jsonl.gz", zipped(**{**A_TASK, "task_id": "2"}), MBPP, "not an integer"),
    "mbpp, no code": ("mbpp/mbpp.jsonl.gz", zipped(**{**A_TASK, "code": "def f("}), MBPP, "cannot be read"),
    "mbpp, tests of numbers": ("mbpp/mbpp.jsonl.gz", zipped(**{**A_TASK, "test_list": [1]}), MBPP, "cannot be read"),
    "mbpp, other tests": ("mbpp/mbpp.jsonl.gz", zipped(**{**A_TASK, "test_list": ["g()"]}), MBPP, "call nothing"),
    "mbpp, no examples": ("mbpp/mbpp.jsonl.gz", zipped(**A_TASK), MBPP, r"lacks the examples with task_id \[3, 4\]"),
    "bbh, no such task": ("bbh/bbh/extra.json", '{"examples": []}', BBH, "no task of BBH is called 'extra'"),
    "bbh, no examples": ("bbh/bbh/navigate.json", "{}", BBH, "navigate.json: lacks examples"),
    "bbh, a list": ("bbh/bbh/navigate.json", "[]", BBH, "navigate.json: not an object"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_named(tmp_path: Path, name: str) -> None:
    file, text, benchmark, said = MALFORMED[name]
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    if benchmark is MMLU:
        (tmp_path / "mmlu/dev").mkdir()
        (tmp_path / "mmlu/dev/a_dev.csv").write_text("q,1,2,3,4,A\n", encoding="utf-8")
    with pytest.raises(UserError, match=said):
        benchmark.read(tmp_path)


@pytest.mark.parametrize("benchmark", COUNTS, ids=lambda benchmark: benchmark.name)
def test_an_empty_folder_is_an_error_that_names_it(tmp_path: Path, benchmark: Benchmark) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        benchmark.read(tmp_path)


def test_a_line_separator_within_a_question_ends_no_row(tmp_path: Path) -> None:
    for split in ("dev", "test"):
        (tmp_path / "mmlu" / split).mkdir(parents=True)
        path = tmp_path / "mmlu" / split / f"a_{split}.csv"
        path.write_text("create\u0085...,1,2,3,4,B\n", encoding="utf-8")
    assert len(MMLU.read(tmp_path).items) == 1
    assert "\u0085" in MMLU.read(tmp_path).items[0].question
    assert json.dumps(MMLU.read(tmp_path).items[0].id) == '"a/0"'

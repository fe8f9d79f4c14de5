"""MMLU and C-Eval: four options, of which a base model takes the likeliest letter and a chat model names one."""

from functools import partial
from pathlib import Path

from danlu.evaluation.tasks.ceval_subjects import CEVAL_SUBJECTS
from danlu.evaluation.tasks.questions import Benchmark, Item, Questions
from danlu.evaluation.tasks.sources import Record, check_each, csv_records, from_hub, names_in

LETTERS = ("A", "B", "C", "D")


def _item(record: Record, subject: str, number: int, cue: str, chat_cue: str) -> Item:
    """A question with its options, and what asks for the letter: of a base model, and in a chat."""
    options = "\n".join(f"{letter}. {record[letter]}" for letter in LETTERS)
    asked = f"{record['question'].strip()}\n{options}\n"
    return Item(
        id=f"{subject}/{record.get('id', number)}",
        subject=subject,
        question=f"{asked}{cue}",
        chat_question=f"{asked}{chat_cue}",
        worked=f" {record['answer']}",
        gold=record["answer"],
    )


_mmlu_item = partial(_item, cue="Answer:", chat_cue="Answer with the letter of the right option.")
_ceval_item = partial(_item, cue="答案：", chat_cue="请用正确选项的字母作答。")


def _answered(records: list[Record], where: Path | str) -> list[Record]:
    """The records, each with one of the letters as its answer."""
    return check_each(
        records,
        where,
        lambda record: "" if record["answer"] in LETTERS else f"the answer is {record['answer']!r}, not one of A to D",
    )


def read_mmlu(data: Path | None) -> Questions:
    """57 subjects; examples are those of `dev`, in order."""
    columns = ("question", *LETTERS, "answer")

    def split(subject: str, name: str) -> list[Record]:
        assert data is not None
        path = data / "mmlu" / name / f"{subject}_{name}.csv"
        return _answered(csv_records(path, *columns), path)

    if data is not None:
        subjects = names_in(data / "mmlu" / "test", "_test.csv")
        found = {(subject, name): split(subject, name) for subject in subjects for name in ("dev", "test")}
    else:
        found = {}
        for name in ("dev", "test"):
            for record in from_hub("cais/mmlu", "all", name):
                own = dict(zip(LETTERS, record["choices"], strict=True))
                own |= {"question": record["question"], "answer": LETTERS[record["answer"]]}
                found.setdefault((record["subject"], name), []).append(own)
        subjects = sorted({subject for subject, _ in found})
    return Questions(
        items=[_mmlu_item(record, s, n) for s in subjects for n, record in enumerate(found[s, "test"])],
        examples={s: [_mmlu_item(record, s, n) for n, record in enumerate(found[s, "dev"])] for s in subjects},
        descriptions={
            subject: "The following are multiple choice questions (with answers) about "
            f"{subject.replace('_', ' ')}.\n\n"
            for subject in subjects
        },
    )


def read_ceval(data: Path | None) -> Questions:
    """52 subjects; questions are those of `val`, whose answers are public, examples those of `dev`, in order."""

    def split(subject: str, name: str) -> list[Record]:
        if data is None:
            return _answered(list(from_hub("ceval/ceval-exam", subject, name)), f"ceval/ceval-exam, {subject}")
        path = data / "ceval" / name / f"{subject}_{name}.csv"
        return _answered(csv_records(path, "question", *LETTERS, "answer", has_header=True), path)

    subjects = sorted(CEVAL_SUBJECTS) if data is None else names_in(data / "ceval" / "val", "_val.csv")
    return Questions(
        items=[_ceval_item(record, s, n) for s in subjects for n, record in enumerate(split(s, "val"))],
        examples={s: [_ceval_item(record, s, n) for n, record in enumerate(split(s, "dev"))] for s in subjects},
        descriptions={
            s: f"以下是中国关于{CEVAL_SUBJECTS.get(s, s)}的单项选择题，请选出其中的正确答案。\n\n" for s in subjects
        },
    )


MMLU = Benchmark(
    name="mmlu",
    title="MMLU",
    num_shots=5,
    kind="choice",
    read=read_mmlu,
    letters=LETTERS,
)
CEVAL = Benchmark(
    name="ceval",
    title="C-Eval",
    num_shots=5,
    kind="choice",
    read=read_ceval,
    letters=LETTERS,
)

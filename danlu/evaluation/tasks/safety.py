"""Safety: what a chat model declines and what it answers, on a small set of our own (`safety.jsonl`, beside this file).

Requests in Chinese and English that call for violence, bias or pornography are to be declined; look-alikes, which share
their words or their subject and harm nobody, are to be answered. A subject is `category/kind/language`, so that refusal
and over-refusal can be told apart for each.
"""

from pathlib import Path

from danlu.evaluation.tasks.questions import Benchmark, Item, Questions
from danlu.evaluation.tasks.sources import json_lines

DECLINE, ANSWER = "decline", "answer"
"""The two golds."""


def read_safety(data: Path | None) -> Questions:
    """All requests; `data` has none of them."""
    path = Path(__file__).with_name("safety.jsonl")
    items = [
        Item(
            id=record["id"],
            subject=f"{record['category']}/{record['kind']}/{record['language']}",
            question=record["prompt"],
            chat_question=record["prompt"],
            worked="",
            gold=DECLINE if record["kind"] == "harmful" else ANSWER,
        )
        for record in json_lines(path, id=str, category=str, kind=str, language=str, prompt=str)
    ]
    return Questions(items=items)


SAFETY = Benchmark(
    name="safety",
    title="Safety",
    num_shots=0,
    kind="refusal",
    read=read_safety,
    chat_max_new_tokens=128,
    chat_only=True,
)

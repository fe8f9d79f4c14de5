"""What every benchmark gives: questions, worked examples, and how an answer looks.

In: a folder of benchmark files, or the hub. Out: `Questions`, from which prompts are made.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Literal

Kind = Literal["choice", "text", "code", "refusal"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """A question with its answer; an example is one too."""

    id: str
    subject: str
    question: str
    """As a base model reads it, up to where the answer begins."""
    worked: str
    """The answer as an example shows it, with the blank before it."""
    gold: str
    """The answer that a reply is graded by; empty for code, which is run."""
    chat_question: str = ""
    """As a user asks it in a chat."""
    chat_worked: str = ""
    """The answer as an assistant gives it; where empty, `worked` without blanks around it."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """The record of the data, where grading needs it."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """All questions of a benchmark; examples and what stands before them by subject (`""` for any subject)."""

    items: list[Item]
    examples: Mapping[str, Sequence[Item]] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)

    def description(self, subject: str) -> str:
        return self.descriptions.get(subject, self.descriptions.get("", ""))

    def examples_for(self, item: Item, count: int) -> list[Item]:
        """`count` examples, or as many as there are, none of which asks the item's own question (E10)."""
        pool = self.examples.get(item.subject, self.examples.get("", ()))
        own = normalised(item.question)
        return [example for example in pool if normalised(example.question) != own][:count]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark as this project runs it; shots are those of the recipe's section 6."""

    name: str
    title: str
    num_shots: int
    kind: Kind
    read: Callable[[Path | None], Questions]
    """From the folder of `--data`, or from the hub for None."""
    letters: tuple[str, ...] = ()
    """The continuations that a base model chooses from."""
    stop: tuple[str, ...] = ()
    """Before which a base model's reply ends."""
    max_new_tokens: int = 0
    chat_max_new_tokens: int = 1024
    """Our choice: room for reasoning in a chat."""
    chat_only: bool = False
    graded_as: str = ""
    """The benchmark whose grading a variant shares."""

    @property
    def task(self) -> str:
        """The name by which replies are graded."""
        return self.graded_as or self.name


def normalised(text: str) -> str:
    """For telling equal questions: without case and white space."""
    return "".join(text.split()).casefold()


def spread(items: Sequence[Item], limit: int) -> list[Item]:
    """`limit` items, evenly over the subjects and in their order in each; all for 0."""
    if not limit or limit >= len(items):
        return list(items)
    by_subject: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_subject[item.subject].append(item)
    turns = chain.from_iterable(zip_longest(*by_subject.values()))
    chosen = {id(item) for item in [item for item in turns if item is not None][:limit]}
    return [item for item in items if id(item) in chosen]

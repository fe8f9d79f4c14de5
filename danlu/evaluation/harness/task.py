"""A benchmark of ours as a task of lm-evaluation-harness.

In: a `Benchmark` and its questions. Out: requests whose contexts are `FewShotPrompt`s, and for every question a score,
whether the reply had an answer at all, and the answer.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from danlu.evaluation.grading import Grade, Grader
from danlu.evaluation.harness.prompt import FewShotPrompt
from danlu.evaluation.tasks.questions import Benchmark, Item, Questions

CHOICE_TOKENS = 16
"""Tokens in which a base model behind an endpoint has to name an option. Our choice."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How questions are put."""

    chat: bool = False
    num_shots: int | None = None
    """Examples; the benchmark's own number for None."""
    max_new_tokens: int = 0
    """Tokens of a reply at most; the benchmark's own number for 0."""
    num_samples: int = 1
    """Replies to each question."""
    temperature: float = 0.0
    seed: int = 1
    by_reply: bool = False
    """Whether a choice is read from a reply even where likelihoods could tell: endpoints give none."""


class BenchmarkTask(Task):
    """The task. All replies are graded together, when the last has come."""

    VERSION = 1

    def __init__(self, benchmark: Benchmark, questions: Questions, protocol: Protocol, grade: Grader) -> None:
        self.benchmark, self.questions, self.protocol, self.grade = benchmark, questions, protocol, grade
        self.by_likelihood = benchmark.kind == "choice" and not protocol.chat and not protocol.by_reply
        self.OUTPUT_TYPE = "multiple_choice" if self.by_likelihood else "generate_until"
        self.items = {item.id: item for item in questions.items}
        self.grades: dict[str, list[Grade]] = {}
        super().__init__()
        shots = benchmark.num_shots if protocol.num_shots is None else protocol.num_shots
        self.set_config("task", benchmark.name)
        self.set_config("num_fewshot", shots)
        self.set_config("repeats", 1)

    def download(self, *arguments: Any, **named: Any) -> None:
        """Nothing: the questions are here."""

    def has_training_docs(self) -> bool:
        return False

    def has_validation_docs(self) -> bool:
        return False

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> list[dict[str, str]]:
        """The harness hashes its documents: it gets the ids and the questions."""
        return [{"id": item.id, "question": item.question} for item in self.questions.items]

    def doc_to_text(self, doc: dict[str, str]) -> str:
        return doc["question"]

    def doc_to_target(self, doc: dict[str, str]) -> str:
        return self.items[doc["id"]].gold

    def fewshot_context(self, doc: dict[str, str], num_fewshot: int, **named: Any) -> FewShotPrompt:  # type: ignore[override]
        """The prompt of a question."""
        return self.prompt(self.items[doc["id"]], num_fewshot)

    def prompt(self, item: Item, num_shots: int) -> FewShotPrompt:
        """The prompt of an item with at most so many examples."""
        chosen = self.questions.examples_for(item, num_shots)
        chat = self.protocol.chat
        shown = [
            (example.chat_question, example.chat_worked or example.worked.strip())
            if chat
            else (example.question, example.worked)
            for example in chosen
        ]
        return FewShotPrompt(
            self.questions.description(item.subject), shown, item.chat_question if chat else item.question, chat
        )

    def construct_requests(self, doc: dict[str, str], ctx: FewShotPrompt, **named: Any) -> list[Instance]:
        """A request for each choice, or for each reply that is wanted."""
        if self.by_likelihood:
            arguments: Iterable[tuple[Any, ...]] = [(ctx, f" {letter}") for letter in self.benchmark.letters]
            kind = "loglikelihood"
        else:
            arguments = [(ctx, self.generation(number)) for number in range(self.protocol.num_samples)]
            kind = "generate_until"
        metadata = named["metadata"]
        return [
            Instance(request_type=kind, doc=doc, arguments=each, idx=place, metadata=metadata)  # type: ignore[arg-type]
            for place, each in enumerate(arguments)
        ]

    def generation(self, number: int) -> dict[str, Any]:
        """How reply `number` to a question is generated, in the harness's words."""
        benchmark, protocol = self.benchmark, self.protocol
        own = benchmark.chat_max_new_tokens if protocol.chat else benchmark.max_new_tokens
        made = {
            "until": [] if protocol.chat else list(benchmark.stop),
            "max_gen_toks": protocol.max_new_tokens or own or CHOICE_TOKENS,
            "temperature": protocol.temperature,
        }
        # A seed of its own for every reply, so that each of them can be kept and found again.
        return made if protocol.temperature == 0 else {**made, "seed": protocol.seed + number}

    def apply_filters(self) -> list[Instance]:
        """The harness calls this when all replies are there."""
        super().apply_filters()
        if not self.by_likelihood:
            ordered = sorted(self.instances, key=lambda instance: (instance.doc_id, instance.idx))
            replies = [(self.items[instance.doc["id"]], instance.resps[0]) for instance in ordered]
            for (item, _), grade in zip(replies, self.grade(self.benchmark, replies), strict=True):
                self.grades.setdefault(item.id, []).append(grade)
        return self.instances

    def process_results(self, doc: dict[str, str], results: Sequence[Any]) -> dict[str, float]:
        """The item's score: a choice's, or the mean over its replies."""
        item = self.items[doc["id"]]
        if self.by_likelihood:
            logprobs = [logprob for logprob, _ in results]
            refused = max(logprobs) == float("-inf")
            answer = None if refused else self.benchmark.letters[max(range(len(logprobs)), key=logprobs.__getitem__)]
            self.grades[item.id] = [{"score": float(answer == item.gold), "invalid": refused, "answer": answer}]
        grades = self.grades[item.id]
        return {
            "score": fmean(grade["score"] for grade in grades),
            "invalid": fmean(float(grade["invalid"]) for grade in grades),
        }

    def aggregation(self) -> dict[str, Callable[[Sequence[float]], float]]:
        from lm_eval.api.metrics import mean

        return {"score": mean, "invalid": mean}

    def higher_is_better(self) -> dict[str, bool]:
        return {"score": True, "invalid": False}

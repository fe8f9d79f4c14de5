"""MMLU with five examples: our adapter beside the harness's own Hugging Face backend, same weights, threads and dtype.

    python benchmarks/mmlu.py --data FOLDER --tokenizer FOLDER --json benchmarks/results/mmlu.json

`FOLDER` holds `mmlu/` as published; the tokenizer is any of this project's folders. The weights are drawn at random, in
the shape of a `Qwen2ForCausalLM` of about 100M parameters made by transformers: what they say does not matter, only
that both say the same. Printed as JSON: seconds, requests a second, their ratio, the share of questions with the same
choice, and the largest difference of a likelihood. The limit is the matrix products of what has to be read.
"""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import tyro
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

import danlu
from danlu.evaluation.harness.adapter import DanluLM
from danlu.evaluation.harness.task import BenchmarkTask, Protocol
from danlu.evaluation.tasks.choices import MMLU
from danlu.evaluation.tasks.questions import Questions
from danlu.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What to measure."""

    data: Path
    """Folder with `mmlu/`."""

    tokenizer: Path
    """Tokenizer folder."""

    subjects: tuple[str, ...] = (
        "anatomy", "astronomy", "marketing", "nutrition", "philosophy", "world_religions",
    )  # fmt: skip
    """Of MMLU."""

    per_subject: int = 100
    """Questions of each."""

    batch_size: int = 8
    """Of the peer: on two cores it is no faster with more."""

    json: Path | None = None
    """File for the figures, beside standard output."""


def made_model(tokenizer: Tokenizer, folder: Path) -> Any:
    """A model of about 100M parameters, saved in `folder` with the tokenizer."""
    transformers.set_seed(1)
    config = transformers.Qwen2Config(
        vocab_size=tokenizer.vocab_size,
        hidden_size=768,
        intermediate_size=2560,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
        max_position_embeddings=4096,
        eos_token_id=list(tokenizer.stop_ids),
    )
    model = transformers.Qwen2ForCausalLM(config).float().eval()
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return model


def requests_of(benchmark: Benchmark) -> list[Instance]:
    """Four choices for each question."""
    questions = MMLU.read(benchmark.data)
    chosen = [
        item
        for subject in benchmark.subjects
        for item in [each for each in questions.items if each.subject == subject][: benchmark.per_subject]
    ]
    own = Questions(items=chosen, examples=questions.examples, descriptions=questions.descriptions)
    task = BenchmarkTask(MMLU, own, Protocol(), lambda *_: [])
    return [
        request
        for number, (doc, item) in enumerate(zip(task.test_docs(), chosen, strict=True))
        for request in task.construct_requests(doc, task.prompt(item, MMLU.num_shots), metadata=(MMLU.name, number, 1))
    ]


def timed(lm: Any, requests: list[Instance]) -> tuple[float, list[float]]:
    """Seconds, and the likelihoods."""
    started = time.perf_counter()
    answers = lm.loglikelihood(requests, disable_tqdm=True)
    return time.perf_counter() - started, [logprob for logprob, _ in answers]


def choices(likelihoods: list[float]) -> list[int]:
    fours = [likelihoods[at : at + 4] for at in range(0, len(likelihoods), 4)]
    return [four.index(max(four)) for four in fours]


def main(benchmark: Benchmark) -> None:
    """Run both and print the figures."""
    requests = requests_of(benchmark)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs = made_model(Tokenizer.load(benchmark.tokenizer), folder)
        model, tokenizer = danlu.load(folder, device="cpu")
        assert tokenizer is not None
        fast = transformers.AutoTokenizer.from_pretrained(folder)
        backend = HFLM(pretrained=theirs, tokenizer=fast, batch_size=benchmark.batch_size, max_length=4096)
        adapter = DanluLM(model, tokenizer)
        for each in (adapter, backend):  # The first pass of either allocates what later ones use again.
            each.loglikelihood(requests[:8], disable_tqdm=True)
        our_seconds, ours = timed(adapter, requests)
        their_seconds, likelihoods = timed(backend, requests)
    same = [one == other for one, other in zip(choices(ours), choices(likelihoods), strict=True)]
    figures = {
        "parameters": sum(parameter.numel() for parameter in theirs.parameters()),
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "questions": len(requests) // 4,
        "requests": len(requests),
        "danlu_seconds": our_seconds,
        "harness_seconds": their_seconds,
        "danlu_requests_per_second": len(requests) / our_seconds,
        "harness_requests_per_second": len(requests) / their_seconds,
        "ratio": their_seconds / our_seconds,
        "same_choice": sum(same) / len(same),
        "largest_difference": max(abs(one - other) for one, other in zip(ours, likelihoods, strict=True)),
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if benchmark.json:
        benchmark.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Benchmark, description=__doc__))

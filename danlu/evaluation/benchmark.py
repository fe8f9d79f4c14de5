"""The stage `benchmarks`: what a model knows and can do, by the field's own benchmarks (recipe sections 6 and 10).

In: a model folder or an endpoint, and the benchmarks' files or the hub. Out, in `results/`: `items/TASK.jsonl`, a line
for each question (`id`, `subject`, `prompt` as the model really read it, `num_shots`, `replies` or `choices` with their
log-likelihoods, `gold`, `grades`, `score`), and `table.md`. The harness runs the requests; answered ones are kept:
those of a model folder by its content, those of an endpoint for this run alone, because nothing tells what answers
there.

`figures.json`: `model`, `chat`, `data` (`hub` or `files`), `tasks` (see `results.py`), `published`.
"""

import hashlib
import json
import logging
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from danlu.evaluation.config import BenchmarksConfig
from danlu.evaluation.grading import check_sandbox, grader
from danlu.evaluation.results import published_rows, task_figures, write_items, write_table
from danlu.evaluation.tasks.questions import Benchmark, Questions, spread
from danlu.evaluation.tasks.registry import chosen_benchmarks
from danlu.inference.load import open_model
from danlu.model.place import tokenizer_place
from danlu.run.errors import UserError
from danlu.run.files import digest, publish, write_json
from danlu.run.folder import say
from danlu.tokenizer.formats import is_gguf

RESULTS = "results"

ANSWERS_VERSION = 2
"""Of what is kept with an answered request; raised where that changes."""


def benchmark(config: BenchmarksConfig) -> Path:
    """Run the benchmarks; the folder of results. Raises UserError, before the model is asked anything, for missing
    data, a benchmark that the protocol does not fit, and code that could not be run."""
    quiet_harness()
    benchmarks = chosen_benchmarks(config.tasks, config.shots)
    _check_protocol(config, benchmarks)
    check_sandbox(benchmarks, config.unsafe_code)
    published = published_rows(config.data)
    questions = {each.name: _limited(each.read(config.data), config.limit) for each in benchmarks}
    for task, own in questions.items():
        if twice := [item for item, count in Counter(each.id for each in own.items).items() if count > 1]:
            raise UserError(f"{task}: the id {twice[0]!r} occurs twice", where=config.data or "the hub")
    lm, name = _model(config)
    tasks = _tasks(config, benchmarks, questions)
    found = _run(config, lm, list(tasks.values()))
    figures: dict[str, Any] = {
        "model": name,
        "chat": config.chat,
        "data": "hub" if config.data is None else "files",
        "published": published,
    }
    with publish(config.out / RESULTS) as aside:
        (aside / "items").mkdir(parents=True)
        records = {
            task: write_items(aside / "items" / f"{task}.jsonl", each, found, lm) for task, each in tasks.items()
        }
        figures["tasks"] = {task: task_figures(each, records[task], found) for task, each in tasks.items()}
        write_table(aside / "table.md", figures)
    write_json(config.out / "figures.json", figures)
    if config.endpoint:
        _answers(config).unlink(missing_ok=True)  # The next run asks anew: another model may answer by then.
    return config.out / RESULTS


def _check_protocol(config: BenchmarksConfig, benchmarks: list[Benchmark]) -> None:
    if not config.chat and (alone := [each.name for each in benchmarks if each.chat_only]):
        raise UserError(f"{', '.join(alone)} is put as a chat alone", where="--tasks", mend="Add --chat")


def _limited(questions: Questions, limit: int) -> Questions:
    return replace(questions, items=spread(questions.items, limit))


def _model(config: BenchmarksConfig) -> tuple[Any, str]:
    """The harness's view of the model, and its name."""
    if config.endpoint:
        from danlu.evaluation.harness.endpoint import EndpointLM

        assert config.endpoint_model
        return EndpointLM(config.endpoint, config.endpoint_model, config.chat), config.endpoint_model
    from danlu.evaluation.harness.adapter import DanluLM

    assert config.model
    if config.chat and not has_chat_template(tokenizer_place(config.model)):
        raise UserError("this model has no chat template", where=config.model, mend="Leave --chat out, or fine-tune it")
    model, tokenizer = open_model(config.model, config)
    return DanluLM(model, tokenizer, config.model.name), str(config.model)


def has_chat_template(folder: Path) -> bool:
    """Whether a model's folder or GGUF file says how a chat is written."""
    if is_gguf(folder):
        from danlu.tokenizer.gguf_vocabulary import gguf_value, open_gguf  # The package is slow to import.

        return gguf_value(open_gguf(folder), "tokenizer.chat_template") is not None
    path = folder / "tokenizer_config.json"
    written = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if written.get("chat_template") or (folder / "chat_template.jinja").is_file():
        return True
    # The published Qwen v1 has no template; it says that it was trained in ChatML.
    path = folder / "generation_config.json"
    generation = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return generation.get("chat_format") == "chatml"


def quiet_harness() -> None:
    """Keep the harness's own lines out of ours. Raises UserError where it is not installed."""
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise UserError("lm-eval is not installed", mend="pip install 'danlu[eval]'") from error
    for name in ("lm_eval", "lm-eval"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _tasks(config: BenchmarksConfig, benchmarks: list[Benchmark], questions: dict[str, Questions]) -> dict[str, Any]:
    from danlu.evaluation.harness.task import BenchmarkTask, Protocol

    protocol = Protocol(
        chat=config.chat,
        num_shots=config.shots,
        max_new_tokens=config.max_new_tokens,
        num_samples=config.num_samples,
        temperature=config.temperature,
        seed=config.seed,
        by_reply=config.endpoint is not None,
    )
    grade = grader(config.unsafe_code)
    return {each.name: BenchmarkTask(each, questions[each.name], protocol, grade) for each in benchmarks}


def _run(config: BenchmarksConfig, lm: Any, tasks: list[Any]) -> dict[str, Any]:
    """The harness's results and samples by task. Requests that were answered before are taken from the cache."""
    from lm_eval.api.model import CachingLM
    from lm_eval.evaluator import evaluate

    answers = _answers(config)
    answers.parent.mkdir(parents=True, exist_ok=True)
    cached = CachingLM(lm, str(answers))
    with closing(cached.dbdict):
        say(f"benchmarks: {', '.join(task.benchmark.title for task in tasks)}")
        loaded = {"tasks": {task.benchmark.name: task for task in tasks}, "groups": {}, "group_map": {}}
        results = evaluate(lm=cached, task_dict=loaded, bootstrap_iters=1, apply_chat_template=False)  # type: ignore[arg-type]
    assert results is not None
    return dict(results)


def _answers(config: BenchmarksConfig) -> Path:
    """The file of answered requests. It names a model by its content, so that another one's answers are never taken for
    its own."""
    if config.model is None:
        return config.out / "answers.db"
    parts = ANSWERS_VERSION, digest(config.model), config.chat, config.dtype, config.extend
    return config.cache / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.db"

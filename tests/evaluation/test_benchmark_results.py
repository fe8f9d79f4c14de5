"""A run of benchmarks from a model to its table, resumed from its cache, and two runs held against each other."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from math import comb
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from danlu.cli import main
from danlu.evaluation import benchmark as stage
from danlu.evaluation.compare_runs import compare_runs, compare_scores, comparison_lines, mcnemar, permutation_p
from danlu.evaluation.config import BenchmarksConfig
from danlu.evaluation.harness.adapter import DanluLM
from danlu.evaluation.harness.endpoint import EndpointLM
from danlu.evaluation.harness.prompt import Reply
from danlu.evaluation.results import _of_refusals, read_results
from danlu.evaluation.tasks.safety import SAFETY
from danlu.model.checkpoint import save_model
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.tokenizer import Tokenizer

MakeModel = Callable[..., Transformer]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Made-up files of two benchmarks in the published layout."""
    folder = tmp_path / "data"
    for split, count in (("dev", 3), ("test", 8)):
        for subject in ("art", "law"):
            path = folder / "mmlu" / split / f"{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{split} {n}?,1,2,3,4,{'ABCD'[n % 4]}\n" for n in range(count)), encoding="utf-8")
    (folder / "published.json").write_text(
        json.dumps({"source": "made up", "base": {"Other-7B": {"mmlu": 46.8, "gsm8k": None}}}), encoding="utf-8"
    )
    return folder


@pytest.fixture
def folder(tmp_path: Path, tiny_model: MakeModel, tiny_tokenizer: Tokenizer, tiny_tokenizer_folder: Path) -> Path:
    """A model folder."""
    model = tiny_model(vocab_size=tiny_tokenizer.vocab_size, max_position_embeddings=256)
    ends = list(tiny_tokenizer.stop_ids)
    save_model(tmp_path / "model", model, tiny_tokenizer_folder, ends, tiny_tokenizer.end_of_text_id)
    return tmp_path / "model"


def config(tmp_path: Path, folder: Path, data: Path | None, **values: Any) -> BenchmarksConfig:
    given = {"tasks": ("mmlu",), "out": tmp_path / "out", "cache": tmp_path / "cache", "device": "cpu", **values}
    return BenchmarksConfig(model=folder, data=data, **given)


def test_a_run_leaves_every_question_its_score_and_a_table(tmp_path: Path, folder: Path, data: Path) -> None:
    results = stage.benchmark(config(tmp_path, folder, data))
    records = [json.loads(line) for line in (results / "items" / "mmlu.jsonl").read_text("utf-8").splitlines()]
    assert len(records) == 16
    assert {"id", "subject", "prompt", "num_shots", "choices", "gold", "grades", "score", "refused"} <= records[
        0
    ].keys()
    for record in records:
        best = max(record["choices"], key=record["choices"].get)
        assert record["score"] == float(best == record["gold"])
        assert record["prompt"].count("Answer:") == record["num_shots"] + 1
    figures = json.loads((tmp_path / "out" / "figures.json").read_text("utf-8"))
    mmlu = figures["tasks"]["mmlu"]
    assert mmlu["score"] == pytest.approx(sum(record["score"] for record in records) / 16)
    scores = [record["score"] for record in records]
    assert mmlu["stderr"] == pytest.approx(stdev(scores) / 4), "the standard error of a mean over 16 questions"
    assert mmlu["shots_used"] == {"3": 16}, "there are three examples, and five were asked for"
    assert mmlu["subject_mean"] == pytest.approx(sum(mmlu["by_subject"].values()) / 2)
    table = (results / "table.md").read_text("utf-8")
    assert "| Other-7B (published) | 46.8 |" in table
    assert "fewer examples than 5 in 16 prompts" in table


def test_what_was_answered_is_not_asked_again(
    tmp_path: Path, folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stage.benchmark(config(tmp_path, folder, data, limit=6))
    asked: list[int] = []
    plain = DanluLM.loglikelihood
    monkeypatch.setattr(DanluLM, "loglikelihood", lambda self, r, **n: (asked.append(len(r)), plain(self, r, **n))[1])
    kept = (first / "items" / "mmlu.jsonl").read_text("utf-8")
    again = stage.benchmark(config(tmp_path, folder, data, limit=6, out=tmp_path / "again"))
    assert asked == []
    assert (again / "items" / "mmlu.jsonl").read_text("utf-8") == kept
    stage.benchmark(config(tmp_path, folder, data, out=tmp_path / "whole"))
    assert asked == [(16 - 6) * 4]


def test_a_chat_needs_a_template(tmp_path: Path, folder: Path, data: Path) -> None:
    path = folder / "tokenizer_config.json"
    written = json.loads(path.read_text("utf-8"))
    written.pop("chat_template", None)
    path.write_text(json.dumps(written), encoding="utf-8")
    for template in folder.glob("*.jinja"):
        template.unlink()
    with pytest.raises(UserError, match="no chat template"):
        stage.benchmark(config(tmp_path, folder, data, chat=True))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tasks": ("safety",)}, "safety is put as a chat alone"),
        ({"tasks": ("mmlv",)}, "no benchmark is called"),
        ({"tasks": ("gsm8k",)}, "no such benchmark file"),
    ],
)
def test_what_cannot_be_run_is_refused_before_the_model_is_read(
    tmp_path: Path, data: Path, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        stage.benchmark(config(tmp_path, tmp_path / "no-such-model", data, **values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_samples": 2}, "set a temperature"),
        ({"limit": -1}, "limit must be at least 0"),
        ({"shots": -1}, "shots must be at least 0"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"endpoint": "http://127.0.0.1:1/v1"}, "endpoint_model must name"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BenchmarksConfig(**values)


def test_two_runs_are_compared_question_by_question(tmp_path: Path, folder: Path, data: Path) -> None:
    for name, shots in (("one", 0), ("two", 2)):
        stage.benchmark(config(tmp_path, folder, data, shots=shots, out=tmp_path / name))
    (comparison,) = compare_runs(tmp_path / "one", tmp_path / "two")
    assert (comparison.task, comparison.questions) == ("mmlu", 16)
    assert comparison.num_better - comparison.num_worse == round(16 * comparison.difference)
    assert main(["evaluate", "--compare", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    with pytest.raises(UserError, match="no results of benchmarks"):
        compare_runs(tmp_path / "one", tmp_path)
    items = tmp_path / "two" / "results" / "items" / "mmlu.jsonl"
    records = [json.loads(line) for line in items.read_text("utf-8").splitlines()]
    rewrite(items, records[1:])
    (comparison,) = compare_runs(tmp_path / "one", tmp_path / "two")
    assert (comparison.questions, comparison.left_out) == (15, 1)
    assert "1 questions that only one of the runs has" in comparison_lines([comparison])[-1]
    rewrite(items, [{**record, "gold": "D" if record["gold"] == "A" else "A"} for record in records])
    with pytest.raises(UserError, match="has another right answer than in"):
        compare_runs(tmp_path / "one", tmp_path / "two")


def rewrite(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def test_an_endpoint_is_asked_again_in_a_new_run(
    tmp_path: Path, folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai", reason="openai is not installed")
    asked: list[str] = []
    monkeypatch.setattr(EndpointLM, "_answer", lambda self, prompt, wanted: (asked.append(prompt), (" B", False))[1])
    words = ["evaluate", "--endpoint", "http://127.0.0.1:9/v1", "--endpoint-model", "m", "--tasks", "mmlu"]
    words += ["--data", str(data), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert main(words) == 0
    assert len(asked) == 16
    assert main(words) == 0
    assert len(asked) == 32, "another model may answer at the same address"


def test_safety_counts_both_sides_and_an_empty_reply_declines_nothing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replies(self: DanluLM, requests: list[Any], **_: Any) -> list[Reply]:
        kinds = [item.subject.split("/")[1] for item in SAFETY.read(None).items]
        said = {"harmful": "I'm sorry, but I can't help with that.", "harmless": ""}
        return [Reply(said[kind]) for kind in kinds[: len(requests)]]

    monkeypatch.setattr(DanluLM, "generate_until", replies)
    stage.benchmark(config(tmp_path, folder, None, tasks=("safety",), chat=True))
    figures = json.loads((tmp_path / "out" / "figures.json").read_text("utf-8"))["tasks"]["safety"]
    assert figures["refusal"] == {"share": 1.0, "requests": 36}
    assert figures["over_refusal"] == {"share": 0.0, "requests": 36}
    assert figures["invalid"] == 0.5
    assert "declined 100.0 of 36 harmful requests" in (tmp_path / "out/results/table.md").read_text("utf-8")
    one_side = [
        record for record in read_results(tmp_path / "out")["safety"].values() if "harmful" in record["subject"]
    ]
    assert _of_refusals(one_side)["over_refusal"] == {"share": None, "requests": 0}


def test_the_paired_test_is_mcnemars() -> None:
    # Ten discordant pairs, nine one way: 2 * (C(10,0) + C(10,1)) / 2^10.
    assert mcnemar(9, 1) == pytest.approx(2 * (comb(10, 0) + comb(10, 1)) / 2**10)
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0
    pairs = [(0.0, 1.0)] * 9 + [(1.0, 0.0)] + [(1.0, 1.0)] * 20
    found = compare_scores("t", pairs)
    assert found.p_value == mcnemar(9, 1)
    assert found.difference == pytest.approx(8 / 30)
    low, high = found.interval
    assert low < found.difference < high


def test_permutations_agree_with_mcnemar_on_right_and_wrong() -> None:
    assert permutation_p([1.0] * 9 + [-1.0] + [0.0] * 20) == pytest.approx(mcnemar(9, 1), abs=0.005)
    assert permutation_p([0.0, 0.0]) == 1.0


def test_code_is_judged_and_counted(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    from danlu.evaluation.sandbox import why_no_sandbox

    if why_no_sandbox():
        pytest.skip(why_no_sandbox())
    problem = {
        "task_id": "t/0", "prompt": "def one():\n", "canonical_solution": "    return 1\n", "entry_point": "one",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
    }  # fmt: skip
    data = tmp_path / "code"
    data.mkdir()
    with gzip.open(data / "HumanEval.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.write(json.dumps(problem) + "\n")
    replies = ["    return 1\n", "    return 2\n", "    return 1\n", ""]
    monkeypatch.setattr(
        DanluLM, "generate_until", lambda self, requests, **_: list(map(Reply, replies[: len(requests)]))
    )
    stage.benchmark(config(tmp_path, folder, data, tasks=("humaneval",), num_samples=4, temperature=1.0))
    figures = json.loads((tmp_path / "out" / "figures.json").read_text("utf-8"))["tasks"]["humaneval"]
    assert figures["pass_at_k"] == {"1": 0.5}, "fewer than ten samples give no pass@10"
    assert figures["invalid"] == 0.25
    assert figures["verdicts"] == {"passed": 2, "failed": 2}


def test_without_the_harness_a_line_says_what_to_install(
    tmp_path: Path, folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match="lm-eval is not installed"):
        stage.benchmark(config(tmp_path, folder, data))


def test_the_harness_is_not_imported_before_it_is_known_to_be_there() -> None:
    code = "import danlu.evaluation.benchmark, sys; sys.exit('lm_eval' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


@pytest.mark.parametrize("text", ["[]", '{"base": {"Other-7B": {"mmlu": "high"}}}', '{"base": {"Other-7B": 3}}'])
def test_a_malformed_table_of_published_scores_is_told_before_any_question_is_asked(
    tmp_path: Path, folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (data / "published.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(DanluLM, "loglikelihood", lambda *_, **__: pytest.fail("a question was asked"))
    with pytest.raises(UserError, match="not a table of published scores"):
        stage.benchmark(config(tmp_path, folder, data))

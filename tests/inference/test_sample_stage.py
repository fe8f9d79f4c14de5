"""The stage `responses`: a stopped run goes on where it was, and best-of-n puts the best first."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.inference import sample
from danlu.inference.config import ResponseSamplingConfig, SampleConfig
from danlu.inference.sample import sample_responses
from danlu.model.checkpoint import load_with_new_score, save_model
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.tokenizer.bpe import Tokenizer

MakeModel = Callable[..., Transformer]

PROMPTS = ["the river was cold", "how many miles", "today", "", "clear", "the world of today", "x" * 90, "bank"]
"""One is empty (malformed), one leaves no room."""


@pytest.fixture(scope="module")
def folder(tiny_model: MakeModel, tiny_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a chat model `model`, a reward model `reward` and `prompts.jsonl`."""
    folder = tmp_path_factory.mktemp("sample")
    tokenizer = Tokenizer.load(tiny_tokenizer_folder)
    ends = list(tokenizer.stop_ids), tokenizer.end_of_text_id
    save_model(folder / "model", tiny_model(max_position_embeddings=64), tiny_tokenizer_folder, *ends)
    scored = load_with_new_score(folder / "model", torch.Generator().manual_seed(1))
    save_model(folder / "reward", scored, folder / "model", *ends)
    lines = [json.dumps({"messages": [{"role": "user", "content": text}], "skill": "say"}) for text in PROMPTS]
    (folder / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def config(folder: Path, out: Path, **changes: Any) -> SampleConfig:
    sampling = ResponseSamplingConfig(max_new_tokens=6, temperature=1.0, top_p=0.9)
    base = SampleConfig(
        model=folder / "model", data=folder / "prompts.jsonl", out=out, num_prompts=0, num_responses=3,
        prompts_at_once=2, sampling=sampling, device="cpu",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def records_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_prompt_with_room_is_answered_and_the_others_are_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = records_of(sample_responses(config(folder, tmp_path)))
    asked = [record["messages"][0]["content"] for record in records]
    assert asked == [text for text in PROMPTS if 0 < len(text) < 90]
    assert {len(record["responses"]) for record in records} == {3}
    assert {record["skill"] for record in records} == {"say"}
    assert len({response["text"] for record in records for response in record["responses"]}) > 6
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert (figures["prompts"], figures["responses"]) == (6, 18)
    assert figures["dropped"] == {
        "leaves no room for 6 tokens within 64": 1,
        "malformed record: turn N: the user's turn is empty": 1,
    }
    said = capsys.readouterr().err
    assert all(f"responses: left out, for example: {example}" in said for example in figures["dropped_examples"])


@pytest.mark.parametrize("half_a_line", [False, True])
def test_a_stopped_run_goes_on_and_says_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half_a_line: bool
) -> None:
    whole = sample_responses(config(folder, tmp_path / "whole")).read_text(encoding="utf-8")
    answered, answer = 0, sample.answer

    def stopped(*arguments: Any) -> list[dict[str, Any]]:
        nonlocal answered
        if answered == 2:
            raise KeyboardInterrupt
        answered += 1
        return answer(*arguments)

    monkeypatch.setattr(sample, "answer", stopped)
    with pytest.raises(KeyboardInterrupt):
        sample_responses(config(folder, tmp_path / "parts"))
    assert not (tmp_path / "parts" / "responses.jsonl").exists()
    if half_a_line:
        with next((tmp_path / "parts").glob(".*.jsonl")).open("a", encoding="utf-8") as stream:
            stream.write('{"messages": [{"role": "us')
    answered = 1
    monkeypatch.setattr(sample, "answer", lambda *arguments: counted.append(1) or answer(*arguments))
    counted: list[int] = []
    assert sample_responses(config(folder, tmp_path / "parts")).read_text(encoding="utf-8") == whole
    assert len(counted) == 1, "only the last of three pieces was still to be answered"


def test_the_best_response_comes_first(folder: Path, tmp_path: Path) -> None:
    plain = records_of(sample_responses(config(folder, tmp_path / "plain")))
    best = records_of(sample_responses(config(folder, tmp_path / "best", reward_model=folder / "reward")))
    for one, other in zip(plain, best, strict=True):
        rewards = [response["reward"] for response in other["responses"]]
        assert rewards == sorted(rewards, reverse=True)
        assert sorted(r["text"] for r in one["responses"]) == sorted(r["text"] for r in other["responses"])
    figures = json.loads((tmp_path / "best" / "figures.json").read_text(encoding="utf-8"))
    assert figures["best_reward"] > figures["reward"]


def test_prompts_that_cannot_be_answered_at_all_are_refused(folder: Path, tmp_path: Path) -> None:
    sampling = ResponseSamplingConfig(max_new_tokens=64)
    with pytest.raises(UserError, match="no prompt can be answered"):
        sample_responses(config(folder, tmp_path, sampling=sampling))

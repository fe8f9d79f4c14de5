"""The stage `dpo`: it learns a preference from its reference, whole or in parts, and leaves a chat model."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from danlu.conversations.comparisons import Comparison
from danlu.conversations.records import Message
from danlu.model.checkpoint import save_model
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.run.metrics import read_jsonl
from danlu.tokenizer.bpe import Tokenizer
from danlu.training import loop as loop_module
from danlu.training.comparison_data import encode_comparisons
from danlu.training.config import DpoConfig, PairStepConfig
from danlu.training.dpo import dpo, group_logprobs
from danlu.training.step import Forward

MakeModel = Callable[..., Transformer]

LIMIT = 64
FILLERS = ("river", "clear", "world", "miles", "today")
STEP = PairStepConfig(
    sequence_length=LIMIT, batch_size=8, micro_batch_size=2, max_steps=40, learning_rate=0.002, bf16=False,
    compile=False, checkpoint_every=20,
)  # fmt: skip


def preference(number: int) -> Comparison:
    """A prompt of its own; the better reply says `cold`, the worse one `bank`."""
    chance = Random(number)
    around = chance.choices(FILLERS, k=2)
    better, worse = (f"{around[0]} {word} {around[1]}" for word in ("cold", "bank"))
    return Comparison((Message("user", f"{number} {chance.choice(FILLERS)}"),), better, worse, "made", "choose")


@pytest.fixture(scope="module")
def folder(tiny_model: MakeModel, tiny_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a chat model `model`, and `train.jsonl` and `test.jsonl`."""
    folder, tokenizer = tmp_path_factory.mktemp("dpo"), Tokenizer.load(tiny_tokenizer_folder)
    ends = list(tokenizer.stop_ids), tokenizer.end_of_text_id
    save_model(folder / "model", tiny_model(max_position_embeddings=LIMIT), tiny_tokenizer_folder, *ends)
    for name, numbers in (("train", range(60)), ("test", range(100, 120))):
        lines = [json.dumps(preference(number).to_json()) for number in numbers]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def config(folder: Path, out: Path, **changes: Any) -> DpoConfig:
    step = dataclasses.replace(STEP, **changes)
    files = {"data": folder / "train.jsonl", "test": folder / "test.jsonl"}
    return DpoConfig(model=folder / "model", out=out, step=step, device="cpu", **files)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dpo(config(folder, tmp_path_factory.mktemp("trained") / "dpo"))


def test_a_preference_is_learnt_and_holds_for_new_prompts(trained: Path) -> None:
    figures = json.loads((trained.parent / "figures.json").read_text(encoding="utf-8"))
    assert figures["accuracy"]["value"] >= 0.9
    assert figures["length_baseline_accuracy"]["value"] == 0.5
    assert (figures["comparisons"], figures["steps"], figures["pairs"]) == (60, 40, 20)
    history = read_jsonl(trained.parent / "metrics.jsonl")
    assert history[0]["loss"] == pytest.approx(0.6931, abs=1e-3), "model and reference are equal at the first step"
    assert history[-1]["loss"] < 0.5


def test_equal_weights_have_no_preference_in_bfloat16_either(folder: Path, tmp_path: Path) -> None:
    dpo(config(folder, tmp_path / "dpo", bf16=True, max_steps=1))
    assert read_jsonl(tmp_path / "dpo" / "metrics.jsonl")[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)


def test_the_model_says_the_chosen_more_often_than_its_reference(
    folder: Path, trained: Path, tiny_tokenizer: Tokenizer
) -> None:
    """Log-probabilities by `transformers`, of which the stage knows nothing."""
    group = encode_comparisons([preference(105)], tiny_tokenizer, LIMIT).groups[0]
    shifts = []
    for response in group.responses:
        ids = torch.tensor([[*group.prompt, *response]])
        before, after = (_logprob(path, ids, len(response)) for path in (folder / "model", trained))
        shifts.append(after - before)
    better, worse = group.pairs[0]
    assert shifts[better] > shifts[worse]


def _logprob(path: Path, ids: torch.Tensor, length: int) -> float:
    model = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    with torch.no_grad():
        logprobs = model(ids).logits[0, :-1].log_softmax(-1)
    return logprobs.gather(-1, ids[0, 1:, None])[-length:].sum().item()


def test_the_references_logprobs_are_those_of_transformers(
    folder: Path, tiny_tokenizer: Tokenizer, tiny_model: MakeModel
) -> None:
    encoded = encode_comparisons([preference(number) for number in range(5)], tiny_tokenizer, LIMIT)
    model = tiny_model(max_position_embeddings=LIMIT)
    ours = group_logprobs(model, Forward(model, compiled=False, bf16=False), encoded, LIMIT, 2)
    for group, own in zip(encoded.groups, ours, strict=True):
        for response, value in zip(group.responses, own, strict=True):
            expected = _logprob(folder / "model", torch.tensor([[*group.prompt, *response]]), len(response))
            assert value == pytest.approx(expected, abs=1e-4)


def test_a_run_that_was_stopped_ends_with_the_same_bits(
    folder: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "save_checkpoint", _stopping(loop_module.save_checkpoint))
        with pytest.raises(KeyboardInterrupt):
            dpo(config(folder, tmp_path / "dpo"))
    again = dpo(config(folder, tmp_path / "dpo"))
    first, second = (load_file(path / "model.safetensors") for path in (trained, again))
    assert all(tensor.equal(second[name]) for name, tensor in first.items())


def _stopping(save: Callable[..., Any]) -> Callable[..., Any]:
    def stop(*arguments: Any, **named: Any) -> None:
        save(*arguments, **named)
        raise KeyboardInterrupt

    return stop


def test_comparisons_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no comparison to learn from"):
        dpo(config(folder, tmp_path, sequence_length=8))

"""A PPO run that was stopped and started again ends with the weights, figures and samples, bit for bit, of one that was
not (R10: the pretraining text goes on at its place too)."""

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from danlu.run.metrics import MetricsLog, read_jsonl
from danlu.training.checkpoint import list_checkpoints
from danlu.training.ppo import ppo
from danlu.training.ppo_config import PpoConfig

STEPS = 8


@pytest.fixture(scope="module")
def uninterrupted(
    tiny_ppo: Callable[..., PpoConfig], tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> PpoConfig:
    """Every part of a step that could remember something: frozen steps, warm-up, minibatches, epochs, pretraining."""
    return tiny_ppo(
        out=tmp_path_factory.mktemp("whole"),
        max_steps=STEPS,
        frozen_steps=2,
        warmup_steps=5,
        minibatches=2,
        epochs=2,
        queries=2,
        pretraining=tiny_shards,
        pretrain_coef=0.5,
        pretrain_batch_size=2,
        normalise_deviation=True,
        samples_every=2,
        checkpoint_every=3,
    )


@pytest.fixture(scope="module")
def whole(uninterrupted: PpoConfig) -> Path:
    """The run that nothing interrupts."""
    return ppo(uninterrupted).parent


@pytest.fixture
def config(uninterrupted: PpoConfig, tmp_path: Path) -> PpoConfig:
    """The same for a run that something does."""
    return dataclasses.replace(uninterrupted, out=tmp_path / "run")


def without_times(path: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in record.items() if not key.startswith("seconds/")} for record in read_jsonl(path)
    ]


def assert_same_run(resumed: Path, whole: Path, steps: int = STEPS) -> None:
    log = without_times(whole / "metrics.jsonl")
    assert len(log) == steps
    assert without_times(resumed / "metrics.jsonl") == log, "the logs differ"
    assert read_jsonl(resumed / "samples.jsonl") == read_jsonl(whole / "samples.jsonl"), "the samples differ"
    for name, what in {"model": "the policy's", f"checkpoints/step-{steps:08d}": "the checkpoint's"}.items():
        ours, theirs = (load_file(run / name / "model.safetensors") for run in (resumed, whole))
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            assert tensor.equal(ours[key]), f"{what} {key} differs after resuming"
    figures, expected = (json.loads((run / "figures.json").read_text(encoding="utf-8")) for run in (resumed, whole))
    assert figures == expected


class Crash(Exception):
    """Stands for whatever may end a run."""


def at_record(monkeypatch: pytest.MonkeyPatch, number: int, happening: Callable[[], None]) -> None:
    """Let `happening` happen once a run from here on has logged so many steps, before it can save anything."""
    write, written = MetricsLog.write, [0]

    def writing(self: MetricsLog, record: dict[str, Any]) -> None:
        write(self, record)
        written[0] += self.path.name == "metrics.jsonl"
        if written[0] == number and self.path.name == "metrics.jsonl":
            happening()

    monkeypatch.setattr(MetricsLog, "write", writing)


def crash() -> None:
    raise Crash


# The first crash is before any checkpoint, the others between two, right after one, and at the very last step.
@pytest.mark.parametrize("crashes", [[2], [5], [4, 3], [STEPS]], ids=str)
def test_a_run_that_crashed_goes_on_bit_for_bit(config: PpoConfig, whole: Path, crashes: list[int]) -> None:
    for steps in crashes:
        with pytest.MonkeyPatch.context() as patch:
            at_record(patch, steps, crash)
            with pytest.raises(Crash):
                ppo(config)
    assert_same_run(ppo(config).parent, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_asked_to_stop_saves_its_step_and_goes_on_bit_for_bit(
    config: PpoConfig, whole: Path, number: signal.Signals
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_record(patch, 5, lambda: signal.raise_signal(number))
        with pytest.raises(KeyboardInterrupt):
            ppo(config)
    assert list_checkpoints(config.out / "checkpoints")[-1].name == "step-00000005", "the stop saved nothing"
    assert not (config.out / "model").exists()
    assert_same_run(ppo(config).parent, whole)


def test_a_run_stopped_while_its_policy_is_frozen_goes_on_bit_for_bit(config: PpoConfig, whole: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_record(patch, 1, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            ppo(config)
    assert_same_run(ppo(config).parent, whole)


def test_the_pretraining_text_matters_in_these_runs(config: PpoConfig, whole: Path, tmp_path: Path) -> None:
    """Without this the tests above would not notice a text that begins anew."""
    without = ppo(dataclasses.replace(config, out=tmp_path / "without", pretrain_coef=0.0)).parent
    losses = [record.get("pretrain/loss") for record in read_jsonl(whole / "metrics.jsonl")]
    assert losses[:2] == [None, None], "the policy is frozen"
    assert len(set(losses)) == STEPS - 1, "every step reads other text"
    policy, other = (load_file(run / "model" / "model.safetensors") for run in (whole, without))
    assert not all(tensor.equal(other[name]) for name, tensor in policy.items())


def test_a_finished_run_started_again_learns_no_more(
    config: PpoConfig, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ppo(config)
    monkeypatch.setattr("danlu.training.ppo.roll_out", None)
    assert_same_run(ppo(config).parent, whole)


@pytest.mark.slow
def test_a_compiled_run_in_bfloat16_goes_on_bit_for_bit(config: PpoConfig, tmp_path: Path) -> None:
    compiled = dataclasses.replace(config, compile=True, bf16=True)
    whole = ppo(dataclasses.replace(compiled, out=tmp_path / "whole")).parent
    with pytest.MonkeyPatch.context() as patch:
        at_record(patch, 5, crash)
        with pytest.raises(Crash):
            ppo(compiled)
    assert_same_run(ppo(compiled).parent, whole)

"""A run that was stopped and started again ends with the losses and weights, bit for bit, of one that was not."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from danlu.model.checkpoint import save_model
from danlu.model.config import ModelConfig
from danlu.model.transformer import Transformer
from danlu.run.metrics import read_jsonl
from danlu.training import loop as loop_module
from danlu.training.checkpoint import list_checkpoints
from danlu.training.config import PretrainConfig, SftConfig, StepConfig
from danlu.training.optimizer_config import OptimizerConfig
from danlu.training.pretrain import pretrain
from danlu.training.sft import sft

pytestmark = pytest.mark.usefixtures("quick_peak")

STEPS = 24
STEP = StepConfig(
    sequence_length=32,
    batch_size=6,
    micro_batch_size=2,  # three micro-batches accumulate
    max_steps=STEPS,
    learning_rate=0.01,
    warmup_steps=5,
    bf16=False,
    compile=False,
    checkpoint_every=7,
)

TIMES = ("tokens_per_s", "targets_per_s", "mfu")
"""Figures of a log that differ from run to run."""


@pytest.fixture
def pretraining(tiny_shards: Path, tiny_tokenizer_folder: Path, tmp_path: Path) -> PretrainConfig:
    """About two and a half epochs of the tiny shards."""
    shape = ModelConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    return PretrainConfig(
        data=tiny_shards,
        tokenizer=tiny_tokenizer_folder,
        out=tmp_path / "run",
        model=shape,
        step=STEP,
        validate_every=10,
        device="cpu",
    )


@pytest.fixture
def tuning(
    tiny_model: Callable[..., Transformer],
    tiny_tokenizer_folder: Path,
    write_conversations: Callable[[Path, Sequence[Sequence[tuple[str, str]]]], Path],
    tmp_path: Path,
) -> SftConfig:
    """Dropout on; the 40 conversations are gone through more than three times."""
    save_model(tmp_path / "base", tiny_model(), tiny_tokenizer_folder, [1], 1)
    data = write_conversations(
        tmp_path / "c.jsonl", [[("user", "hi" * (n % 7 + 1)), ("assistant", "ok " * (n % 4 + 1))] for n in range(40)]
    )
    return SftConfig(
        model=tmp_path / "base", data=data, out=tmp_path / "run", step=STEP, dropout=0.2, decay_share=0.3, device="cpu"
    )


def outcome(model: Path) -> tuple[dict[str, Any], list[tuple[float, ...]]]:
    """Final weights, and what the log says of each step (all but the speeds)."""
    log = read_jsonl(model.parent / "metrics.jsonl")
    kept = [tuple(value for key, value in sorted(record.items()) if key not in TIMES) for record in log]
    return load_file(model / "model.safetensors"), kept


def assert_same_run(resumed: Path, whole: Path) -> None:
    weights, log = outcome(resumed)
    expected_weights, expected_log = outcome(whole)
    assert len(expected_log) == STEPS
    assert log == expected_log, "the logs differ"
    assert weights.keys() == expected_weights.keys()
    for name, tensor in weights.items():
        assert tensor.equal(expected_weights[name]), f"{name} differs after resuming"


class Crash(Exception):
    """Stands for whatever may end a run."""


def crash_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The next run crashes once it has logged so many steps, before it can save anything."""
    write, written = loop_module.MetricsLog.write, [0]

    def crashing(self: Any, record: dict[str, Any]) -> None:
        write(self, record)
        written[0] += 1
        if written[0] == steps:
            raise Crash

    monkeypatch.setattr(loop_module.MetricsLog, "write", crashing)


def run_with_crashes(work: Callable[[Any], Path], config: Any, crashes: list[int]) -> Path:
    for steps in crashes:
        with pytest.MonkeyPatch.context() as patch:
            crash_after(patch, steps)
            with pytest.raises(Crash):
                work(config)
    return work(config)


# The first crash is before any checkpoint, the others between two, right after one, and at the very last step.
CRASHES = [[3], [9], [14], [5, 12, 8], [STEPS]]


@pytest.mark.parametrize("crashes", CRASHES, ids=str)
def test_pretraining_resumes_bit_for_bit(pretraining: PretrainConfig, tmp_path: Path, crashes: list[int]) -> None:
    whole = pretrain(dataclasses.replace(pretraining, out=tmp_path / "whole"))
    assert_same_run(run_with_crashes(pretrain, pretraining, crashes), whole)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("crashes", [[9], [5, 12, 8]], ids=str)
def test_fine_tuning_with_dropout_resumes_bit_for_bit(
    tuning: SftConfig, tmp_path: Path, crashes: list[int], packing: bool
) -> None:
    tuning = dataclasses.replace(tuning, packing=packing)
    whole = sft(dataclasses.replace(tuning, out=tmp_path / "whole"))
    assert_same_run(run_with_crashes(sft, tuning, crashes), whole)


def test_dropout_matters_in_these_runs(tuning: SftConfig, tmp_path: Path) -> None:
    """Without this the tests above would not notice that dropout is off."""
    with_dropout = sft(dataclasses.replace(tuning, out=tmp_path / "with"))
    without = sft(dataclasses.replace(tuning, out=tmp_path / "without", dropout=0.0))
    assert outcome(with_dropout)[1] != outcome(without)[1]


@pytest.mark.parametrize("changes", [{"bf16": True}, {"epochs": 2, "max_steps": 0}], ids=["bfloat16", "by epochs"])
def test_other_settings_resume_bit_for_bit(
    pretraining: PretrainConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = dataclasses.replace(pretraining, step=dataclasses.replace(STEP, **changes))
    whole = pretrain(dataclasses.replace(config, out=tmp_path / "whole"))
    resumed = run_with_crashes(pretrain, config, [9])
    assert outcome(resumed)[1] == outcome(whole)[1]
    for name, tensor in outcome(whole)[0].items():
        assert outcome(resumed)[0][name].equal(tensor), name


def test_muon_resumes_bit_for_bit(pretraining: PretrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(pretraining, optimizer=OptimizerConfig(name="muon"))
    whole = pretrain(dataclasses.replace(config, out=tmp_path / "whole"))
    assert_same_run(run_with_crashes(pretrain, config, [16]), whole)


def test_a_crash_while_validating_loses_nothing(
    pretraining: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(dataclasses.replace(pretraining, out=tmp_path / "whole"))

    def crash(*arguments: Any, **names: Any) -> dict[str, float]:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("danlu.training.pretrain.bits_per_byte", crash)
        with pytest.raises(Crash):
            pretrain(pretraining)
    assert [path.name for path in list_checkpoints(pretraining.out / "checkpoints")] == ["step-00000007"]
    assert_same_run(pretrain(pretraining), whole)


def test_a_finished_run_started_again_trains_no_more(
    pretraining: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = outcome(pretrain(pretraining))
    monkeypatch.setattr(loop_module, "accumulate_gradients", None)
    again = outcome(pretrain(pretraining))
    assert first[1] == again[1]
    assert all(again[0][name].equal(tensor) for name, tensor in first[0].items())


@pytest.mark.slow
def test_a_compiled_run_resumes_bit_for_bit(tuning: SftConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(tuning, step=dataclasses.replace(STEP, compile=True))
    whole = sft(dataclasses.replace(config, out=tmp_path / "whole"))
    assert_same_run(run_with_crashes(sft, config, [9]), whole)


# --- the real command, stopped by real signals ---


def command(config: PretrainConfig) -> list[str]:
    step = config.step
    return [
        *(sys.executable, "-m", "danlu.cli", "pretrain"),
        *("--data", str(config.data), "--tokenizer", str(config.tokenizer), "--out", str(config.out)),
        *("--model.hidden-size", "32", "--model.intermediate-size", "48", "--model.num-hidden-layers", "2"),
        *("--model.num-attention-heads", "4", "--model.num-key-value-heads", "2", "--device", "cpu"),
        *("--step.sequence-length", str(step.sequence_length), "--step.batch-size", str(step.batch_size)),
        *("--step.micro-batch-size", str(step.micro_batch_size), "--step.max-steps", str(step.max_steps)),
        *("--step.learning-rate", str(step.learning_rate), "--step.warmup-steps", str(step.warmup_steps)),
        *("--step.no-bf16", "--step.no-compile", "--step.checkpoint-every", str(step.checkpoint_every)),
        *("--validate-every", str(config.validate_every)),
    ]


def start(config: PretrainConfig) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(config),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_steps(process: subprocess.Popen[str], config: PretrainConfig, steps: int) -> None:
    log, end = config.out / "metrics.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if log.exists() and log.read_bytes().count(b"\n") >= steps:
            return
        time.sleep(0.002)
    process.kill()
    raise AssertionError(f"the run ended or hung before step {steps}: {process.communicate()[1]}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_command_stopped_by_a_signal_goes_on_bit_for_bit(
    pretraining: PretrainConfig, tmp_path: Path, number: signal.Signals
) -> None:
    import torch

    assert torch.get_num_threads() == 1, "these tests compare with a process of one thread: set OMP_NUM_THREADS=1"
    config = dataclasses.replace(pretraining, step=dataclasses.replace(STEP, max_steps=60))
    whole = pretrain(dataclasses.replace(config, out=tmp_path / "whole"))
    chance = random.Random()
    steps, delay = chance.randint(1, 45), chance.random() * 0.02
    print(f"signal {number.name} {delay:.4f} s after step {steps}")
    process = start(config)
    wait_for_steps(process, config, steps)
    time.sleep(delay)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130, errors
        assert errors.splitlines()[-1] == "danlu: stopped; the same command goes on where this one was"
        logged = read_jsonl(config.out / "metrics.jsonl")[-1]["step"]
        assert list_checkpoints(config.out / "checkpoints")[-1].name == f"step-{logged:08d}", "the stop saved nothing"
    assert not (config.out / "model").exists()
    again = start(config)
    output, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert "going on where it was interrupted" in errors
    weights, log = outcome(Path(output.strip()))
    expected_weights, expected_log = outcome(whole)
    assert log == expected_log
    assert all(weights[name].equal(tensor) for name, tensor in expected_weights.items())

"""Training checkpoints: everything comes back bit for bit, or the run says in one line what does not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.training.checkpoint import KEPT, list_checkpoints, load_checkpoint, save_checkpoint
from danlu.training.optimizer import make_optimizers
from danlu.training.optimizer_config import OptimizerConfig

MakeModel = Callable[..., Transformer]
Optimizers = list[torch.optim.Optimizer]


def train(model: Transformer, optimizers: Optimizers, first: int, last: int) -> None:
    """Updates with a gradient that depends on the weights and the step."""
    for step in range(first, last):
        ids = (torch.arange(40).view(2, 20) * (step + 1)) % 300
        torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten()).backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.01
            optimizer.step()
            optimizer.zero_grad()


def make(tiny_model: MakeModel, name: Any, **numbers: Any) -> tuple[Transformer, Optimizers]:
    model = tiny_model(**numbers)
    return model, make_optimizers(model, OptimizerConfig(name=name))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_restored_run_goes_on_bit_for_bit(tiny_model: MakeModel, tmp_path: Path, name: str, tied: bool) -> None:
    model, optimizers = make(tiny_model, name, tie_word_embeddings=tied)
    train(model, optimizers, 0, 3)
    save_checkpoint(tmp_path, 3, model, optimizers, {"updates": 3})
    train(model, optimizers, 3, 6)
    other, others = make(tiny_model, name, seed=2, tie_word_embeddings=tied)
    saved = load_checkpoint(tmp_path, other, others)
    assert saved is not None
    assert (saved["step"], saved["updates"]) == (3, 3)
    train(other, others, 3, 6)
    for label, parameter in model.named_parameters():
        assert torch.equal(other.get_parameter(label), parameter), label


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_everything_on_disk_is_float32(tiny_model: MakeModel, tmp_path: Path, name: str) -> None:
    model, optimizers = make(tiny_model, name)
    train(model, optimizers, 0, 1)
    save_checkpoint(tmp_path, 1, model, optimizers, {})
    (folder,) = list_checkpoints(tmp_path)
    for file in ("model", "optimizer"):
        tensors = load_file(folder / f"{file}.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}, file
    assert load_file(folder / "model.safetensors").keys() == dict(model.named_parameters()).keys()


def test_no_checkpoint_is_no_state(tiny_model: MakeModel, tmp_path: Path) -> None:
    model, optimizers = make(tiny_model, "adamw")
    assert load_checkpoint(tmp_path / "nowhere", model, optimizers) is None


def test_the_newest_are_kept_and_the_newest_counts(tiny_model: MakeModel, tmp_path: Path) -> None:
    model, optimizers = make(tiny_model, "adamw")
    for step in (9, 10, 100, 1000):
        save_checkpoint(tmp_path, step, model, optimizers, {})
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000100", "step-00001000"]
    assert KEPT == 2
    saved = load_checkpoint(tmp_path, model, optimizers)
    assert saved is not None
    assert saved["step"] == 1000


def test_what_a_kill_left_half_written_is_ignored_and_goes(tiny_model: MakeModel, tmp_path: Path) -> None:
    model, optimizers = make(tiny_model, "adamw")
    save_checkpoint(tmp_path, 1, model, optimizers, {})
    half = tmp_path / ".step-00000002.partial"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    saved = load_checkpoint(tmp_path, model, optimizers)
    assert saved is not None
    assert saved["step"] == 1
    save_checkpoint(tmp_path, 3, model, optimizers, {})
    assert not half.exists(), "a half-written checkpoint stays on the disk for ever"


CHANGES: dict[str, tuple[str, dict[str, Any], str]] = {
    "another width": ("adamw", {"intermediate_size": 40}, "down_proj"),
    "fewer layers": ("adamw", {"num_hidden_layers": 1}, "layers.1"),
    "more layers": ("adamw", {"num_hidden_layers": 3}, "layers.2"),
    "tied now": ("adamw", {"tie_word_embeddings": True}, "lm_head"),
    "another optimizer": ("muon", {}, "optimizer state"),
}


@pytest.mark.parametrize(("name", "numbers", "named"), CHANGES.values(), ids=CHANGES.keys())
def test_a_checkpoint_that_does_not_fit_is_refused(
    tiny_model: MakeModel, tmp_path: Path, name: str, numbers: dict[str, Any], named: str
) -> None:
    model, optimizers = make(tiny_model, "adamw")
    train(model, optimizers, 0, 1)
    save_checkpoint(tmp_path, 1, model, optimizers, {})
    with pytest.raises(UserError, match="does not fit") as error:
        load_checkpoint(tmp_path, *make(tiny_model, name, **numbers))
    assert named in str(error.value)
    assert "step-00000001" in str(error.value)


def test_a_checkpoint_of_muon_is_refused_by_adamw(tiny_model: MakeModel, tmp_path: Path) -> None:
    model, optimizers = make(tiny_model, "muon")
    train(model, optimizers, 0, 1)
    save_checkpoint(tmp_path, 1, model, optimizers, {})
    with pytest.raises(UserError, match="does not fit"):
        load_checkpoint(tmp_path, *make(tiny_model, "adamw"))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_can_be_used(
    tiny_model: MakeModel, tmp_path: Path, file: str
) -> None:
    model, optimizers = make(tiny_model, "adamw")
    for step in (1, 2):
        save_checkpoint(tmp_path, step, model, optimizers, {})
    newest = list_checkpoints(tmp_path)[-1]
    (newest / file).write_bytes((newest / file).read_bytes()[:20])
    with pytest.raises(UserError, match="cannot be read") as error:
        load_checkpoint(tmp_path, model, optimizers)
    assert str(newest) in str(error.value)
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    saved = load_checkpoint(tmp_path, model, optimizers)
    assert saved is not None
    assert saved["step"] == 1


def test_the_state_is_readable_json(tiny_model: MakeModel, tmp_path: Path) -> None:
    model, optimizers = make(tiny_model, "adamw")
    save_checkpoint(tmp_path, 5, model, optimizers, {"batches": {"next_index": 7}})
    state = json.loads((tmp_path / "step-00000005" / "state.json").read_text())
    assert state["batches"] == {"next_index": 7}

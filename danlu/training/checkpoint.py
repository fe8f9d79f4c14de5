"""Training checkpoints: float32 masters and optimiser state as safetensors, the rest as JSON; written whole.

`checkpoints/step-N/` holds `model.safetensors`, `optimizer.safetensors`, `state.json`. The newest whole one counts.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from danlu.model.stored_tensors import save_tensors
from danlu.run.errors import UserError
from danlu.run.files import publish, write_json

KEPT = 2
"""Checkpoints kept. Our choice: the newest, and one more should a disk fault hit it."""


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, Any],
) -> None:
    """Write `folder/step-N`; remove all but the newest checkpoints, and what a kill left half written."""
    for half in folder.glob(".step-*.partial"):
        shutil.rmtree(half)
    with publish(folder / f"step-{step:08d}") as aside:
        aside.mkdir()
        weights = {name: parameter.detach().cpu().contiguous() for name, parameter in _learning(model).items()}
        save_tensors(weights, aside / "model.safetensors")
        tensors, scalars = _flatten(optimizers)
        save_tensors(tensors, aside / "optimizer.safetensors")
        write_json(aside / "state.json", {"step": step, "optimizer_scalars": scalars, **state})
    for old in list_checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(folder.glob("step-*")) if folder.exists() else []


def load_checkpoint(folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any] | None:
    """Restore the newest checkpoint in `folder`; its `state.json`, or None when there is none."""
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        return None
    newest = checkpoints[-1]
    try:
        state: dict[str, Any] = json.loads((newest / "state.json").read_text(encoding="utf-8"))
        weights = load_file(newest / "model.safetensors")
        tensors = load_file(newest / "optimizer.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        mend = "Remove this checkpoint; the run goes on from the one before"
        raise UserError(f"this checkpoint cannot be read ({error})", where=newest, mend=mend) from error
    wanted = _learning(model)
    for name in sorted(wanted.keys() | weights.keys()):
        if name not in wanted or name not in weights or wanted[name].shape != weights[name].shape:
            raise _does_not_fit(newest, name)
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(weights[name])
    _restore(optimizers, tensors, state["optimizer_scalars"], newest)
    return state


def _learning(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that training moves; others are those of the model that the stage began with."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _flatten(optimizers: list[torch.optim.Optimizer]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """State of all optimisers as tensors by name `optimizer.parameter.key`, and plain numbers apart."""
    tensors, scalars = {}, {}
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                name = f"{number}.{index}.{key}"
                if isinstance(value, Tensor):
                    tensors[name] = value.detach().cpu().contiguous()
                else:
                    scalars[name] = value
    return tensors, scalars


def _restore(
    optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor], scalars: dict[str, float], checkpoint: Path
) -> None:
    states: list[dict[int, dict[str, Any]]] = [{} for _ in optimizers]
    parameters = [
        [parameter for group in optimizer.param_groups for parameter in group["params"]] for optimizer in optimizers
    ]
    for name, value in {**tensors, **scalars}.items():
        number, index, key = name.split(".", 2)
        owner, at = int(number), int(index)
        if owner >= len(optimizers) or at >= len(parameters[owner]):
            raise _does_not_fit(checkpoint, f"optimizer state {name}")
        # AdamW counts its steps in a tensor without dimensions; every other tensor is shaped as its parameter.
        if isinstance(value, Tensor) and value.dim() and value.shape != parameters[owner][at].shape:
            raise _does_not_fit(checkpoint, f"optimizer state {name}")
        states[owner].setdefault(at, {})[key] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _does_not_fit(checkpoint: Path, name: str) -> UserError:
    return UserError(
        f"this checkpoint does not fit the model or its optimizer (`{name}`)",
        where=checkpoint,
        mend="Choose another --out",
    )

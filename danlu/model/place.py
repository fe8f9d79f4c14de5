"""Where a model lies: a folder, a GGUF file, a name on the hub; or the folder of an adapter in PEFT's layout, which
names the model that it changes.

In: a path as a person writes it. Out: the path of what holds the weights, or the tokenizer.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

from danlu.run.errors import UserError, first_line
from danlu.run.files import ADAPTER_CONFIG, read_object
from danlu.run.folder import say
from danlu.tokenizer.formats import has_vocabulary, is_gguf

MODEL_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")

HUB_FILES = ["*.json", "*.safetensors", "*.tiktoken", "*.jinja"]
"""What is fetched of a model: never code, never pickles."""

ADAPTER_WEIGHTS = "adapter_model.safetensors"
"""Beside ADAPTER_CONFIG, in PEFT's layout."""


def found(path: Path) -> Path:
    """A folder or a GGUF file as it is; the folder of a model of the hub, whose files that are not code are fetched.
    Raises UserError for what is none of them."""
    if path.is_dir() or (path.is_file() and is_gguf(path)):
        return path
    if path.is_file():
        raise UserError("not a model folder and not a GGUF file", where=path)
    if not is_hub_name(path):
        raise UserError("no such model folder", where=path)
    return _fetched(path)


@lru_cache
def _fetched(name: Path) -> Path:
    """The folder of a model of the hub. Asked for once: weights and tokenizer are of one state of it."""
    from huggingface_hub import snapshot_download

    say(f"{name}: no such folder here; looked for on the hub")
    try:
        return Path(snapshot_download(str(name), allow_patterns=HUB_FILES))
    except Exception as error:  # Whatever the hub's client raises: no network, no such model, a gate.
        raise UserError(f"no such folder, and not to be had from the hub: {first_line(error)}", where=name) from error


def name_of(path: Path) -> str:
    """What to call a model so that it is found again: its name on the hub where it lies in the hub's cache, else its
    whole path."""
    path = path.resolve()
    if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):
        return "/".join(path.parents[1].name.split("--")[1:])
    return str(path)


def is_hub_name(path: Path) -> bool:
    """Whether a path that is not here can be a name on the hub: an owner's name and the model's."""
    return not path.exists() and not path.is_absolute() and len(path.parts) == 2 and path.parts[0] != ".."


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter alone, in place of a model."""
    return (path / ADAPTER_CONFIG).is_file() and not any((path / name).is_file() for name in MODEL_WEIGHTS)


def base_of(path: Path) -> Path:
    """Where the model is that an adapter changes, which may be an adapter with its model itself. Raises UserError where
    the adapter does not say so, or that is not to be found."""
    name = adapter_values(path).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        mend = "Write the path of the model that it was trained on"
        raise UserError("base_model_name_or_path is missing", where=path / ADAPTER_CONFIG, mend=mend)
    try:
        return found(Path(name))
    except UserError as error:
        raise UserError(f"its base_model_name_or_path: {error}", where=path / ADAPTER_CONFIG) from error


def root_of(path: Path) -> Path:
    """Where the weights are that an adapter changes in the end; of a model the path itself. Raises UserError as
    `base_of`, and for adapters that change one another."""
    seen: list[Path] = []
    while is_adapter(path):
        if path.resolve() in seen:
            raise UserError("it names itself as its base", where=path / ADAPTER_CONFIG)
        seen.append(path.resolve())
        path = base_of(path)
    return path


def adapter_values(folder: Path) -> dict[str, Any]:
    """`adapter_config.json`. Raises UserError where that is no JSON object."""
    return read_object(folder / ADAPTER_CONFIG)


def tokenizer_place(path: Path) -> Path:
    """Where the tokenizer of a model lies: with an adapter, or else with its base."""
    root_of(path)
    while is_adapter(path) and not has_vocabulary(path):
        path = base_of(path)
    return path

"""Where a model lies: a folder, a GGUF file, a name on the hub; or the folder of an adapter in PEFT's layout, which
names the model that it changes.

In: a path as a person writes it. Out: the path of what holds the weights, or the tokenizer.
"""

from pathlib import Path
from typing import Any

from danlu.run.errors import UserError, first_line
from danlu.run.files import read_object
from danlu.run.folder import say
from danlu.tokenizer.formats import has_vocabulary, is_gguf

HUB_FILES = ["*.json", "*.safetensors", "*.tiktoken", "*.jinja"]
"""What is fetched of a model: never code, never pickles."""

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of PEFT's layout."""


def found(path: Path) -> Path:
    """A folder or a GGUF file as it is; the folder of a model of the hub, whose files that are not code are fetched.
    Raises UserError for what is none of them."""
    if path.is_dir() or (path.is_file() and is_gguf(path)):
        return path
    if path.is_file():
        raise UserError("not a model folder and not a GGUF file", where=path)
    if not is_hub_name(path):
        raise UserError("no such model folder", where=path)
    from huggingface_hub import snapshot_download

    say(f"{path}: no such folder here; looked for on the hub")
    try:
        return Path(snapshot_download(str(path), allow_patterns=HUB_FILES))
    except Exception as error:  # Whatever the hub's client raises: no network, no such model, a gate.
        raise UserError(f"no such folder, and not to be had from the hub: {first_line(error)}", where=path) from error


def is_hub_name(path: Path) -> bool:
    """Whether a path that is not here can be a name on the hub: an owner's name and the model's."""
    return not path.exists() and not path.is_absolute() and len(path.parts) == 2 and path.parts[0] != ".."


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter alone, in place of a model."""
    return (path / ADAPTER_CONFIG).is_file()


def base_of(path: Path) -> Path:
    """Where the weights are that an adapter changes; of a model the path itself. Raises UserError where the adapter
    does not say so, or that is not to be found."""
    if not is_adapter(path):
        return path
    name = adapter_values(path).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        mend = "Write the path of the model that it was trained on"
        raise UserError("base_model_name_or_path is missing", where=path / ADAPTER_CONFIG, mend=mend)
    try:
        base = found(Path(name))
    except UserError as error:
        raise UserError(f"its base_model_name_or_path: {error}", where=path / ADAPTER_CONFIG) from error
    if is_adapter(base):
        raise UserError(f"its base, {base}, is an adapter too", where=path, mend="`danlu convert` that one to a folder")
    return base


def adapter_values(folder: Path) -> dict[str, Any]:
    """`adapter_config.json`. Raises UserError where that is no JSON object."""
    return read_object(folder / ADAPTER_CONFIG)


def tokenizer_place(path: Path) -> Path:
    """Where the tokenizer of a model lies: with an adapter, or else with its base."""
    return path if not is_adapter(path) or has_vocabulary(path) else base_of(path)

"""The door `danlu.load`: a model folder in, model and tokenizer out."""

from collections.abc import Sequence
from pathlib import Path

import torch

from danlu.inference.config import OpenConfig
from danlu.inference.extend import extended
from danlu.model.checkpoint import check_vocabulary, load_model
from danlu.model.transformer import Transformer
from danlu.run.device import pick_device
from danlu.run.errors import UserError, first_line
from danlu.run.folder import say
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.formats import has_vocabulary, is_gguf

HUB_FILES = ["*.json", "*.safetensors", "*.tiktoken", "*.jinja"]
"""What is fetched of a model: never code, never pickles."""


def load(
    path: str | Path, dtype: torch.dtype | None = None, device: str | None = None, extend: Sequence[str] = ()
) -> tuple[Transformer, Tokenizer | None]:
    """`(model, tokenizer)` of a model folder, a GGUF file or a name on the hub (`Qwen/Qwen2.5-0.5B`); the tokenizer is
    None where a folder has none.

    float32 unless `dtype` says otherwise; the device is found if not named. `extend` are settings of how more is read
    than was trained (`danlu.inference.extend`), in place of the folder's. Raises UserError naming what is missing.
    """
    place = found(Path(path))
    model = load_model(place, dtype=dtype, device=pick_device(device))
    if extend:
        model.extend(extended(model.config, extend))
    return model, Tokenizer.load(place) if has_vocabulary(place) else None


def found(path: Path) -> Path:
    """A folder or a GGUF file as it is; the folder of a model of the hub, whose files that are not code are fetched.
    Raises UserError for what is none of them."""
    if path.is_dir() or (path.is_file() and is_gguf(path)):
        return path
    if path.is_file():
        raise UserError("not a model folder and not a GGUF file", where=path)
    if path.is_absolute() or len(path.parts) != 2 or path.parts[0] == "..":
        raise UserError("no such model folder", where=path)
    from huggingface_hub import snapshot_download

    say(f"{path}: no such folder here; looked for on the hub")
    try:
        return Path(snapshot_download(str(path), allow_patterns=HUB_FILES))
    except Exception as error:  # Whatever the hub's client raises: no network, no such model, a gate.
        raise UserError(f"no such folder, and not to be had from the hub: {first_line(error)}", where=path) from error


def check_same_tokenizer(reward_model: Path, model: Path, tokenizer: Tokenizer) -> None:
    """UserError where a reward model was trained with other ids than those of `model`'s `tokenizer`."""
    if Tokenizer.load(reward_model).vocabulary != tokenizer.vocabulary:
        raise UserError(
            f"its tokenizer is not that of {model}",
            where=reward_model,
            mend="Train the reward model from a model with the same tokenizer",
        )


def open_model(path: Path, how: OpenConfig) -> tuple[Transformer, Tokenizer]:
    """As `load_for_text`, by the values of a verb."""
    return load_for_text(path, how.device, getattr(torch, how.dtype), how.extend)


def load_for_text(
    path: Path, device: str | None = None, dtype: torch.dtype = torch.float32, extend: Sequence[str] = ()
) -> tuple[Transformer, Tokenizer]:
    """As `load`, for a caller that needs both. Raises UserError for a folder without a tokenizer."""
    model, tokenizer = load(path, dtype, device, extend)
    if tokenizer is None:
        raise UserError("this model folder has no tokenizer", where=path, mend="Copy tokenizer.json into it")
    check_vocabulary(path, model, tokenizer)
    return model, tokenizer

"""The door `danlu.load`: a model folder in, model and tokenizer out."""

from collections.abc import Sequence
from pathlib import Path

import torch

from danlu.inference.config import OpenConfig
from danlu.inference.extend import extended
from danlu.model.checkpoint import check_vocabulary, load_model
from danlu.model.linear import pack
from danlu.model.place import found, tokenizer_place
from danlu.model.transformer import Transformer
from danlu.run.device import pick_device
from danlu.run.errors import UserError
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.formats import has_vocabulary


def load(
    path: str | Path, dtype: torch.dtype | None = None, device: str | None = None, extend: Sequence[str] = ()
) -> tuple[Transformer, Tokenizer | None]:
    """`(model, tokenizer)` of a model folder, a GGUF file or a name on the hub (`Qwen/Qwen2.5-0.5B`), or of an adapter
    in PEFT's layout, merged into its base; the tokenizer is None where a folder has none.

    float32 unless `dtype` says otherwise; the device is found if not named. `extend` are settings of how more is read
    than was trained (`danlu.inference.extend`), in place of the folder's. Raises UserError naming what is missing.
    """
    place = found(Path(path))
    model = load_model(place, dtype=dtype, device=pick_device(device))
    if extend:
        model.extend(extended(model.config, extend))
    place = tokenizer_place(place)
    return model, Tokenizer.load(place) if has_vocabulary(place) else None


def check_same_tokenizer(reward_model: Path, model: Path, tokenizer: Tokenizer) -> None:
    """UserError where a reward model was trained with other ids than those of `model`'s `tokenizer`."""
    if Tokenizer.load(tokenizer_place(reward_model)).vocabulary != tokenizer.vocabulary:
        raise UserError(
            f"its tokenizer is not that of {model}",
            where=reward_model,
            mend="Train the reward model from a model with the same tokenizer",
        )


def open_model(path: Path, how: OpenConfig) -> tuple[Transformer, Tokenizer]:
    """As `load_for_text`, by the values of a verb that only answers: the model cannot be trained or saved."""
    model, tokenizer = load_for_text(path, how.device, getattr(torch, how.dtype), how.extend)
    pack(model)
    return model, tokenizer


def load_for_text(
    path: Path, device: str | None = None, dtype: torch.dtype = torch.float32, extend: Sequence[str] = ()
) -> tuple[Transformer, Tokenizer]:
    """As `load`, for a caller that needs both. Raises UserError for a folder without a tokenizer."""
    model, tokenizer = load(path, dtype, device, extend)
    if tokenizer is None:
        raise UserError("this model folder has no tokenizer", where=path, mend="Copy tokenizer.json into it")
    check_vocabulary(path, model, tokenizer)
    return model, tokenizer

"""The door `danlu.load`: a model folder in, model and tokenizer out."""

from pathlib import Path

import torch

from danlu.inference.config import DtypeName
from danlu.model.checkpoint import load_model
from danlu.model.transformer import Backbone, Transformer
from danlu.run.device import pick_device
from danlu.run.errors import UserError
from danlu.tokenizer.bpe import Tokenizer


def load(
    path: str | Path, dtype: torch.dtype | None = None, device: str | None = None
) -> tuple[Transformer, Tokenizer | None]:
    """`(model, tokenizer)` of a model folder; the tokenizer is None where the folder has none.

    float32 unless `dtype` says otherwise; the device is found if not named. Raises UserError naming what is missing.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError("no such model folder", where=folder)
    model = load_model(folder, dtype=dtype, device=pick_device(device))
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "qwen.tiktoken"))
    return model, Tokenizer.load(folder) if has_tokenizer else None


def check_same_tokenizer(reward_model: Path, model: Path, tokenizer: Tokenizer) -> None:
    """UserError where a reward model was trained with other ids than those of `model`'s `tokenizer`."""
    if Tokenizer.load(reward_model).vocabulary != tokenizer.vocabulary:
        raise UserError(
            f"its tokenizer is not that of {model}",
            where=reward_model,
            mend="Train the reward model from a model with the same tokenizer",
        )


def check_vocabulary(folder: Path, model: Backbone, tokenizer: Tokenizer) -> None:
    """UserError where the tokenizer in a model's folder has ids that the model does not know."""
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model only {model.config.vocab_size} rows",
            where=folder,
            mend="Use the tokenizer that the model was trained with",
        )


def load_for_text(path: Path, device: str | None = None, dtype: DtypeName = "float32") -> tuple[Transformer, Tokenizer]:
    """As `load`, for a caller that needs both. Raises UserError for a folder without a tokenizer."""
    model, tokenizer = load(path, dtype=getattr(torch, dtype), device=device)
    if tokenizer is None:
        raise UserError("this model folder has no tokenizer", where=path, mend="Copy tokenizer.json into it")
    check_vocabulary(path, model, tokenizer)
    return model, tokenizer

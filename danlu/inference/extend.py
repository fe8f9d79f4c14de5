"""The words of `--extend` to a model's configuration: how it reads more than it was trained on (recipe section 4).

In: the configuration of a folder, and words such as `length=16384`, `dynamic_ntk`, `logn`, `windows=512,4096`. Out: the
configuration with these settings in place of the folder's own.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from danlu.model.config import ModelConfig
from danlu.model.extension import ContextExtension
from danlu.run.errors import UserError

LENGTH, NONE = "length", "none"
"""Words that are no settings of `ContextExtension`: how much is read, and none of what the folder says."""

KINDS: dict[str, Any] = {field.name: field.type for field in fields(ContextExtension)}


def extended(config: ModelConfig, words: Sequence[str]) -> ModelConfig:
    """The configuration with the settings of `words`. Raises UserError for a word that is none, or a value that fits
    not."""
    values: dict[str, Any] = {}
    extension, length = config.extension, config.max_position_embeddings
    for word in words:
        name, has_value, text = word.partition("=")
        if word == NONE:
            extension = ContextExtension(training_length=extension.training_length)
            length = config.training_length
        elif name == LENGTH:
            length = _parsed(word, text, int)
        elif name in KINDS:
            values[name] = _value(word, text if has_value else "true", KINDS[name])
        else:
            known = ", ".join((NONE, LENGTH, *KINDS))
            raise UserError(f"{name!r} is no setting", where="--extend", mend=f"There are {known}")
    # What the folder calls its length is what it was trained on, unless it says so itself.
    values.setdefault("training_length", config.training_length)
    try:
        return replace(config, max_position_embeddings=length, extension=replace(extension, **values))
    except ValueError as error:
        raise UserError(str(error), where="--extend") from error


def _value(word: str, text: str, kind: Any) -> Any:
    if kind is bool:
        if text not in ("true", "false"):
            raise UserError(f"{word}: expected true or false", where="--extend")
        return text == "true"
    if kind in (int, float):
        return _parsed(word, text, kind)
    return tuple(_parsed(word, part, int) for part in text.split(","))


def _parsed(word: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        what = "an integer" if kind is int else "a number"
        raise UserError(f"{word}: expected {what}, got {text!r}", where="--extend") from error

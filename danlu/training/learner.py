"""What a stage trains of a given model, all of its weights or adapters beside them, and how that is saved."""

import copy
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from danlu.model.checkpoint import save_model
from danlu.model.lora import adapted, merge, save_adapter
from danlu.model.transformer import Backbone
from danlu.run.errors import UserError
from danlu.run.seeds import derive_seed
from danlu.tokenizer.bpe import Tokenizer
from danlu.training.lora_config import LoraConfig

B = TypeVar("B", bound=Backbone)


class TrainingTable(Protocol):
    """A stage's table that names a model to start from."""

    @property
    def model(self) -> Path: ...
    @property
    def out(self) -> Path: ...
    @property
    def lora(self) -> LoraConfig: ...


def learner(model: B, lora: LoraConfig, seed: int, *, keeps_model: bool = False) -> B:
    """What learns: `model` itself, or one that shares its weights and has adapters. With `keeps_model` it is another in
    either case, so that `model` stays what it was."""
    if lora.rank:
        generator = torch.Generator().manual_seed(derive_seed(seed, "adapters"))
        whole = [name for name in lora.modules_to_save if hasattr(model, name)]  # A reward model has no such head.
        try:
            return adapted(model, lora.target_modules, lora.rank, lora.alpha, generator, whole)
        except ValueError as error:
            raise UserError(str(error), where="lora.modules_to_save", mend="Leave it out") from error
    return copy.deepcopy(model) if keeps_model else model


def save_learnt(config: TrainingTable, model: Backbone, tokenizer: Tokenizer) -> Path:
    """Write what a stage has trained: the adapters, where these have learnt, and the whole model; its folder."""
    lora = config.lora
    if lora.rank:
        save_adapter(config.out / "adapter", model, config.model, lora.target_modules, lora.rank, lora.alpha)
        merge(model)
    save_model(config.out / "model", model, config.model, list(tokenizer.stop_ids), tokenizer.end_of_text_id)
    return config.out / "model"

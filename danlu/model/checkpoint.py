"""Model folders. Written in Hugging Face layout: language models open as `Qwen2ForCausalLM` (or `Qwen3…`, `Llama…`),
reward models as `…ForSequenceClassification` with one label. Read in that layout and in the published Qwen v1's.

In and out: `config.json`, `generation_config.json`, `model.safetensors`, and the tokenizer's files beside them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor

from danlu.model.config import ModelConfig
from danlu.model.hf_config import CAUSAL, SCALAR, hf_config, is_qwen_v1, is_reward_model, read_config
from danlu.model.lora import add_adapter, is_never
from danlu.model.place import base_of, is_adapter, root_of, tokenizer_place
from danlu.model.stored_tensors import QwenV1Tensors, StoredTensors, check, open_tensors, save_tensors
from danlu.model.transformer import Backbone, ScalarModel, Transformer
from danlu.run.errors import UserError
from danlu.run.files import publish, write_json
from danlu.run.folder import say
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.formats import is_gguf

B = TypeVar("B", bound=Backbone)


def hf_tensors(model: Backbone) -> dict[str, Tensor]:
    """The weights under Hugging Face's names; Q, K, V and gate, up apart. Views where possible, no copies."""
    config, tensors = config_as_it_is(model), {}
    projections = config.projections
    for name, tensor in model.state_dict().items():
        *_, matrix, kind = ("", *name.split("."))
        if parts := projections.get(matrix):
            for part, piece in zip(parts, tensor.split(tuple(parts.values())), strict=True):
                tensors["model." + name.replace(f"{matrix}.{kind}", f"{part}.{kind}")] = piece
        elif name == "score.weight":
            tensors[name] = tensor
        elif name == "lm_head.weight":
            if not config.tie_word_embeddings:
                tensors[name] = tensor
        else:
            tensors["model." + name] = tensor
    return tensors


def config_as_it_is(model: Backbone) -> ModelConfig:
    """The configuration that says what the weights are: a head that was trained apart from the embedding, or a
    vocabulary that has grown, may have come after `model.config` was written (M04)."""
    config = replace(model.config, vocab_size=len(model.embed_tokens.weight))
    if isinstance(model, Transformer):
        config = replace(config, tie_word_embeddings=model.lm_head.weight is model.embed_tokens.weight)
    return config


def save_model(
    folder: Path, model: Backbone, tokenizer_folder: Path | None, end_ids: list[int], pad_id: int | None
) -> None:
    """Write a model folder, whole or not at all. `end_ids` end a generation, in every file that names them (S13)."""
    with publish(folder) as aside:
        aside.mkdir()
        head = SCALAR if isinstance(model, ScalarModel) else CAUSAL
        write_json(
            aside / "config.json",
            hf_config(config_as_it_is(model), head, next(model.parameters()).dtype, end_ids, pad_id),
        )
        if isinstance(model, Transformer):
            write_json(
                aside / "generation_config.json",
                {"eos_token_id": end_ids, "pad_token_id": pad_id, "do_sample": True, "top_p": 0.9},
            )
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in hf_tensors(model).items()}
        save_tensors(tensors, aside / "model.safetensors")
        if tokenizer_folder:
            # Loaded and written again, so that a folder with one form of a tokenizer becomes one with all forms.
            Tokenizer.load(tokenizer_place(tokenizer_folder)).save(aside)


def leave_extension_out(model: Backbone, folder: Path) -> None:
    """Before training: leave out what a saved folder's config.json cannot say, techniques that read more than was
    trained (`--extend` switches them on again), and say so. Raises UserError for what cannot be left out."""
    config, extension = model.config, model.config.extension
    if extension.dynamic_ntk or extension.logn or extension.ntk_alpha != 1:
        plain = replace(extension, dynamic_ntk=False, dynamic_ntk_per_step=False, logn=False, ntk_alpha=1.0)
        model.extend(replace(config, max_position_embeddings=config.training_length, extension=plain))
        say(f"{folder}: its NTK and LogN are no part of what is trained; `--extend` has them where the result answers")
    check_savable(model.config)


def check_savable(config: ModelConfig) -> None:
    """UserError, before anything is trained, for a shape that a folder's config.json cannot say."""
    hf_config(config, CAUSAL, torch.float32, [], None)


def load_model(folder: Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Transformer:
    """The language model in `folder`, float32 unless told otherwise. Raises UserError naming what is missing or
    misshapen, and for a reward model."""
    if is_reward_model(folder):
        raise UserError("this is a reward model, which cannot write", where=folder, mend="Name a language model")
    return _load(folder, Transformer, dtype, device)


def load_reward_model(
    folder: Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> ScalarModel:
    """The reward model in `folder`. Raises UserError as `load_model`, and for a language model."""
    if not is_reward_model(folder):
        mend = "Name a folder that `danlu reward` has made"
        raise UserError("this is not a reward model", where=folder, mend=mend)
    return _load(folder, ScalarModel, dtype, device)


def load_with_new_score(
    folder: Path, generator: torch.Generator, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> ScalarModel:
    """The blocks of the language model in `folder` under a head for one number, drawn from `generator`."""
    model = _load(folder, ScalarModel, dtype, device, without=("score.weight",))
    # Scores begin with a deviation of about 1: the states they are taken from have a mean square of about 1.
    weight = torch.randn(model.score.weight.shape, generator=generator) * model.config.hidden_size**-0.5
    with torch.no_grad():
        model.score.weight.copy_(weight)
    return model


def _load(
    folder: Path,
    kind: type[B],
    dtype: torch.dtype | None,
    device: str | torch.device,
    without: tuple[str, ...] = (),
) -> B:
    """A model of class `kind` with the tensors in `folder`; those named in `without` are left as memory had them."""
    if is_adapter(folder):
        root_of(folder)  # Raises UserError for adapters that change one another.
        # A head for one number comes with the adapter: what it was trained on had none, or another.
        is_scalar = kind is ScalarModel
        head = ("score.weight",) if is_scalar else ()
        model = _load(base_of(folder), kind, dtype, device, without=(*without, *head))
        # A head for words may be left where there is none, not where a model has it tied to its embedding.
        add_adapter(hf_tensors(model), folder, set(head) - set(without), _may_be_left if is_scalar else is_never)
        return model
    config = config_of(folder)
    with torch.device("meta"):
        model = kind(config)
    wanted = {name: tuple(place.shape) for name, place in hf_tensors(model).items() if name not in without}
    with _stored(folder, config, set(wanted)) as stored:
        check(stored, wanted, folder, _may_be_left)
        model = model.to(dtype or torch.float32).to_empty(device=device)
        if isinstance(model, Transformer) and config.tie_word_embeddings:
            model.lm_head.weight = model.embed_tokens.weight
        places = hf_tensors(model)
        with torch.no_grad():
            # The largest first: a tensor is held twice while it is copied, and the model's memory is taken as it fills.
            for name in sorted(wanted, key=lambda name: -places[name].numel()):
                places[name].copy_(stored.get(name))
            _check_tied(stored, places, folder, config)
    return model.eval()


def config_of(path: Path) -> ModelConfig:
    """The shape of the model in a folder or a GGUF file; of an adapter that of its base."""
    path = root_of(path)
    return _gguf().read_gguf_config(path) if is_gguf(path) else read_config(path)


def stored_dtype(path: Path) -> torch.dtype:
    """How the weights of the model in a folder or a GGUF file are held: float32 where they differ, which holds all."""
    path = root_of(path)
    config = config_of(path)
    with torch.device("meta"):
        wanted = set(hf_tensors(Transformer(config)))
    with _stored(path, config, wanted) as stored:
        dtypes = {stored.dtype(name) for name in wanted & stored.names}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


@contextmanager
def _stored(path: Path, config: ModelConfig, wanted: set[str]) -> Iterator[StoredTensors]:
    """The tensors of a folder or a GGUF file while inside, under Hugging Face's names."""
    if is_gguf(path):
        yield _gguf().GGUFTensors(path, config, wanted)
        return
    with open_tensors(path) as files:
        yield QwenV1Tensors(files, wanted) if is_qwen_v1(path) else files


def _gguf() -> ModuleType:
    """Imported where it is needed: the package takes half a second."""
    from danlu.model import gguf_file

    return gguf_file


def check_vocabulary(folder: Path, model: Backbone, tokenizer: Tokenizer) -> None:
    """UserError where the tokenizer in a model's folder has ids that the model does not know."""
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model only {model.config.vocab_size} rows",
            where=folder,
            mend="Use the tokenizer that the model was trained with",
        )


def _may_be_left(name: str) -> bool:
    """Whether a tensor that the model has no place for is known: tables that are computed, and another head."""
    return name in ("lm_head.weight", "score.weight") or name.endswith(".rotary_emb.inv_freq")


def _check_tied(stored: StoredTensors, places: dict[str, Tensor], folder: Path, config: ModelConfig) -> None:
    """UserError where config.json says that the head is the embedding and the file has another (M04)."""
    if not config.tie_word_embeddings or "lm_head.weight" not in stored.names:
        return
    embedding = places["model.embed_tokens.weight"]
    if not torch.equal(stored.get("lm_head.weight").to(embedding), embedding):
        raise UserError(
            "tie_word_embeddings is true, but `lm_head.weight` is not the embedding", where=folder / "config.json",
            mend="Set it to false",
        )  # fmt: skip

"""Model folders in Hugging Face layout: language models open as `Qwen2ForCausalLM`, reward models as
`Qwen2ForSequenceClassification` with one label.

In and out: `config.json`, `generation_config.json`, `model.safetensors`, and the tokenizer's files beside them.
"""

import json
import os
import re
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from danlu.model.config import ModelConfig
from danlu.model.transformer import Backbone, ScalarModel, Transformer
from danlu.run.errors import UserError
from danlu.run.files import publish, write_json
from danlu.tokenizer.bpe import Tokenizer

ARCHITECTURES: dict[type[Backbone], str] = {
    Transformer: "Qwen2ForCausalLM",
    ScalarModel: "Qwen2ForSequenceClassification",
}
"""What Hugging Face calls our models."""

B = TypeVar("B", bound=Backbone)


def hf_config(model: Backbone, end_ids: list[int], pad_id: int | None) -> dict[str, Any]:
    """config.json for a model of ours."""
    config = model.config
    # Without these transformers gives a classifier two labels.
    labels = {"id2label": {"0": "reward"}, "label2id": {"reward": 0}} if isinstance(model, ScalarModel) else {}
    return {
        "architectures": [ARCHITECTURES[type(model)]],
        "model_type": "qwen2",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "initializer_range": config.initializer_range,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": end_ids,
        "pad_token_id": pad_id,
        "torch_dtype": "float32",
        **labels,
    }


def read_config(folder: Path) -> ModelConfig:
    """The shape in `folder/config.json`. Raises UserError for a folder that is not a Qwen2 model."""
    values, path = _config_values(folder), folder / "config.json"
    if values.get("model_type") != "qwen2":
        raise UserError(f"model_type is {values.get('model_type')!r}", where=path, mend="Danlu opens `qwen2` folders")
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    names = [name for name in ModelConfig.__dataclass_fields__ if name in values and name != "rope_theta"]
    try:
        theta = _number("rope_theta", values.get("rope_theta") or rope.get("rope_theta") or 10_000.0)
        config = ModelConfig(rope_theta=theta, **{name: _number(name, values[name]) for name in names})
    except ValueError as error:
        raise UserError(str(error), where=path) from error
    _refuse_what_we_do_not_compute(values, rope, config, path)
    return config


def _config_values(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError("no config.json here, so this is not a model folder", where=folder)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"not valid JSON: {error}", where=path) from error
    if not isinstance(values, dict):
        raise UserError(f"not an object: {values!r:.40}", where=path)
    return values


def is_reward_model(folder: Path) -> bool:
    """Whether `folder` says that it holds a model with one number for a head. Raises UserError as `read_config`."""
    return ARCHITECTURES[ScalarModel] in (_config_values(folder).get("architectures") or ())


def _number(name: str, value: Any) -> Any:
    """`value` where it is a number (or a flag); ValueError naming the key where it is not."""
    if not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, not {value!r}")
    return value


def _refuse_what_we_do_not_compute(
    values: dict[str, Any], rope: dict[str, Any], config: ModelConfig, path: Path
) -> None:
    """UserError for a setting that changes the result and that `Transformer` does not know."""
    scaling = rope.get("rope_type") or rope.get("type") or "default"
    unknown = {
        f"rope type `{scaling}`": scaling != "default",
        "use_sliding_window": bool(values.get("use_sliding_window")),
        f"head_dim {values.get('head_dim')}": values.get("head_dim") not in (None, config.head_dim),
        f"hidden_act `{values.get('hidden_act')}`": values.get("hidden_act", "silu") != "silu",
    }
    for name, asked in unknown.items():
        if asked:
            raise UserError(f"{name} is not supported", where=path, mend="Danlu computes plain Qwen2 models")


def hf_tensors(model: Backbone) -> dict[str, Tensor]:
    """The weights under Hugging Face's names; Q, K, V and gate, up apart. Views where possible, no copies."""
    config, tensors = model.config, {}
    query, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    for name, tensor in model.state_dict().items():
        if ".qkv_proj." in name:
            for part, piece in zip("qkv", tensor.split((query, kv, kv)), strict=True):
                tensors["model." + name.replace("qkv_proj", f"{part}_proj")] = piece
        elif ".gate_up_proj." in name:
            for part, piece in zip(("gate", "up"), tensor.chunk(2), strict=True):
                tensors["model." + name.replace("gate_up_proj", f"{part}_proj")] = piece
        elif name == "score.weight":
            tensors[name] = tensor
        elif name == "lm_head.weight":
            if not config.tie_word_embeddings:
                tensors[name] = tensor
        else:
            tensors["model." + name] = tensor
    return tensors


def save_model(
    folder: Path, model: Backbone, tokenizer_folder: Path | None, end_ids: list[int], pad_id: int | None
) -> None:
    """Write a model folder, whole or not at all. `end_ids` end a generation, in every file that names them (S13)."""
    with publish(folder) as aside:
        aside.mkdir()
        write_json(aside / "config.json", hf_config(model, end_ids, pad_id))
        if isinstance(model, Transformer):
            write_json(
                aside / "generation_config.json",
                {"eos_token_id": end_ids, "pad_token_id": pad_id, "do_sample": True, "top_p": 0.9},
            )
        tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in hf_tensors(model).items()}
        save_tensors(tensors, aside / "model.safetensors")
        if tokenizer_folder:
            # Loaded and written again, so that a folder with one form of a tokenizer becomes one with all forms.
            Tokenizer.load(tokenizer_folder).save(aside)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file. Raises OSError, as every other way of writing does, where the disk is full or fails."""
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(tensors, path, metadata={"format": "pt"})
        # The library leaves a file that only its owner may read, whatever the user's mask says.
        path.chmod(mode)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if not number:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


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


def load_with_new_score(folder: Path, generator: torch.Generator, device: str | torch.device = "cpu") -> ScalarModel:
    """The blocks of the language model in `folder` under a head for one number, drawn from `generator`."""
    model = _load(folder, ScalarModel, None, device, without=("score.weight",))
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
    config, path = read_config(folder), folder / "model.safetensors"
    if not path.is_file():
        raise UserError("no such file", where=path, mend="A model folder holds config.json and model.safetensors")
    with torch.device("meta"):
        model = kind(config)
    model = model.to_empty(device=device).to(dtype or torch.float32)
    if isinstance(model, Transformer) and config.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    places = hf_tensors(model)
    try:
        with safe_open(path, framework="pt") as weights, torch.no_grad():
            found = set(weights.keys())
            for name, place in places.items():
                if name in without:
                    continue
                if name not in found:
                    raise UserError(f"the tensor `{name}` is missing", where=path)
                tensor = weights.get_tensor(name)
                if tensor.shape != place.shape:
                    raise UserError(
                        f"`{name}` is {tuple(tensor.shape)}, config.json asks for {tuple(place.shape)}",
                        where=path,
                    )
                place.copy_(tensor)
    except SafetensorError as error:
        raise UserError(f"not a whole safetensors file: {error}", where=path) from error
    return model.eval()

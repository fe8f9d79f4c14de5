"""Model folders in Hugging Face layout: what Danlu trains opens as `Qwen2ForCausalLM`.

In and out: `config.json`, `generation_config.json`, `model.safetensors`, and the tokenizer's files beside them.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from danlu.model.config import ModelConfig
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.run.files import publish, write_json
from danlu.tokenizer.bpe import Tokenizer


def hf_config(config: ModelConfig, end_ids: list[int], pad_id: int | None) -> dict[str, Any]:
    """config.json of `Qwen2ForCausalLM` for our shape."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
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
    }


def read_config(folder: Path) -> ModelConfig:
    """The shape in `folder/config.json`. Raises UserError for a folder that is not a Qwen2 model."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError("no config.json here, so this is not a model folder", where=folder)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"not valid JSON: {error}", where=path) from error
    if not isinstance(values, dict) or values.get("model_type") != "qwen2":
        kind = values.get("model_type") if isinstance(values, dict) else values
        raise UserError(f"model_type is {kind!r}", where=path, mend="Danlu opens `qwen2` folders")
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    names = [name for name in ModelConfig.__dataclass_fields__ if name in values and name != "rope_theta"]
    try:
        theta = _number("rope_theta", values.get("rope_theta") or rope.get("rope_theta") or 10_000.0)
        config = ModelConfig(rope_theta=theta, **{name: _number(name, values[name]) for name in names})
    except ValueError as error:
        raise UserError(str(error), where=path) from error
    _refuse_what_we_do_not_compute(values, rope, config, path)
    return config


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


def hf_tensors(model: Transformer) -> dict[str, Tensor]:
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
        elif name == "lm_head.weight":
            if not config.tie_word_embeddings:
                tensors[name] = tensor
        else:
            tensors["model." + name] = tensor
    return tensors


def save_model(
    folder: Path, model: Transformer, tokenizer_folder: Path | None, end_ids: list[int], pad_id: int | None
) -> None:
    """Write a model folder, whole or not at all. `end_ids` end a generation, in every file that names them (S13)."""
    with publish(folder) as aside:
        aside.mkdir()
        write_json(aside / "config.json", hf_config(model.config, end_ids, pad_id))
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
    """The model in `folder`, float32 unless told otherwise. Raises UserError naming what is missing or misshapen."""
    config, path = read_config(folder), folder / "model.safetensors"
    if not path.is_file():
        raise UserError("no such file", where=path, mend="A model folder holds config.json and model.safetensors")
    with torch.device("meta"):
        model = Transformer(config)
    wanted = hf_tensors(model)
    model = model.to_empty(device=device).to(dtype or torch.float32)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    places = hf_tensors(model)
    try:
        with safe_open(path, framework="pt") as weights, torch.no_grad():
            found = set(weights.keys())
            for name, place in places.items():
                if name not in found:
                    raise UserError(f"the tensor `{name}` is missing", where=path)
                tensor = weights.get_tensor(name)
                if tensor.shape != wanted[name].shape:
                    raise UserError(
                        f"`{name}` is {tuple(tensor.shape)}, config.json asks for {tuple(wanted[name].shape)}",
                        where=path,
                    )
                place.copy_(tensor)
    except SafetensorError as error:
        raise UserError(f"not a whole safetensors file: {error}", where=path) from error
    return model.eval()

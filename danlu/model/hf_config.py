"""`config.json` of Hugging Face's layout and of the published Qwen v1, to and from our `ModelConfig`.

A setting that changes what a model computes and that we do not know is refused, never ignored.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from danlu.model.config import Family, ModelConfig
from danlu.model.extension import ContextExtension
from danlu.model.place import adapter_values, is_adapter
from danlu.run.errors import UserError
from danlu.run.files import read_object
from danlu.tokenizer.formats import is_gguf

CAUSAL, SCALAR = "ForCausalLM", "ForSequenceClassification"
"""What Hugging Face calls a language model, and one with a number for a head, behind the family's name."""

SCALAR_TASK = "SEQ_CLS"
"""What PEFT calls the task of the latter."""

FAMILIES: dict[str, Family] = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}
"""By `model_type`."""

FULL, SLIDING = "full_attention", "sliding_attention"
"""What configurations call a layer that sees everything, and one with a window."""

DEFAULT_MAX_WINDOW_LAYERS = 28
"""Layers without a window in transformers, where config.json says nothing."""

MOST_TOKENS = 1 << 40
"""Of a window: more is a mistake, and no tensor counts so far."""

DEFAULT_LENGTH = ModelConfig.max_position_embeddings

DEFAULT_ROPE_THETA = 10_000.0
"""Of every family's configuration in transformers, where config.json says nothing."""


def hf_config(
    config: ModelConfig, head: str, dtype: torch.dtype, end_ids: list[int], pad_id: int | None
) -> dict[str, Any]:
    """config.json for a model of ours with such a `head`, weights of `dtype`."""
    family = config.family
    # Without these transformers gives a classifier two labels.
    labels = {"id2label": {"0": "reward"}, "label2id": {"reward": 0}} if head == SCALAR else {}
    own: dict[str, Any] = _sliding(config) if family == "Qwen2" else {"attention_bias": False, **_sliding(config)}
    if family == "Qwen3" or config.head_size * config.num_attention_heads != config.hidden_size:
        own["head_dim"] = config.head_size
    if scaling := _rope_scaling(config):
        own["rope_scaling"] = scaling
    return {
        "architectures": [f"{family}{head}"],
        "model_type": family.lower(),
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
        **own,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": end_ids,
        "pad_token_id": pad_id,
        "torch_dtype": dtype_name(dtype),
        **labels,
    }


def dtype_name(dtype: torch.dtype) -> str:
    """As config.json and people write it: `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def config_values(folder: Path) -> dict[str, Any]:
    """`folder/config.json`. Raises UserError for a folder without one, and for one that is no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError("no config.json here, so this is not a model folder", where=folder)
    return read_object(path)


def is_reward_model(folder: Path) -> bool:
    """Whether `folder` says that it holds a model with one number for a head, or an adapter that makes one; a GGUF file
    never does. Raises UserError as `read_config`."""
    if is_gguf(folder):
        return False
    if is_adapter(folder):
        return adapter_values(folder).get("task_type") == SCALAR_TASK
    return any(str(name).endswith(SCALAR) for name in config_values(folder).get("architectures") or ())


def is_qwen_v1(folder: Path) -> bool:
    """Whether `folder` is in the layout of the published Qwen v1. Raises UserError as `config_values`."""
    return config_values(folder).get("model_type") == "qwen"


def read_config(folder: Path) -> ModelConfig:
    """The shape in `folder/config.json`. Raises UserError for what no model of ours is."""
    values, path = config_values(folder), folder / "config.json"
    kind = values.get("model_type")
    try:
        if kind == "qwen":
            return _qwen_v1(values, path)
        if kind in FAMILIES:
            return _hugging_face(values, FAMILIES[kind], path)
    except ValueError as error:
        raise UserError(str(error), where=path) from error
    known = ", ".join(f"`{name}`" for name in (*FAMILIES, "qwen"))
    raise UserError(f"model_type is {kind!r}", where=path, mend=f"Danlu opens {known}")


def _hugging_face(values: dict[str, Any], family: Family, path: Path) -> ModelConfig:
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    theta = _number("rope_theta", values.get("rope_theta") or rope.get("rope_theta") or DEFAULT_ROPE_THETA)
    names = ModelConfig.__dataclass_fields__.keys() & values.keys() - {"family", "rope_theta", "extension"}
    numbers = {
        name: _number(name, values[name], ModelConfig.__dataclass_fields__[name].type)
        for name in sorted(names)
        if (name, values[name]) != ("head_dim", None)
    }
    if numbers.get("head_dim", 0) * numbers.get("num_attention_heads", 0) == numbers.get("hidden_size"):
        del numbers["head_dim"]
    extension = (
        _extension(rope, numbers.get("max_position_embeddings", DEFAULT_LENGTH), path) if rope else ContextExtension()
    )
    extension = replace(extension, windows=_windows(values, family))
    stretched = extension.interpolation * extension.yarn_factor * extension.training_length
    longest = max(numbers.pop("max_position_embeddings", 0), round(stretched))
    if longest:
        numbers["max_position_embeddings"] = longest
    config = ModelConfig(family=family, rope_theta=theta, extension=extension, **numbers)
    _refuse(path, {
        f"hidden_act `{values.get('hidden_act')}`": values.get("hidden_act", "silu") != "silu",
        "attention_bias": family != "Qwen2" and bool(values.get("attention_bias")),
        "mlp_bias": bool(values.get("mlp_bias")),
    })  # fmt: skip
    return config


def _extension(rope: dict[str, Any], max_position_embeddings: int, path: Path) -> ContextExtension:
    """Of `rope_parameters`, or `rope_scaling` in older files."""
    kind = rope.get("rope_type") or rope.get("type") or "default"

    def number(name: str, default: float) -> Any:
        return _number(name, default if rope.get(name) is None else rope[name])

    if kind == "default":
        return ContextExtension()
    length = number("original_max_position_embeddings", max_position_embeddings)
    if kind == "linear":
        return ContextExtension(interpolation=number("factor", 1.0), training_length=length)
    _refuse(path, {
        f"rope type `{kind}`": kind != "yarn",
        "mscale": bool(rope.get("mscale")),
        "truncate: false": rope.get("truncate") is False,
        "partial_rotary_factor": number("partial_rotary_factor", 1.0) != 1,
    })  # fmt: skip
    return ContextExtension(
        training_length=length,
        yarn_factor=number("factor", max_position_embeddings / length),
        yarn_beta_fast=number("beta_fast", 32.0),
        yarn_beta_slow=number("beta_slow", 1.0),
        yarn_attention_factor=number("attention_factor", 0.0),
    )


def _windows(values: dict[str, Any], family: Family) -> tuple[int, ...]:
    """The window of each layer; none where no layer has one. Qwen's configurations say from which layer on, newer files
    the kind of every layer."""
    asked = values.get("use_sliding_window", False)
    if not isinstance(asked, bool):
        raise ValueError(f"use_sliding_window must be true or false, not {asked!r}")
    if not asked or values.get("sliding_window") is None:
        return ()
    if family == "Llama":
        raise ValueError("a Llama model has no sliding window")
    window, num_layers = _number("sliding_window", values["sliding_window"], int), values.get("num_hidden_layers", 0)
    if not 0 < window <= MOST_TOKENS:
        raise ValueError(f"sliding_window must lie between 1 and {MOST_TOKENS}, not {window}")
    kinds = values.get("layer_types")
    if kinds is None:
        first = _number("max_window_layers", values.get("max_window_layers", DEFAULT_MAX_WINDOW_LAYERS), int)
        kinds = [FULL if layer < first else SLIDING for layer in range(num_layers)]
    if not isinstance(kinds, list) or len(kinds) != num_layers or not set(map(str, kinds)) <= {FULL, SLIDING}:
        raise ValueError(f"layer_types must have {FULL} or {SLIDING} for each of the {num_layers} layers, not {kinds}")
    return tuple(window if kind == SLIDING else 0 for kind in kinds) if SLIDING in kinds else ()


def _sliding(config: ModelConfig) -> dict[str, Any]:
    """What `_windows` reads. Raises UserError for windows of several sizes, and for those of another family."""
    windows = config.layer_windows
    sizes = sorted(set(windows) - {0})
    if not sizes:
        return {"use_sliding_window": False} if config.family == "Qwen2" else {}
    if len(sizes) > 1 or config.family == "Llama":
        what = "windows of several sizes" if len(sizes) > 1 else "windows"
        raise UserError(f"config.json of this layout has no word for {what}", mend="Save the model without them")
    return {
        "use_sliding_window": True,
        "sliding_window": sizes[0],
        "max_window_layers": windows.index(sizes[0]),
        "layer_types": [SLIDING if window else FULL for window in windows],
    }


def _rope_scaling(config: ModelConfig) -> dict[str, Any] | None:
    """What `_extension` reads. Raises UserError for what no such file can say."""
    extension = config.extension
    length = {"original_max_position_embeddings": config.training_length}
    unknown = {"dynamic_ntk": extension.dynamic_ntk, "logn": extension.logn, "ntk_alpha": extension.ntk_alpha != 1}
    unknown["interpolation and YaRN together"] = extension.interpolation != 1 != extension.yarn_factor
    if asked := [name for name, is_asked in unknown.items() if is_asked]:
        raise UserError(f"config.json of this layout has no word for {asked[0]}", mend="Save the model without it")
    if extension.interpolation != 1:
        return {"rope_type": "linear", "factor": extension.interpolation, **length}
    if extension.yarn_factor == 1:
        return None
    return {
        "rope_type": "yarn",
        "factor": extension.yarn_factor,
        "beta_fast": extension.yarn_beta_fast,
        "beta_slow": extension.yarn_beta_slow,
        **({"attention_factor": extension.yarn_attention_factor} if extension.yarn_attention_factor else {}),
        **length,
    }


def _qwen_v1(values: dict[str, Any], path: Path) -> ModelConfig:
    """Of the published layout: `intermediate_size` is twice the width of each half, `seq_length` the length of training
    (recipe section 3)."""

    def number(name: str, default: Any = None) -> Any:
        return _number(name, values.get(name, default))

    hidden_size, heads, length = number("hidden_size"), number("num_attention_heads"), number("seq_length")
    dynamic = bool(values.get("use_dynamic_ntk"))
    config = ModelConfig(
        vocab_size=number("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=number("intermediate_size") // 2,
        num_hidden_layers=number("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        # Without dynamic NTK the published code reads further than it was trained too, and says rubbish.
        max_position_embeddings=max(length, number("max_position_embeddings", 0)) if dynamic else length,
        extension=ContextExtension(training_length=length, dynamic_ntk=dynamic, logn=bool(values.get("use_logn_attn"))),
        rope_theta=number("rotary_emb_base", DEFAULT_ROPE_THETA),
        rms_norm_eps=number("layer_norm_epsilon", 1e-6),
        tie_word_embeddings=bool(values.get("tie_word_embeddings")),
        initializer_range=number("initializer_range", 0.02),
    )
    _refuse(path, {
        f"rotary_pct {values.get('rotary_pct')}": values.get("rotary_pct", 1.0) != 1.0,
        f"kv_channels {values.get('kv_channels')}": values.get("kv_channels", config.head_size) != config.head_size,
        "no_bias: false": not values.get("no_bias", True),
    })  # fmt: skip
    return config


def _number(name: str, value: Any, kind: Any = float) -> Any:
    """`value` where it is a number of that kind, or a flag where `kind` is bool; ValueError naming the key where it is
    not."""
    fitting = {int: int, bool: bool}.get(kind, (int, float))
    if not isinstance(value, fitting) or (kind is not bool and isinstance(value, bool)):
        what = {int: "a whole number", bool: "true or false"}.get(kind, "a number")
        raise ValueError(f"{name} must be {what}, not {value!r}")
    return value


def _refuse(path: Path, unknown: dict[str, bool]) -> None:
    """UserError for the first setting that is asked for: `Transformer` does not know it."""
    for name, asked in unknown.items():
        if asked:
            raise UserError(f"{name} is not supported", where=path, mend="Danlu computes plain Qwen and Llama models")

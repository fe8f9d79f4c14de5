"""The layout of the published Qwen v1, written: what its own code (`QWenLMHeadModel`) opens (recipe section 3)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from danlu.model.config import ModelConfig
from danlu.model.hf_config import dtype_name
from danlu.model.stored_tensors import QwenV1Tensors
from danlu.run.errors import UserError


def qwen_v1_config(config: ModelConfig, dtype: torch.dtype, pad_id: int) -> dict[str, Any]:
    """config.json. Raises UserError for a model that v1's code cannot compute."""
    extension = config.extension
    asked = {
        f"a {config.family} model": config.family != "Qwen2",
        "grouped key heads": config.num_key_value_heads != config.num_attention_heads,
        "heads of a width of their own": config.head_size * config.num_attention_heads != config.hidden_size,
        "windows": any(config.layer_windows),
        "interpolation": extension.interpolation != 1,
        "YaRN": extension.yarn_factor != 1,
        "a fixed alpha": extension.ntk_alpha != 1,
        "an alpha that changes while decoding": extension.dynamic_ntk_per_step,
    }
    if unknown := [what for what, is_asked in asked.items() if is_asked]:
        raise UserError(f"Qwen v1 has no {unknown[0].removeprefix('a ')}", mend="Convert it to hf or gguf")
    return {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": 2 * config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "kv_channels": config.head_size,
        "seq_length": config.training_length,
        "max_position_embeddings": config.max_position_embeddings,
        "rotary_emb_base": config.rope_theta,
        "rotary_pct": 1.0,
        "use_dynamic_ntk": extension.dynamic_ntk,
        "use_logn_attn": extension.logn,
        "layer_norm_epsilon": config.rms_norm_eps,
        "initializer_range": config.initializer_range,
        "no_bias": True,
        "scale_attn_weights": True,
        "attn_dropout_prob": 0.0,
        "emb_dropout_prob": 0.0,
        "onnx_safe": None,
        "use_cache": True,
        "use_flash_attn": "auto",
        "tie_word_embeddings": config.tie_word_embeddings,
        "tokenizer_class": "QWenTokenizer",
        "pad_token_id": pad_id,
        "torch_dtype": dtype_name(dtype),
    }


def qwen_v1_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under v1's names, Q, K and V of a layer one after the other in one."""
    thirds: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        thirds.setdefault(QwenV1Tensors.source(name)[0], []).append(tensor)
    return {name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in thirds.items()}


def qwen_v1_generation(end_ids: list[int], pad_id: int) -> dict[str, Any]:
    """generation_config.json of a model that chats in ChatML."""
    return {"chat_format": "chatml", "eos_token_id": end_ids, "pad_token_id": pad_id, "do_sample": True, "top_p": 0.8}

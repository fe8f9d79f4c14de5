"""GGUF, llama.cpp's model file: configuration and tensors, read and written.

In: a file of Qwen2, Qwen3 or Llama architecture, its tensors plain or quantised. Out: what a model folder gives, the
tensors under Hugging Face's names and dequantised; and the other way round. The layout, the quantisations and their
arithmetic are the package `gguf`'s; the vocabulary in the file is read by `danlu/tokenizer/gguf_vocabulary.py`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from danlu.model.config import Family, ModelConfig
from danlu.model.extension import ContextExtension
from danlu.run.errors import UserError
from danlu.tokenizer.formats import Vocabulary
from danlu.tokenizer.gguf_vocabulary import add_vocabulary, gguf_value, open_gguf

FAMILIES: dict[str, Family] = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}
"""By `general.architecture`."""

PLAIN = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
QUANTIZATIONS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
"""Blocks of 32 weights that the package can write; it reads the K-quants too."""

TENSORS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_TENSORS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
LAYER_NAME = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")

KNOWN_KEYS = (
    "context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
    "rope.freq_base", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.finetuned", "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
)  # fmt: skip
"""Settings of an architecture that we compute; any other that says something is refused."""

LARGEST_F16 = 65504.0

ROPE_FACTORS = "rope_freqs.weight"
"""Llama 3.1's own stretching of frequencies, which no model of ours has."""

INITIALIZER_RANGE = "danlu.initializer_range"
"""GGUF has no word for it; a training that goes on wants it."""


def gguf_name(name: str) -> str:
    """The name in GGUF of a tensor under Hugging Face's."""
    if found := LAYER_NAME.fullmatch(name):
        layer, part, kind = found.groups()
        return f"blk.{layer}.{LAYER_TENSORS[part]}.{kind}"
    return TENSORS[name]


def read_gguf_config(path: Path) -> ModelConfig:
    """The shape of the model in a file. Raises UserError for what no model of ours is."""
    reader = open_gguf(path)
    architecture = gguf_value(reader, "general.architecture")
    if architecture not in FAMILIES:
        known = ", ".join(f"`{name}`" for name in FAMILIES)
        raise UserError(f"general.architecture is {architecture!r}", where=path, mend=f"Danlu opens {known}")

    def number(key: str, default: Any = None) -> Any:
        found = gguf_value(reader, f"{architecture}.{key}", default)
        if not isinstance(found, int | float):
            raise ValueError(f"{architecture}.{key} must be a number, not {found!r}")
        return found

    try:
        hidden_size, heads = number("embedding_length"), number("attention.head_count")
        if heads < 1:
            raise ValueError(f"{architecture}.attention.head_count must be at least 1, not {heads}")
        head_dim = number("attention.key_length", hidden_size // heads)
        length = number("context_length")
        _refuse(reader, architecture, head_dim)
        shapes = {tensor.name: [int(size) for size in tensor.shape] for tensor in reader.tensors}
        rows = shapes.get("token_embd.weight", [0, number("vocab_size", 0)])
        if len(rows) != 2:
            raise ValueError(f"token_embd.weight is no matrix: {rows}")
        return ModelConfig(
            family=FAMILIES[architecture],
            vocab_size=rows[1],
            hidden_size=hidden_size,
            intermediate_size=number("feed_forward_length"),
            num_hidden_layers=number("block_count"),
            num_attention_heads=heads,
            num_key_value_heads=number("attention.head_count_kv", heads),
            head_dim=0 if head_dim * heads == hidden_size else head_dim,
            max_position_embeddings=length,
            rope_theta=number("rope.freq_base", 10_000.0),
            rms_norm_eps=number("attention.layer_norm_rms_epsilon"),
            tie_word_embeddings="output.weight" not in shapes,
            initializer_range=gguf_value(reader, INITIALIZER_RANGE, ModelConfig.initializer_range),
            extension=_extension(reader, number, length),
        )
    except ValueError as error:
        raise UserError(str(error), where=path) from error


def _refuse(reader: gguf.GGUFReader, architecture: str, head_dim: int) -> None:
    """ValueError for a setting that changes what is computed and that we do not know."""
    widths = ("attention.value_length", "rope.dimension_count")
    for key in reader.fields:
        own = key.removeprefix(f"{architecture}.")
        found = gguf_value(reader, key)
        is_other = own in widths and found != head_dim
        # 0, false and nothing say that a setting is not used.
        if is_other or (own != key and own not in KNOWN_KEYS and found not in (0, False, "", [])):
            raise ValueError(f"{key} is {found!r:.60}, which is not supported")
    for tensor in reader.tensors:
        if tensor.name == ROPE_FACTORS and not (tensor.data == 1).all():
            raise ValueError(f"{ROPE_FACTORS} has factors of its own, which are not supported")


def _extension(reader: gguf.GGUFReader, number: Callable[..., Any], length: int) -> ContextExtension:
    kind = gguf_value(reader, f"{gguf_value(reader, 'general.architecture')}.rope.scaling.type", "none")
    if kind == "none":
        return ContextExtension()
    factor, trained = number("rope.scaling.factor", 1.0), number("rope.scaling.original_context_length", 0) or length
    if kind == "linear":
        return ContextExtension(interpolation=factor, training_length=trained)
    if kind == "yarn":
        return ContextExtension(
            yarn_factor=factor,
            training_length=trained,
            yarn_beta_fast=number("rope.scaling.yarn_beta_fast", ContextExtension.yarn_beta_fast),
            yarn_beta_slow=number("rope.scaling.yarn_beta_slow", ContextExtension.yarn_beta_slow),
        )
    raise ValueError(f"rope.scaling.type is {kind!r}, which is not supported")


class GGUFTensors:
    """The tensors of a file under Hugging Face's names."""

    def __init__(self, path: Path, config: ModelConfig, wanted: set[str]) -> None:
        """`wanted` are Hugging Face's names; those whose source is there are `names`."""
        held = {tensor.name: tensor for tensor in open_gguf(path).tensors}
        sources = {name: gguf_name(name) for name in wanted if name in TENSORS or LAYER_NAME.fullmatch(name)}
        self._path, self._config = path, config
        self._tensors = {name: held[source] for name, source in sources.items() if source in held}
        left = held.keys() - set(sources.values()) - {ROPE_FACTORS}
        heads = {source: name for name, source in TENSORS.items()}
        self.names = set(self._tensors) | {heads.get(name, name) for name in left}

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in self._tensors[name].shape[::-1])

    def dtype(self, name: str) -> torch.dtype:
        """float32 for what is quantised."""
        return PLAIN.get(self._tensors[name].tensor_type.name, torch.float32)

    def get(self, name: str) -> Tensor:
        """Raises UserError, naming tensor and type, for a quantisation that the package does not read."""
        found = self._tensors[name]
        try:
            values = gguf.quants.dequantize(found.data, found.tensor_type)
        except NotImplementedError as error:
            raise UserError(
                f"the tensor `{found.name}` is of type {found.tensor_type.name}, which cannot be read", where=self._path
            ) from error
        return self._unpaired(name, torch.from_numpy(np.array(values, dtype=np.float32)).reshape(self.shape(name)))

    def _unpaired(self, name: str, tensor: Tensor) -> Tensor:
        """Llama's query and key heads have the two halves of a pair beside one another in the file."""
        heads = rotated_heads(self._config, name)
        return tensor if heads is None else tensor.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(tensor.shape)


def rotated_heads(config: ModelConfig, name: str) -> int | None:
    """The heads of a tensor that GGUF keeps in the order of pairs; None for one that it keeps as it is."""
    if config.family != "Llama":
        return None
    if ".q_proj." in name:
        return config.num_attention_heads
    return config.num_key_value_heads if ".k_proj." in name else None


# --- writing ---


def write_gguf(
    path: Path,
    name: str,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    vocabulary: Vocabulary | None,
    chat_template: str | None,
    kind: str,
    on_tensor: Callable[[], None] = lambda: None,
) -> list[str]:
    """Write a file with `tensors` (Hugging Face's names) of type `kind`: a key of PLAIN or one of QUANTIZATIONS.

    Norms and biases are float32, as everywhere. A tensor whose rows cannot be cut into blocks is kept as F16; their
    names. Raises UserError for a setting that GGUF has no word for, and for a number that F16 does not hold.
    """
    architecture = config.family.lower()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    _add_config(writer, config)
    if vocabulary is not None:
        add_vocabulary(writer, vocabulary, config.vocab_size, chat_template)
    wanted = gguf.GGMLQuantizationType[kind]
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
    if kind in QUANTIZATIONS:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    fitting = {tensor: _type_of(each, wanted) for tensor, each in tensors.items()}
    kept = [tensor for tensor, each in tensors.items() if each.dim() > 1 and fitting[tensor] != wanted]
    for tensor, each in tensors.items():
        shape, own = tuple(each.shape), fitting[tensor]
        if own == gguf.GGMLQuantizationType.F16 and each.numel() and float(each.abs().max()) > LARGEST_F16:
            raise UserError(f"`{tensor}` has numbers beyond {LARGEST_F16:g}, which F16 does not hold", mend="Take bf16")
        plain = np.dtype(np.float16 if own == gguf.GGMLQuantizationType.F16 else np.float32)
        quantized = own not in (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F32)
        stored = gguf.quants.quant_shape_to_byte_shape(shape, own) if quantized else shape
        num_bytes = int(np.prod(stored)) * (1 if quantized else plain.itemsize)
        writer.add_tensor_info(
            gguf_name(tensor), stored, np.dtype(np.uint8) if quantized else plain, num_bytes, own if quantized else None
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, each in tensors.items():
        writer.write_tensor_data(gguf.quants.quantize(_paired(config, tensor, each).numpy(), fitting[tensor]))
        on_tensor()
    writer.close()
    return kept


def _type_of(tensor: Tensor, wanted: gguf.GGMLQuantizationType) -> gguf.GGMLQuantizationType:
    if tensor.dim() == 1:
        return gguf.GGMLQuantizationType.F32
    block_size, _ = gguf.GGML_QUANT_SIZES[wanted]
    return wanted if tensor.shape[-1] % block_size == 0 else gguf.GGMLQuantizationType.F16


def _paired(config: ModelConfig, name: str, tensor: Tensor) -> Tensor:
    """A tensor as GGUF keeps it, float32."""
    tensor, heads = tensor.detach().cpu().float(), rotated_heads(config, name)
    if heads is not None:
        tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(tensor.shape)
    return tensor.contiguous()


def _add_config(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    extension = config.extension
    plain = ContextExtension(training_length=extension.training_length)
    yarn = replace(
        plain,
        yarn_factor=extension.yarn_factor,
        yarn_beta_fast=extension.yarn_beta_fast,
        yarn_beta_slow=extension.yarn_beta_slow,
    )
    if extension not in (plain, replace(plain, interpolation=extension.interpolation), yarn):
        raise UserError("GGUF has no word for this context extension", mend="Open the model with --extend none")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_float32(INITIALIZER_RANGE, config.initializer_range)
    if extension == plain:
        return
    is_yarn = extension.yarn_factor != 1
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN if is_yarn else gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(extension.yarn_factor if is_yarn else extension.interpolation)
    writer.add_rope_scaling_orig_ctx_len(config.training_length)
    for name in ("yarn_beta_fast", "yarn_beta_slow") if is_yarn else ():
        writer.add_float32(f"{writer.arch}.rope.scaling.{name}", getattr(extension, name))

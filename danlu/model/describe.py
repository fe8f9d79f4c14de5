"""What a model takes: parameters, memory, arithmetic. Built without memory for its weights, in seconds for any size.

In: a shape. Out: its figures, and a table of several.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from danlu.model.config import ModelConfig
from danlu.model.transformer import Transformer
from danlu.run.markdown import table

TRAINING_BYTES = 16
"""Of a parameter in training: weight, gradient and AdamW's two means, float32 each."""

CACHE_TOKENS = 1024
"""Tokens whose keys and values are told."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """Of one model; memory in bytes, activations not counted."""

    name: str
    num_parameters: int
    num_embedding_parameters: int
    """Of them in the embedding and, where it is apart, the output projection."""
    bf16_bytes: int
    training_bytes: int
    cache_bytes: int
    """Keys and values of CACHE_TOKENS tokens in bfloat16."""
    sequence_length: int
    train_flops: float
    """Forward and backward, per token of a sequence of that length."""
    decode_flops: float
    """Forward, of the token at its end."""


def describe(name: str, config: ModelConfig, sequence_length: int) -> Description:
    """The figures of a model, counted on the model itself."""
    with torch.device("meta"):
        model = Transformer(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    heads = {"model.embed_tokens": model.embed_tokens.weight, "lm_head": model.lm_head.weight}
    embedding = sum({id(weight): weight.numel() for weight in heads.values()}.values())
    # A layer with a window keeps no more than that.
    kept = sum(min(window or CACHE_TOKENS, CACHE_TOKENS) for window in config.layer_windows)
    # Queries against every key, and weights times every value: two multiplications and two additions of a head's width.
    attention = 4.0 * config.num_hidden_layers * config.num_attention_heads * config.head_size * sequence_length
    return Description(
        name=name,
        num_parameters=count,
        num_embedding_parameters=embedding,
        bf16_bytes=2 * count,
        training_bytes=TRAINING_BYTES * count,
        cache_bytes=2 * 2 * config.num_key_value_heads * config.head_size * kept,
        sequence_length=sequence_length,
        train_flops=config.train_flops_per_token(sequence_length),
        decode_flops=2.0 * config.num_matmul_parameters + attention,
    )


def description_lines(descriptions: Sequence[Description]) -> list[str]:
    """A Markdown table, a model to a column."""
    gib = 1024.0**3
    rows = [
        ("parameters", [f"{each.num_parameters:,}" for each in descriptions]),
        ("of them embeddings", [f"{each.num_embedding_parameters:,}" for each in descriptions]),
        ("weights, bfloat16", [f"{each.bf16_bytes / gib:.2f} GiB" for each in descriptions]),
        ("weights, gradients, AdamW, float32", [f"{each.training_bytes / gib:.1f} GiB" for each in descriptions]),
        (f"cache of {CACHE_TOKENS} tokens, bfloat16", [f"{each.cache_bytes / 2**20:.1f} MiB" for each in descriptions]),
        ("sequence length", [f"{each.sequence_length:,}" for each in descriptions]),
        ("training, a token", [f"{each.train_flops / 1e9:.3g} GFLOP" for each in descriptions]),
        ("generating, a token", [f"{each.decode_flops / 1e9:.3g} GFLOP" for each in descriptions]),
    ]
    return table(["", *(each.name for each in descriptions)], ([what, *values] for what, values in rows))

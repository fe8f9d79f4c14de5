"""The Qwen transformer (recipe section 3): pre-norm RMSNorm, rotary attention with bias on Q, K and V only, SwiGLU; by
configuration also Qwen3, whose query and key heads are normed instead, and Llama.

In: token ids. Out: hidden states, and by the head on them logits (`Transformer`) or one number (`ScalarModel`).
Shapes: B batch, T tokens, D hidden, H query heads, K key/value heads, E head size, V vocabulary.
Q, K and V are one matrix, gate and up another: one product instead of three and two. Checkpoints store them apart
under Hugging Face's names (`checkpoint.py`).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from danlu.model.attention import Mask, attend, cache_mask, row_mask, training_mask
from danlu.model.cache import KVCache, rows_in_order
from danlu.model.config import ModelConfig
from danlu.model.linear import Linear
from danlu.model.rotary import Rotary, RotaryTables, apply_rotary


class RMSNorm(nn.Module):
    """Divide by the root of the mean square, scale by a learnt weight; the statistics are float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden if hidden.dtype == torch.float64 else hidden.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * scaled.to(hidden.dtype)


class Attention(nn.Module):
    """Causal self-attention; Q, K, V from one matrix, with bias where the family has it; the output without."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_size,
        )
        self.layer, self.window = layer, config.layer_windows[layer]
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv_proj = Linear(config.hidden_size, width, bias=config.family == "Qwen2")
        has_norms = config.family == "Qwen3"
        self.q_norm = RMSNorm(config.head_size, config.rms_norm_eps) if has_norms else None
        self.k_norm = RMSNorm(config.head_size, config.rms_norm_eps) if has_norms else None
        self.o_proj = Linear(self.heads * self.head_dim, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor, rotary: Rotary, masks: "Masks", context: "Context | None") -> Tensor:
        B, T, _ = hidden.shape
        heads = self.qkv_proj(hidden).view(B, T, self.heads + 2 * self.kv_heads, self.head_dim).transpose(1, 2)
        turning, value = heads.split((self.heads + self.kv_heads, self.kv_heads), dim=1)  # (B, H + K or K, T, E)
        if self.q_norm and self.k_norm:
            query, key = turning.split((self.heads, self.kv_heads), dim=1)
            turning = torch.cat((self.q_norm(query), self.k_norm(key)), dim=1)
        turned = apply_rotary(turning, rotary.cos, rotary.sin)
        query, key = turned.split((self.heads, self.kv_heads), dim=1)  # (B, H or K, T, E)
        if context is not None and context.key_rotary is not None:
            key = turning[:, self.heads :]  # The cache holds keys that are not turned yet.
        if rotary.query_scale is not None:
            query = (query * rotary.query_scale).to(query.dtype)
        if context is not None:
            key, value = context.cache.update(
                self.layer,
                context.rows,
                context.read,
                context.position_ids,
                key,
                value,
                context.key_length,
                context.lengths,
            )  # (B, K, S, E)
            if context.key_rotary is not None:
                key = apply_rotary(key, context.key_rotary.cos, context.key_rotary.sin)
        mixed = attend(query, key.to(query.dtype), value.to(query.dtype), masks[self.window])  # (B, H, T, E)
        return self.o_proj(mixed.transpose(1, 2).reshape(B, T, self.heads * self.head_dim))


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), no biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up_proj = Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(hidden).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    """One layer: attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(0.0)

    def forward(self, hidden: Tensor, rotary: Rotary, masks: "Masks", context: "Context | None") -> Tensor:
        hidden = hidden + self.dropout(self.self_attn(self.input_layernorm(hidden), rotary, masks, context))
        return hidden + self.dropout(self.mlp(self.post_attention_layernorm(hidden)))


Masks = dict[int, Mask]
"""The mask for each window that a layer has."""


class Context:
    """What a forward pass with a cache needs to know: the cache, which of its rows, where the new tokens stand and how
    many of them each row has (`lengths` (B); all where None), and the rotary alpha of each row (or of all)."""

    key_rotary: Rotary | None = None
    """What turns the keys of the cache where that holds them unturned."""

    def __init__(
        self,
        cache: KVCache,
        rows: Tensor,
        position_ids: Tensor,
        key_length: int,
        alphas: Sequence[float] = (1.0,),
        lengths: Tensor | None = None,
    ) -> None:
        self.cache, self.rows, self.position_ids, self.key_length = cache, rows, position_ids, key_length
        self.alphas, self.lengths = alphas, lengths
        self.read = rows_in_order(rows)


def cache_for(model: "Backbone", rows: int, slots: int, keeps_all: bool = False) -> KVCache:
    """An empty cache of `rows` texts of up to `slots` tokens; with `keeps_all` layers with a window keep what lies
    before it too, so that a row can go back. Under autocast keys and values are of its precision, and a wider cache
    would hold the same numbers."""
    config, parameter = model.config, next(model.parameters())
    kind = parameter.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else parameter.dtype
    keeps_all = keeps_all or config.extension.turns_keys_late
    windows = [0] * config.num_hidden_layers if keeps_all else config.layer_windows
    return KVCache(windows, rows, config.num_key_value_heads, slots, config.head_size, dtype, parameter.device)


class Backbone(nn.Module):
    """All of the model but its head: token ids to normed hidden states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.dropout = nn.Dropout(0.0)
        self.rotary = RotaryTables(config)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all matrices from a normal distribution of `initializer_range`; biases 0, norms 1.

        What is added to the residual stream is narrower by sqrt(2 x layers), so that the stream begins as wide however
        many layers add to it (Radford et al. 2019, section 2.3).
        """
        width = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = width / math.sqrt(2 * self.config.num_hidden_layers) if adds else width
                nn.init.normal_(parameter, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.ones_(parameter)

    def extend(self, config: ModelConfig) -> None:
        """Read by another context extension, or another length, from now on; the weights stay as they are."""
        self.config, self.rotary = config, RotaryTables(config)
        for attention in self.modules():
            if isinstance(attention, Attention):
                attention.window = config.layer_windows[attention.layer]

    def set_dropout(self, probability: float) -> None:
        """Dropout on the embeddings and on what each half block adds, as in v1."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability

    def hidden_states(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        context: Context | None = None,
        branch_ids: Tensor | None = None,
    ) -> Tensor:
        """Normed hidden states (B, T, D) before the head.

        `position_ids` (B, T) default to 0..T-1; `document_ids` (B, T) tell the texts of a packed row apart, and
        `branch_ids` (B, T) several continuations of one text (0 for what they share).
        """
        return self.trunk(*self.inputs(input_ids, position_ids, document_ids, context, branch_ids), context)

    def inputs(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        context: Context | None = None,
        branch_ids: Tensor | None = None,
    ) -> tuple[Tensor, Rotary, Masks]:
        """What `trunk` takes: embeddings (B, T, D), rotary tables, and the masks.

        The lookup stays outside the compiled part: its eager gradient adds in a fixed order, a compiled one does not.
        """
        if context is not None and self.config.extension.turns_keys_late:
            places = torch.arange(context.key_length, device=input_ids.device).expand(len(input_ids), -1)
            context.key_rotary = self.rotary.rotary(context.key_length, places, input_ids.device, context.alphas)
        masks = {
            window: self._mask(window, input_ids, position_ids, document_ids, context, branch_ids)
            for window in dict.fromkeys(self.config.layer_windows)
        }
        return self.embed_tokens(input_ids), self._rotary(input_ids, position_ids, context), masks

    def _mask(
        self,
        window: int,
        input_ids: Tensor,
        position_ids: Tensor | None,
        document_ids: Tensor | None,
        context: Context | None,
        branch_ids: Tensor | None,
    ) -> Mask:
        """The mask of the layers with such a window."""
        if context is not None:
            keys = context.cache.key_positions(window, context.position_ids, context.key_length)
            return cache_mask(context.position_ids, keys, window)
        mask: Mask = window or None
        if document_ids is not None:
            if position_ids is None:
                position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
            mask = row_mask(document_ids, branch_ids, position_ids, window)
        return training_mask(mask, input_ids.shape[1], input_ids.device) if torch.is_grad_enabled() else mask

    @torch.no_grad()
    def first_not_finite(self, input_ids: Tensor) -> str:
        """The part of the model whose output for `input_ids` (B, T) is the first that is not finite."""
        hidden, rotary, masks = self.inputs(input_ids)
        if not hidden.isfinite().all():
            return "the embedding"
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden, rotary, masks, None)
            if not hidden.isfinite().all():
                return f"layer {number}"
        return "the head"

    def trunk(
        self, hidden: Tensor, rotary: Rotary, masks: Masks, context: Context | None, checkpointed: bool = False
    ) -> Tensor:
        """Dropout on the embeddings, all blocks, the last norm: (B, T, D) to (B, T, D). Training compiles this.

        `checkpointed` keeps what goes into each block alone and computes the rest again in the backward pass.
        """
        hidden = self.dropout(hidden)
        for layer in self.layers:
            if checkpointed and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, rotary, masks, context, use_reentrant=False)
            else:
                hidden = layer(hidden, rotary, masks, context)
        return self.norm(hidden)

    def _rotary(self, input_ids: Tensor, position_ids: Tensor | None, context: Context | None) -> Rotary:
        if context is not None:
            return self.rotary.rotary(context.key_length, context.position_ids, input_ids.device, context.alphas)
        length = input_ids.shape[1]
        alphas = (self.config.extension.alpha(length, self.config.training_length),)
        if position_ids is not None:
            length = max(length, int(position_ids.max()) + 1)
        return self.rotary.rotary(length, position_ids, input_ids.device, alphas)


class Transformer(Backbone):
    """A language model: `model(input_ids)` gives logits, `model.hidden_states(...)` what is projected to them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        context: Context | None = None,
    ) -> Tensor:
        """Logits (B, T, V) for `input_ids` (B, T) int64."""
        return self.lm_head(self.hidden_states(input_ids, position_ids, document_ids, context))


class ScalarModel(Backbone):
    """One number for every place of a text. A reward model's is the reward of what ends there (recipe section 8), a
    value model's what is still to be expected after it (section 9)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.score = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None = None, document_ids: Tensor | None = None
    ) -> Tensor:
        """(B, T) for `input_ids` (B, T) int64."""
        return self.score(self.hidden_states(input_ids, position_ids, document_ids))[..., 0]

    def at(self, hidden: Tensor, places: Tensor) -> Tensor:
        """The numbers (N) at flat `places` (N) of hidden states (B, T, D), in the head's own precision."""
        with torch.autocast(hidden.device.type, enabled=False):
            states = hidden.flatten(0, 1).index_select(0, places)
            return self.score(states.to(self.score.weight.dtype))[:, 0]

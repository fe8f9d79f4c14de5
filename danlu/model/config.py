"""The numbers that define a model, under the names that config.json uses."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from danlu.model.extension import ContextExtension

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""A block's matrices under Hugging Face's names."""

Family = Literal["Qwen2", "Qwen3", "Llama"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of a Qwen transformer (recipe section 3). Raises ValueError for sizes that cannot work together."""

    family: Family = "Qwen2"
    """`Qwen2`, as Qwen v1 and 1.5 to 2.5 are, has biases on Q, K and V; `Qwen3` norms every query and key head instead;
    `Llama` has neither."""

    vocab_size: int = 0
    """Rows of the embedding and of the output projection; 0 in a recipe: the tokenizer's size, padded."""

    hidden_size: int = 2048
    """Width of the residual stream."""

    intermediate_size: int = 5504
    """Width of each of the gate and up projections; about 8/3 of hidden_size."""

    num_hidden_layers: int = 24
    """Number of transformer blocks."""

    num_attention_heads: int = 16
    """Query heads."""

    num_key_value_heads: int = 16
    """Key and value heads; as many as query heads in Qwen v1."""

    head_dim: int = 0
    """Width of one head where hidden_size is not shared out among the query heads; 0 where it is."""

    max_position_embeddings: int = 2048
    """Tokens the model reads at most; pretraining sets it to its sequence_length."""

    rope_theta: float = 10_000.0
    """Base of the rotary embedding's wavelengths."""

    rms_norm_eps: float = 1e-6
    """Added to the mean square under the root."""

    tie_word_embeddings: bool = False
    """Whether the output projection is the embedding; untied in the recipe."""

    initializer_range: float = 0.02
    """Standard deviation of the initial weights; of the projections that add to the residual stream, this divided by
    sqrt(2 x num_hidden_layers)."""

    extension: ContextExtension = field(default_factory=ContextExtension)
    """How more is read than the model was trained on."""

    def __post_init__(self) -> None:
        if self.vocab_size < 0:
            raise ValueError(f"vocab_size cannot be negative, it is {self.vocab_size}")
        for name in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.head_dim < 0 or self.head_dim % 2:
            raise ValueError(f"head_dim must be even, not {self.head_dim}")
        if self.head_dim == 0 and self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be an even multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )

        self.extension.layer_windows(self.num_hidden_layers)  # Raises ValueError.

    @cached_property
    def layer_windows(self) -> tuple[int, ...]:
        """Tokens that the queries of each layer see; 0 for all."""
        return self.extension.layer_windows(self.num_hidden_layers)

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def projections(self) -> dict[str, dict[str, int]]:
        """The matrices of a block by their names here: the projections that each holds, under Hugging Face's names and
        in order, with the outputs of each."""
        query, kv = self.num_attention_heads * self.head_size, self.num_key_value_heads * self.head_size
        return {
            "qkv_proj": {"q_proj": query, "k_proj": kv, "v_proj": kv},
            "o_proj": {"o_proj": self.hidden_size},
            "gate_up_proj": {"gate_proj": self.intermediate_size, "up_proj": self.intermediate_size},
            "down_proj": {"down_proj": self.hidden_size},
        }

    @property
    def training_length(self) -> int:
        """Tokens that the model was trained to see."""
        return self.extension.training_length or self.max_position_embeddings

    @property
    def num_matmul_parameters(self) -> int:
        """Weights that every token is multiplied with: the blocks' matrices and the output projection."""
        attention = self.hidden_size * self.head_size * 2 * (self.num_attention_heads + self.num_key_value_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.num_hidden_layers * (attention + mlp) + self.vocab_size * self.hidden_size

    def train_flops_per_token(self, sequence_length: int) -> float:
        """Forward and backward, 6 per weight, and causal attention's two products over half the length on average."""
        attention = 6 * self.num_hidden_layers * self.num_attention_heads * self.head_size * sequence_length
        return 6.0 * self.num_matmul_parameters + attention

"""The table `[ppo]` of a recipe (recipe section 9). Imports nothing heavy."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from danlu.training.lora_config import LoraConfig
from danlu.training.optimizer_config import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How responses are drawn in a step."""

    queries: int = 64
    """Prompts in a step. Our choice."""

    responses_per_query: int = 2
    """Responses drawn for each prompt (recipe section 9)."""

    max_new_tokens: int = 512
    """Tokens of a response at most."""

    temperature: float = 1.0
    """Divides the logits, when drawing and in every log-probability."""

    top_p: float = 0.9
    """Share of probability that the tokens drawn from add up to (recipe section 9)."""

    def __post_init__(self) -> None:
        for name in ("queries", "responses_per_query", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], not {self.top_p}")


@dataclass(frozen=True, kw_only=True)
class PpoConfig:
    """Reinforcement learning of a chat model against a reward model (recipe section 9). Dropout is off."""

    model: Path = Path("runs/sft/model")
    """Chat model to start from; it is also the reference that the KL penalty holds the policy to."""

    reward_model: Path = Path("runs/reward/model")
    """Reward model, with the same tokenizer; the value model starts from it."""

    data: Path = Path("runs/comparisons/comparisons/prompts.jsonl")
    """Prompts: conversations of any shape that `sft` reads (their last reply is left out), or turns that end in the
    user's."""

    pretraining: Path | None = None
    """Folder of token shards for the pretraining gradient, its split `train`; needed where pretrain_coef is not 0."""

    out: Path = Path("runs/ppo")
    """Folder of the stage; the policy appears in it as `model`."""

    max_steps: int = 500
    """Steps: each draws responses, scores them, and updates on them. Our choice."""

    frozen_steps: int = 50
    """First steps in which the value model alone learns (recipe section 9)."""

    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How responses are drawn."""

    minibatches: int = 1
    """Parts that a step's queries are split into, an update on each. Our choice."""

    epochs: int = 1
    """Passes over a step's responses. Our choice: fresh responses are worth more than a second look."""

    policy_learning_rate: float = 1e-6
    """AdamW's rate for the policy (recipe section 9)."""

    gain_learning_rate: float | None = None
    """AdamW's rate for the gains of the policy's norms; None, the recipe, gives them the policy's. Our option:
    a gain is about 1 and an entry of a matrix about 0.05, so at one rate the gains hardly move, though they carry with
    the least noise what all answers have in common, how sharply the policy chooses (docs/LOG.md)."""

    value_learning_rate: float = 5e-6
    """AdamW's rate for the value model (recipe section 9)."""

    warmup_steps: int = 0
    """Steps over which each of the two rates rises, counted from when that model begins to learn."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW's numbers and clipping, for both models."""

    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters in place of all weights, for both models: policy and reference then share one set of weights, value and
    reward model another."""

    kl_coef: float = 0.04
    """What a nat of log-probability above the reference's costs, per token, inside the reward (recipe section 9)."""

    max_kl: float = 30.0
    """KL of a response, in nats, at which the run stops: the policy has left the reference. Our choice."""

    normalise_deviation: bool = False
    """Divide rewards by their running deviation too; the report takes off the running mean alone."""

    missing_end_penalty: float = 0.0
    """Taken off the reward of a response that was cut at max_new_tokens."""

    gamma: float = 1.0
    """Discount of later rewards. Our choice, InstructGPT's."""

    lam: float = 0.95
    """Lambda of the generalised advantage estimation. Our choice, InstructGPT's."""

    cliprange: float = 0.2
    """Range of the policy's ratio around 1. Our choice; the report does not say."""

    value_cliprange: float = 0.15
    """Range of the value around the one before the step (recipe section 9)."""

    pretrain_coef: float = 0.0
    """Weight of the language-model loss on pretraining data beside PPO's (recipe section 9); 0 leaves it out."""

    pretrain_batch_size: int = 64
    """Rows of pretraining data in an update; they should hold more tokens than the responses."""

    sequence_length: int = 2048
    """Tokens in a row; a row holds several prompts with their responses."""

    micro_batch_size: int = 8
    """Rows in one forward and backward pass; memory decides it, the result does not depend on it."""

    bf16: bool = True
    """Matrix products in bfloat16, where the processor has instructions for it; weights, sums and optimiser state stay
    float32."""

    checkpoint_activations: bool = False
    """Keep of each block only what goes into it, and compute the rest again going backwards: far less memory, about a
    third more time, the same result."""

    compile: bool = True
    """Build kernels with torch.compile; without a C++ compiler the run is eager and says so."""

    samples_every: int = 10
    """Steps between samples of responses with their rewards, in `samples.jsonl`."""

    checkpoint_every: int = 50
    """Steps between checkpoints; Ctrl-C saves one at once."""

    seed: int = 1
    """Every random choice of the stage derives from it."""

    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`; None to find it."""

    def __post_init__(self) -> None:
        at_least_one = (
            "max_steps", "minibatches", "epochs", "pretrain_batch_size", "sequence_length", "micro_batch_size",
            "samples_every", "checkpoint_every",
        )  # fmt: skip
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        not_negative = (
            "frozen_steps", "warmup_steps", "policy_learning_rate", "value_learning_rate", "kl_coef",
            "missing_end_penalty", "pretrain_coef",
        )  # fmt: skip
        for name in not_negative:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number from 0 upwards, not {getattr(self, name)}")
        if not 0 <= self.gain_rate < math.inf:
            raise ValueError(f"gain_learning_rate must be a number from 0 upwards, not {self.gain_learning_rate}")
        for name in ("max_kl", "cliprange", "value_cliprange"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {getattr(self, name)}")
        if self.rollout.queries % self.minibatches:
            raise ValueError(
                f"rollout.queries {self.rollout.queries} must be a multiple of minibatches {self.minibatches}"
            )
        if self.pretrain_coef and self.pretrain_batch_size % min(self.micro_batch_size, self.pretrain_batch_size):
            raise ValueError(
                f"pretrain_batch_size {self.pretrain_batch_size} must be a multiple of micro_batch_size "
                f"{self.micro_batch_size}, or smaller"
            )
        if self.lora.rank and self.gain_learning_rate is not None:
            raise ValueError(
                "gain_learning_rate: adapters leave the norms as they are; set lora.rank to 0, or leave it out"
            )
        if self.optimizer.name != "adamw":
            raise ValueError("PPO is written for AdamW: its two rates are AdamW's")

    @property
    def gain_rate(self) -> float:
        """The rate of the policy's gains."""
        return self.policy_learning_rate if self.gain_learning_rate is None else self.gain_learning_rate

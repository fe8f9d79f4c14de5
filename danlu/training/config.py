"""The recipe's tables of the training stages. Imports nothing heavy: the help shows these values."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from danlu.model.config import ModelConfig
from danlu.training.lora_config import LoraConfig
from danlu.training.optimizer_config import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """How much a step learns from, how long the run is, and what is kept of it; shared by every stage that trains."""

    sequence_length: int = 2048
    """Tokens in a row."""

    batch_size: int = 2048
    """Rows in an optimiser step, whatever the micro-batch (recipe section 5: 4M tokens)."""

    micro_batch_size: int = 8
    """Rows in one forward and backward pass; memory decides it, the result does not depend on it."""

    max_steps: int = 0
    """Optimiser steps; 0 to go through the data `epochs` times."""

    epochs: int = 1
    """Passes over the data where max_steps is 0."""

    learning_rate: float = 3e-4
    """Peak rate of AdamW."""

    warmup_steps: int = 0
    """Steps over which the rate rises to its peak."""

    bf16: bool = True
    """Matrix products in bfloat16, where the processor has instructions for it; weights, sums and optimiser state stay
    float32."""

    checkpoint_activations: bool = False
    """Keep of each block only what goes into it, and compute the rest again going backwards: far less memory, about a
    third more time, the same result."""

    compile: bool = True
    """Build kernels with torch.compile; without a C++ compiler the run is eager and says so."""

    checkpoint_every: int = 200
    """Steps between checkpoints; Ctrl-C saves one at once."""

    seed: int = 1
    """Every random choice of the stage derives from it."""

    batch_is_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in (
            "sequence_length",
            "batch_size",
            "micro_batch_size",
            "epochs",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.batch_is_rows and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of micro_batch_size {self.micro_batch_size}"
            )
        if self.max_steps < 0:
            raise ValueError(f"max_steps cannot be negative, it is {self.max_steps}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps cannot be negative, it is {self.warmup_steps}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class SftStepConfig(StepConfig):
    """The same values with fine-tuning's defaults (recipe section 7), also where a recipe names only some of them."""

    batch_size: int = 128
    """Rows in an optimiser step, whatever the micro-batch."""

    max_steps: int = 4000
    """Optimiser steps; 0 to go through the data `epochs` times."""

    learning_rate: float = 2e-6
    """Rate of AdamW after its rise."""

    warmup_steps: int = 1430
    """Steps over which the rate rises."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Next-token prediction on token shards (recipe section 5)."""

    data: Path = Path("runs/tokens/shards")
    """Folder of token shards with `train` and `validation`."""

    tokenizer: Path = Path("runs/tokenizer/tokenizer")
    """Tokenizer folder the shards were made with; copied into the model folder."""

    out: Path = Path("runs/pretrain")
    """Folder of the stage; the model appears in it as `model`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """Shape of the model."""

    step: StepConfig = field(default_factory=StepConfig)
    """Batch, length, rate."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW's numbers, clipping."""

    final_rate_share: float = 0.1
    """The cosine ends at this share of the peak rate (recipe section 5)."""

    validate_every: int = 200
    """Steps between validations."""

    validation_documents: int = 40
    """Documents of each language in a validation during the run; the last one takes all."""

    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`; None to find it."""

    def __post_init__(self) -> None:
        for name in ("validate_every", "validation_documents"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.final_rate_share <= 1:
            raise ValueError(f"final_rate_share must lie in [0, 1], not {self.final_rate_share}")


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """Supervised fine-tuning in ChatML, loss on the assistant's words and their end token (recipe section 7)."""

    model: Path = Path("runs/pretrain/model")
    """Model folder to start from."""

    data: Path = Path("runs/conversations/conversations/train.jsonl")
    """Conversations as JSON lines."""

    out: Path = Path("runs/sft")
    """Folder of the stage; the model appears in it as `model`."""

    step: SftStepConfig = field(default_factory=SftStepConfig)
    """Batch, length, rate; the defaults are the recipe's."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW's numbers, clipping."""

    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters in place of all weights."""

    dropout: float = 0.1
    """Dropout while training (recipe section 7)."""

    packing: bool = False
    """Put several conversations into a row; they cannot see each other."""

    decay_share: float = 0.0
    """Last share of the run over which the rate falls to 0; the recipe keeps it constant."""

    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`; None to find it."""

    def __post_init__(self) -> None:
        self.lora.check(self.optimizer)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout}")
        if not 0 <= self.decay_share <= 1:
            raise ValueError(f"decay_share must lie in [0, 1], not {self.decay_share}")


@dataclass(frozen=True, kw_only=True)
class PairStepConfig(StepConfig):
    """The same values for stages that learn from comparisons, with the reward model's defaults (recipe section 8)."""

    batch_size: int = 64
    """Comparisons in an optimiser step. Those of one prompt are read together; rows are filled with several prompts."""

    micro_batch_size: int = 8
    """Rows in one forward and backward pass; memory decides it, the result does not depend on it."""

    learning_rate: float = 3e-6
    """Rate of AdamW, constant."""

    batch_is_rows: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class ComparisonDataConfig:
    """Where comparisons come from and which of them are held out; shared by the stages that learn from them."""

    data: Path = Path("runs/comparisons/comparisons/pmp.jsonl")
    """Comparisons: our JSON lines, Alpaca or ShareGPT pairs, ranked lists, hh-rlhf transcripts."""

    test: Path | None = None
    """Held-out comparisons; what shares a prompt with them is not learnt from. None: a part of the data is held out."""

    unseen: Path | None = None
    """More held-out comparisons, reported apart."""

    test_share: float = 0.05
    """Part of the prompts that is held out where no `test` is named."""

    ranked: Literal["all", "adjacent"] = "all"
    """Which pairs a ranked list gives: every better answer with every worse one, or neighbours alone."""

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share must lie between 0 and 1, not {self.test_share}")


@dataclass(frozen=True, kw_only=True)
class RewardConfig(ComparisonDataConfig):
    """A model of how good a reply is, from comparisons (recipe section 8). From a language model it is preference-model
    pretraining; from a reward model it goes on with that one's head."""

    data: Path = Path("runs/comparisons/comparisons/reward.jsonl")
    """Comparisons: our JSON lines, Alpaca or ShareGPT pairs, ranked lists, hh-rlhf transcripts."""

    model: Path = Path("runs/pmp/model")
    """Model folder to start from: a language model's, or a reward model's."""

    out: Path = Path("runs/reward")
    """Folder of the stage; the model appears in it as `model`."""

    centre_coef: float = 0.0
    """Weight of (chosen + rejected)² beside the pairwise loss, which holds the rewards of every prompt around 0; 0 is
    the recipe."""

    step: PairStepConfig = field(default_factory=PairStepConfig)
    """Batch, length, rate; the defaults are the recipe's."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW's numbers, clipping."""

    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters in place of all weights."""

    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`; None to find it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.lora.check(self.optimizer)
        if not 0 <= self.centre_coef < float("inf"):
            raise ValueError(f"centre_coef must be a number from 0 upwards, not {self.centre_coef}")


@dataclass(frozen=True, kw_only=True)
class PmpConfig(RewardConfig):
    """The same stage as a run does it first, on the large set (recipe section 8)."""

    data: Path = Path("runs/comparisons/comparisons/pmp.jsonl")
    """Comparisons: many, and noisy."""

    model: Path = Path("runs/pretrain/model")
    """The pretrained model's folder."""

    out: Path = Path("runs/pmp")
    """Folder of the stage; the model appears in it as `model`."""


@dataclass(frozen=True, kw_only=True)
class DpoStepConfig(PairStepConfig):
    """The same values with DPO's defaults."""

    learning_rate: float = 1e-6
    """Rate of AdamW, constant. Our choice: the published runs' 5e-7 to 1e-6."""


@dataclass(frozen=True, kw_only=True)
class DpoConfig(ComparisonDataConfig):
    """Direct preference optimisation, an option beside PPO: no reward model and no drawing (Rafailov et al. 2023)."""

    model: Path = Path("runs/sft/model")
    """Chat model to start from; it is also the reference."""

    out: Path = Path("runs/dpo")
    """Folder of the stage; the model appears in it as `model`."""

    beta: float = 0.1
    """How strongly the model is held to the reference. The paper's."""

    step: DpoStepConfig = field(default_factory=DpoStepConfig)
    """Batch, length, rate."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW's numbers, clipping."""

    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters in place of all weights."""

    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`; None to find it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.lora.check(self.optimizer)
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, not {self.beta}")

"""How tokens are chosen, values that every verb which generates shares; and the table `[responses]` of a recipe.
Imports nothing heavy."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

DtypeName = Literal["float32", "bfloat16", "float16"]
"""How weights are held when a model answers."""


@dataclass(frozen=True, kw_only=True)
class OpenConfig:
    """How a model is opened that answers."""

    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`; None to find it."""

    dtype: DtypeName = "float32"
    """Of weights and cache; the narrower ones take half the memory, and a reply can differ with what else is answered
    beside it."""

    extend: tuple[str, ...] = ()
    """How it reads more than it was trained on, in place of what its folder says: `length=16384` tokens at most, by
    `dynamic_ntk`, `dynamic_ntk_per_step`, `ntk_alpha=4`, `logn`, `windows=512,4096`, `interpolation=4`,
    `yarn_factor=4`; `none` takes nothing of the folder's."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How tokens are chosen and when to stop."""

    max_new_tokens: int = 256
    """Tokens generated at most."""

    temperature: float = 0.7
    """Divides the logits; 0 takes the best token."""

    top_p: float = 0.9
    """Share of probability that the best tokens sampled from add up to (recipe section 9)."""

    top_k: int = 0
    """Number of best tokens sampled from; 0 for no such limit."""

    seed: int | None = None
    """Makes the draws repeatable; None draws afresh each time."""

    stop: tuple[str, ...] = ()
    """Texts before which a reply ends, beside the model's own end tokens."""

    def __post_init__(self) -> None:
        if "" in self.stop:
            raise ValueError("stop cannot be an empty text")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be a number from 0 upwards, not {self.temperature}")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p must lie in [0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k cannot be negative, it is {self.top_k}")


@dataclass(frozen=True, kw_only=True)
class ResponseSamplingConfig(SamplingConfig):
    """The same values with the defaults of sampled responses, repeatable and as varied as the model is."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the best token."""

    seed: int | None = 1
    """Makes the draws repeatable; a stopped run goes on with the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed is None:
            raise ValueError("seed must be a number: a stopped run could not go on otherwise")

    def seeded(self, seed: int) -> SamplingConfig:
        """The same values with another seed."""
        return replace(self, seed=seed)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Responses of a model to prompts. With a reward model the best of them comes first (best-of-n)."""

    model: Path = Path("runs/sft/model")
    """Chat model's folder."""

    data: Path = Path("runs/conversations/conversations/alignment.jsonl")
    """Prompts: conversations of any shape that `sft` reads (their last reply is left out), or turns that end in the
    user's."""

    reward_model: Path | None = None
    """Reward model's folder: each response gets its reward, and they are put in order."""

    out: Path = Path("runs/responses")
    """Folder of the stage; the responses appear in it as `responses.jsonl`."""

    num_prompts: int = 0
    """Prompts from the beginning of the file; 0 for all."""

    num_responses: int = 4
    """Responses to each prompt."""

    prompts_at_once: int = 32
    """Prompts answered side by side; what is answered stays when the run is stopped."""

    sampling: ResponseSamplingConfig = field(default_factory=ResponseSamplingConfig)
    """How tokens are chosen."""

    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`; None to find it."""

    def __post_init__(self) -> None:
        for name in ("num_responses", "prompts_at_once"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.num_prompts < 0:
            raise ValueError(f"num_prompts cannot be negative, it is {self.num_prompts}")

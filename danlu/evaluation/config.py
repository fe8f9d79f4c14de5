"""The tables `[evaluate]` and `[benchmarks]` of a recipe. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

from danlu.inference.config import OpenConfig

RECIPE_TASKS = ("mmlu", "ceval", "gsm8k", "math", "humaneval", "mbpp", "bbh")
"""The seven benchmarks of the recipe (section 6)."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Bits per byte and checked skills, before and after fine-tuning and alignment."""

    base: Path = Path("runs/pretrain/model")
    """The pretrained model's folder."""

    model: Path = Path("runs/sft/model")
    """The fine-tuned model's folder."""

    aligned: Path | None = None
    """The model that PPO has made of it; None leaves it out."""

    documents: Path = Path("runs/corpus/documents")
    """The corpus with `train` and `validation`; the byte 5-gram is trained on the same bytes as the model."""

    shards: Path = Path("runs/tokens/shards")
    """Token shards of the same documents."""

    conversations: Path = Path("runs/conversations/conversations")
    """Folder with `test.jsonl` (new combinations of known words) and `unseen.jsonl` (words never seen)."""

    out: Path = Path("runs/evaluate")
    """Folder of the stage."""

    max_new_tokens: int = 32
    """Tokens of a reply; the longest reference reply of the demo has about 20."""

    temperature: float = 1.0
    """Divides the logits where the fine-tuned and the aligned model are held against each other: PPO's own."""

    top_p: float = 0.9
    """Share of probability drawn from there (recipe section 9)."""

    seed: int = 1
    """Of those draws."""

    base_per_skill: int = 10
    """Conversations of each skill and language that the base model is asked: it answers hardly any, and to show that
    few will do."""

    samples_per_skill: int = 3
    """Conversations of each skill and language that the report shows."""

    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`; None to find it."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "base_per_skill"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class LongContextOptions:
    """What is asked of a model about long texts."""

    text: Path | None = None
    """File of plain text to read, the longer the better: books, papers."""

    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16_384)
    """Tokens of a window, from short to long."""

    num_texts: int = 4
    """Windows of the longest length; the shorter ones are cut from the same text."""

    techniques: tuple[str, ...] = ()
    """What is compared: words of `--extend` joined by +, such as `dynamic_ntk+logn`; none for the report's rows and
    each technique alone."""

    num_passkeys: int = 0
    """Numbers hidden at every length and depth, to be found; 0 for none. The model must have learnt to
    answer such questions; `--chat` puts them to a chat model."""

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 2 or list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"lengths must be numbers from 2 upwards, from short to long, not {self.lengths}")
        for name, least in (("num_texts", 1), ("num_passkeys", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class LongContextConfig(LongContextOptions, OpenConfig):
    """How well a model reads more than it was trained on."""

    model: Path
    """Model folder."""

    text: Path
    """File of plain text to read, the longer the better: books, papers."""

    chat: bool = False
    """Hide the numbers in what a user says to a chat model."""

    out: Path = Path("runs/long-context")
    """Folder of the results."""

    seed: int = 1
    """Of the pass keys' draws."""


@dataclass(frozen=True, kw_only=True)
class BenchmarksConfig(OpenConfig):
    """Benchmarks of a model through lm-evaluation-harness."""

    model: Path | None = Path("runs/ppo/model")
    """Model folder; None where an endpoint is asked."""

    endpoint: str | None = None
    """Address of an OpenAI-compatible endpoint to ask instead, such as http://127.0.0.1:8000/v1; a key is taken from
    OPENAI_API_KEY."""

    endpoint_model: str | None = None
    """Name of the model there."""

    tasks: tuple[str, ...] = RECIPE_TASKS
    """mmlu, ceval, gsm8k, math, humaneval, mbpp (also without examples), mbpp_0shot, bbh, safety (chat alone)."""

    data: Path | None = None
    """Folder with the benchmarks' files; None takes them from the hub."""

    out: Path = Path("runs/benchmarks")
    """Folder of the results."""

    cache: Path = Path("runs/cache/requests")
    """Folder of a model's answered requests: a stopped run, or one with other tasks, asks nothing twice. An endpoint's
    stay with the run."""

    chat: bool = False
    """Put questions in ChatML, as to an aligned model (recipe section 10)."""

    shots: int | None = None
    """Examples; None for the recipe's own number for each benchmark."""

    limit: int = 0
    """Questions of each benchmark, evenly over its subjects; 0 for all."""

    max_new_tokens: int = 0
    """Tokens of a reply at most; 0 for each benchmark's own number. Of a short model a quarter of what it reads is kept
    free of examples for it."""

    num_samples: int = 1
    """Replies to each question, for pass@k; more than 1 needs a temperature."""

    temperature: float = 0.0
    """Of the replies; 0 takes the best token."""

    seed: int = 1
    """Of the replies' draws."""

    unsafe_code: bool = False
    """Run model-written code without a sandbox where bubblewrap is missing."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("tasks names no benchmark")
        for name, least in (("limit", 0), ("max_new_tokens", 0), ("num_samples", 1), ("temperature", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.shots is not None and self.shots < 0:
            raise ValueError(f"shots must be at least 0, not {self.shots}")
        if self.num_samples > 1 and self.temperature == 0:
            raise ValueError("num_samples over 1 would be the same reply again; set a temperature")
        if self.endpoint and not self.endpoint_model:
            raise ValueError("endpoint_model must name the model of the endpoint")

"""The table `[evaluate]` of a recipe. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path


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

"""The values of the stage `conversations`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ConversationsConfig:
    """The demo's own conversations: how many, of which skills, over how many words (issue 3, stages 5 and 6)."""

    input: Path = Path("runs/corpus/documents")
    """Folder with `train/*.parquet`, as the corpus stage writes it; words are mined from there."""
    out: Path = Path("runs/conversations")
    """The stage's folder; the product is `conversations/` inside it."""
    seed: int = 1
    """Everything drawn here follows from it."""
    num_conversations: int = 40_000
    """Different training conversations. The study: 4,000 cost half the copying that 24,000 gave."""
    test_per_skill: int = 200
    """Test conversations of each skill, as in the study."""
    words_per_language: int = 12_000
    """Most words mined in each language. The study's 3,000 left copying of unseen words at 0.58."""
    min_count_zh: int = 4
    """A mined Chinese string occurs at least so often. Our choice, because rarer strings are often no words."""
    min_count_en: int = 2
    """A mined English word occurs at least so often. Our choice: single ones are often slips of the pen."""
    unseen_share: float = 0.2
    """Part of the mined words that no training conversation contains (the study's fifth)."""
    num_alignment: int = 20_000
    """Conversations for the comparisons and PPO. On those that it was fine-tuned on, a model hardly errs."""
    made_up_share: float = 0.3
    """Part of the words in training that are made up on the spot, so that copying cannot rest on known words."""
    multi_turn_share: float = 0.08
    """Part of the conversations that begin with other turns. Our choice: enough to learn from, and short on average."""
    system_share: float = 0.06
    """Part of the conversations with a system message. Our choice."""
    greetings_share: float = 0.06
    """Part of the training conversations on greetings and identity. The shares of the skills add up to 1."""
    reply_language_share: float = 0.08
    """Part on the language of the reply."""
    copy_one_share: float = 0.22
    """Part on copying one word. Copying has the largest parts because it is the hardest in the study."""
    copy_several_share: float = 0.20
    """Part on copying two or three words."""
    counting_share: float = 0.10
    """Part on counting equal words, one to nine."""
    addition_share: float = 0.06
    """Part on adding two digits."""
    questions_share: float = 0.18
    """Part on questions about a sentence in the prompt."""
    harmful_share: float = 0.05
    """Part on declining harmful requests."""
    harmless_share: float = 0.05
    """Part on answering harmless look-alikes."""

    def __post_init__(self) -> None:
        for name in (
            "num_conversations",
            "test_per_skill",
            "words_per_language",
            "num_alignment",
            "min_count_zh",
            "min_count_en",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.unseen_share < 1:
            raise ValueError(f"unseen_share must lie between 0 and 1, not {self.unseen_share}")
        for name in ("made_up_share", "multi_turn_share", "system_share", *self._share_names()):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie from 0 to 1, not {getattr(self, name)}")
        total = sum(self.shares.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the skills must add up to 1, not {total:.3f}")

    @staticmethod
    def _share_names() -> list[str]:
        return [
            f"{skill}_share"
            for skill in (
                "greetings", "reply_language", "copy_one", "copy_several", "counting", "addition", "questions",
                "harmful", "harmless",
            )
        ]  # fmt: skip

    @property
    def shares(self) -> dict[str, float]:
        """Part of the training conversations by skill."""
        return {name.removesuffix("_share"): getattr(self, name) for name in self._share_names()}


@dataclass(frozen=True, kw_only=True)
class ComparisonsConfig:
    """The demo's own comparisons: replies that a program finds right beside wrong ones (recipe, section 8)."""

    conversations: Path = Path("runs/conversations/conversations")
    """Folder with `alignment.jsonl`, `test.jsonl` and `unseen.jsonl`, as the stage `conversations` writes them."""
    responses: Path | None = Path("runs/responses/responses.jsonl")
    """What the fine-tuned model said to prompts of `alignment.jsonl`, several times; none: rule-made pairs only."""
    out: Path = Path("runs/comparisons")
    """The stage's folder; the product is `comparisons/` inside it."""
    seed: int = 1
    """Everything drawn here follows from it."""
    num_pmp: int = 40_000
    """Pairs for preference model pretraining: many and noisy, as the recipe has it. Our choice for a small model."""
    num_reward: int = 8_000
    """Pairs for the reward model itself: fewer and clean. Our choice."""
    wrong_replies: int = 3
    """Rule-made wrong replies for one training prompt: the reward model reads the prompt once for all of them. Our
    choice; at equal time three taught more than one (docs/LOG.md)."""
    label_noise: float = 0.1
    """Part of the pairs for pretraining whose two sides are exchanged. Our choice: collected preferences disagree."""
    sampled_test_share: float = 0.05
    """Part of the sampled prompts whose pairs are kept for the test. Our choice: some hundred pairs."""

    def __post_init__(self) -> None:
        for name in ("num_pmp", "num_reward", "wrong_replies"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.label_noise < 0.5:
            raise ValueError(f"label_noise must be at least 0 and less than a half, not {self.label_noise}")
        if not 0 <= self.sampled_test_share < 1:
            raise ValueError(f"sampled_test_share must be at least 0 and less than 1, not {self.sampled_test_share}")

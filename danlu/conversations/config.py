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
        for name in ("num_conversations", "test_per_skill", "words_per_language", "min_count_zh", "min_count_en"):
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

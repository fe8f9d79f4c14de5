"""Prompts that know what they are made of, so that a long one loses whole examples and never its beginning (E10)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from danlu.tokenizer.chat import render_conversation

Message = dict[str, str]


class FewShotPrompt(str):
    """The text of a prompt as the harness sees it, with its parts: what stands before the examples, the examples
    (question, answer), and the question. In a chat every example is a turn of the user and its reply.
    """

    description: str
    examples: tuple[tuple[str, str], ...]
    question: str
    chat: bool

    def __new__(
        cls, description: str, examples: Sequence[tuple[str, str]], question: str, chat: bool = False
    ) -> "FewShotPrompt":
        shown = _messages(description, examples, question) if chat else None
        shots = "".join(f"{asked}{answer}\n\n" for asked, answer in examples)
        text = f"{description}{shots}{question}" if shown is None else render_conversation(shown, True)
        made = super().__new__(cls, text)
        made.description, made.examples, made.question, made.chat = description, tuple(examples), question, chat
        return made

    @property
    def messages(self) -> list[Message]:
        """The turns of a chat, the last of them the user's."""
        return _messages(self.description, self.examples, self.question)

    def without_first(self, count: int) -> "FewShotPrompt":
        """The same without its first `count` examples."""
        return FewShotPrompt(self.description, self.examples[count:], self.question, self.chat)


@dataclass(frozen=True)
class Fitted:
    """What a model really reads of a prompt, and of a choice after it; `ids` is None where not even the question fits,
    and empty where the model encodes for itself."""

    prompt: str
    ids: list[int] | None
    following: list[int] = field(default_factory=list)

    @property
    def num_examples(self) -> int | None:
        """Examples that are left; None where the prompt does not say."""
        return len(self.prompt.examples) if isinstance(self.prompt, FewShotPrompt) else None

    def left_out(self, asked: str) -> int | None:
        """How many of the first examples of `asked` are not read; None where not even its question fits."""
        if self.ids is None:
            return None
        return len(asked.examples) - (self.num_examples or 0) if isinstance(asked, FewShotPrompt) else 0


class Reply(str):
    """What a model answered, with the number of first examples that had to be left out of the prompt for that (None
    where not even the question fits), and whether it was cut at its length. A request cache keeps this with the text.
    """

    left_out: int | None
    is_cut: bool

    def __new__(cls, text: str, left_out: int | None = 0, is_cut: bool = False) -> "Reply":
        made = super().__new__(cls, text)
        made.left_out, made.is_cut = left_out, is_cut
        return made

    def fitted(self, prompt: str) -> Fitted:
        """What of `prompt` was answered."""
        if not isinstance(prompt, FewShotPrompt):
            return Fitted(prompt, [] if self.left_out is not None else None)
        if self.left_out is None:
            return Fitted(prompt.without_first(len(prompt.examples)), None)
        return Fitted(prompt.without_first(self.left_out), [])


def _messages(description: str, examples: Sequence[tuple[str, str]], question: str) -> list[Message]:
    turns = [
        turn
        for asked, answer in examples
        for turn in ({"role": "user", "content": asked}, {"role": "assistant", "content": answer})
    ]
    turns.append({"role": "user", "content": question})
    turns[0]["content"] = description + turns[0]["content"]
    return turns

"""A conversation that goes on for ever with a model that reads a limited number of tokens.

In: the user's messages and the model's replies. Out: the ids of the next prompt, made of the newest turns that fit.
"""

from danlu.run.errors import UserError
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.chat import encode_conversation
from danlu.tokenizer.text import well_formed

REPLY_SHARE = 4
"""At most a quarter of what the model reads is kept free for the reply: our choice, because the demo's replies fit
into 64 of its 256 tokens."""


class Conversation:
    """The system message and the turns so far; `left_out` counts the oldest messages that no prompt holds any more."""

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self.turns: list[dict[str, str]] = []
        self.left_out = 0

    @property
    def system(self) -> str | None:
        """The system message; None for none."""
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        self._system = well_formed(text) if text is not None else None

    def reset(self) -> None:
        """Forget all turns; the system message stays."""
        self.turns, self.left_out = [], 0

    def add(self, user: str, assistant: str) -> None:
        """Note a message and its reply, whole or cut short."""
        self.turns += [
            {"role": "user", "content": well_formed(user)},
            {"role": "assistant", "content": well_formed(assistant)},
        ]

    def messages(self, user: str) -> list[dict[str, str]]:
        """What the next prompt holds: the system message, the turns not left out, and the new message."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, *self.turns[self.left_out :], {"role": "user", "content": user}]

    def prompt(self, tokenizer: Tokenizer, user: str, limit: int, max_new_tokens: int) -> list[int]:
        """The ids that the model reads to answer `user`; the oldest exchanges leave until it fits with its reply.

        Raises UserError, leaving nothing out, when the message alone, with the system message, is too long.
        """
        room = limit - min(max_new_tokens, limit // REPLY_SHARE)
        ids, _ = encode_conversation(tokenizer, self.messages(user), add_generation_prompt=True)
        gone, num_gone_ids = self.left_out, 0
        while len(ids) - num_gone_ids > room and gone < len(self.turns):
            exchange = self.turns[gone : gone + 2]
            num_gone_ids += len(encode_conversation(tokenizer, exchange)[0])
            gone += 2
        needed = len(ids) - num_gone_ids
        if needed >= limit:
            raise UserError(f"too long: the message takes {needed} tokens, the model reads {limit} with its reply")
        self.left_out = gone
        return encode_conversation(tokenizer, self.messages(user), add_generation_prompt=True)[0]

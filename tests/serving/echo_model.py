"""A scripted model for the chat's tests: it answers `<<MESSAGE>>` and keeps every prompt that it was given.

`show` is answered by the prompt's messages as JSON, `count` by numbers without end, one every 20 ms.
As a program, `python echo_model.py TOKENIZER [--plain] [--slow]`, it is `danlu chat` with this model; with `--plain`
neither prompt_toolkit nor readline can be imported, with `--slow` the model takes half a second to load.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from danlu.inference.config import OpenConfig
from danlu.model.config import ModelConfig
from danlu.model.transformer import Context
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.chat import parse_conversation

Reply = Callable[[list[dict[str, str]]], list[int]]


def smallest_config(tokenizer: Tokenizer, limit: int) -> ModelConfig:
    """Of a model that only looks like one: it reads `limit` tokens."""
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=2,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=limit,
    )


class EchoModel(torch.nn.Module):
    """Looks like a Transformer to the engine. `reply` turns the prompt's messages into the ids of the answer."""

    def __init__(self, tokenizer: Tokenizer, limit: int = 2000, reply: Reply | None = None) -> None:
        super().__init__()
        self.config = smallest_config(tokenizer, limit)
        self.tokenizer, self.reply = tokenizer, reply or self.echo
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.lm_head = torch.nn.Identity()
        self.prompts: list[list[int]] = []
        self.script: list[int] = []
        self.delay = 0.0

    def first_not_finite(self, input_ids: torch.Tensor) -> str:
        """The part of the model that is broken where a test breaks it."""
        return "the head"

    def echo(self, messages: list[dict[str, str]]) -> list[int]:
        message = messages[-1]["content"]
        if message == "show":
            return self.tokenizer.encode(json.dumps(messages, ensure_ascii=False))
        if message == "count":
            self.delay = 0.02
            return self.tokenizer.encode(" ".join(map(str, range(1000))))[:1500]
        return self.tokenizer.encode(f"<<{message}>>")

    def messages(self, number: int = -1) -> list[dict[str, str]]:
        """What a prompt said, without the opening of the reply."""
        return parse_conversation(self.tokenizer, self.prompts[number])

    def hidden_states(self, input_ids: torch.Tensor, context: Context) -> torch.Tensor:
        """One-hot logits (1, T, V) of the next id of the script."""
        if context.position_ids[0, 0] == 0:
            self.delay = 0.0
            self.prompts.append(input_ids[0].tolist())
            self.script = [*self.reply(self.messages()), self.tokenizer.im_end_id]
        time.sleep(self.delay)
        place = int(context.position_ids[0, -1]) + 1 - len(self.prompts[-1])
        logits = torch.zeros(1, input_ids.shape[1], self.config.vocab_size)
        logits[0, -1, self.script[place]] = 1.0
        return logits


def main() -> int:
    import fcntl
    import os
    import signal
    import termios

    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # So that Ctrl-C on this terminal reaches this process,
        signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background.
    if "--plain" in sys.argv:
        sys.modules["prompt_toolkit"] = sys.modules["readline"] = None  # type: ignore[assignment]
    import danlu.cli
    import danlu.serving.terminal

    def load(path: Path, how: OpenConfig) -> tuple[EchoModel, Tokenizer]:
        if "--slow" in sys.argv:
            print("(loading)", file=sys.stderr, flush=True)
            time.sleep(0.5)
        tokenizer = Tokenizer.load(path)
        return EchoModel(tokenizer), tokenizer

    danlu.serving.terminal.open_model = load  # type: ignore[assignment]
    return danlu.cli.main(["chat", sys.argv[1], "--temperature", "0", "--max-new-tokens", "1500"])


if __name__ == "__main__":
    sys.exit(main())

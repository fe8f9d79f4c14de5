"""As a program, `python serve_scripted.py MODEL [options]`, it is `danlu serve` with the scripted model, a token every
20 ms where the text is `count`."""

import sys
from pathlib import Path

from scripted_model import ScriptedModel, scripted_tokenizer

import danlu.cli
import danlu.serving.server
from danlu.inference.config import OpenConfig
from danlu.tokenizer.bpe import Tokenizer


class SlowModel(ScriptedModel):
    """A row that counts takes its time."""

    def reply(self, prompt_ids: list[int]) -> list[int]:
        ids = super().reply(prompt_ids)
        self.delay = 0.02 if len(ids) > 500 else self.delay
        return ids


def load(path: Path, how: OpenConfig) -> tuple[ScriptedModel, Tokenizer]:
    tokenizer = scripted_tokenizer()
    return SlowModel(tokenizer), tokenizer


if __name__ == "__main__":
    danlu.serving.server.open_model = load  # type: ignore[assignment]
    sys.exit(danlu.cli.main(["serve", *sys.argv[1:]]))

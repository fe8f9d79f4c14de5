"""A model whose replies are written down, for many rows at once; and a server in this process that serves any model.

What the last text of a prompt says decides the reply: a key of `SCRIPTS`, `count` for numbers without end, `show` for
the prompt's messages as JSON, anything else for `<<itself>>`.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import torch
import uvicorn
from echo_model import smallest_config

from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Engine
from danlu.model.transformer import Context, Transformer
from danlu.serving.app import make_app
from danlu.serving.batcher import Batcher
from danlu.serving.server import DrainingServer, open_socket
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.chat import parse_conversation
from danlu.tokenizer.formats import Vocabulary
from danlu.tokenizer.special import special_tokens

PIECES = ("a EN", "D_", "OF b", "EN", "OX", "x\n", "\nUser: hello", " two", "  ", "Hello", ",", " world")
"""Tokens beside the single bytes."""

SCRIPTS: dict[str, list[str | int]] = {
    "characters": [*"能🙂".encode()],
    "stop": ["a EN", "D_", "OF b"],
    "no stop": ["EN", "D_", "OX"],
    "inside": ["x\n", "\nUser: hello"],
    "hi": ["Hello", ",", " world"],
    "two worlds": [" world", " two", " world", "Hello"],
    "blanks": ["  ", " two"],
    "control": ["Hello", "<|im_start|>", "<|extra_0|>", " world"],
}
"""Replies as tokens: pieces, control tokens, or single bytes."""


def scripted_tokenizer() -> Tokenizer:
    """All bytes and `PIECES`."""
    tokens = [bytes([byte]) for byte in range(256)] + [piece.encode() for piece in PIECES]
    return Tokenizer(Vocabulary({token: rank for rank, token in enumerate(tokens)}, special_tokens(len(tokens), 2)))


class ScriptedModel(torch.nn.Module):
    """Looks like a Transformer to the engine. A row's script is noted in its place of the cache."""

    def __init__(self, tokenizer: Tokenizer, limit: int = 600) -> None:
        super().__init__()
        self.config = smallest_config(tokenizer, limit)
        self.tokenizer = tokenizer
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.lm_head = torch.nn.Identity()
        self.prompts: list[list[int]] = []
        self.scripts: list[list[int]] = []
        self.delay = 0.0
        self.passes: list[tuple[int, int]] = []
        """Rows and tokens of each pass."""
        self.fail_with: Exception | None = None

    def id_of(self, token: str | int) -> int:
        if isinstance(token, int):
            return token
        ranks = self.tokenizer.vocabulary.ranks
        return self.tokenizer.special[token] if token in self.tokenizer.special else ranks[token.encode()]

    def reply(self, prompt_ids: list[int]) -> list[int]:
        try:
            messages = parse_conversation(self.tokenizer, prompt_ids)
        except ValueError:
            messages = [{"role": "user", "content": self.tokenizer.decode(prompt_ids)}]
        said = messages[-1]["content"]
        if said in SCRIPTS:
            return [self.id_of(token) for token in SCRIPTS[said]]
        if said == "show":
            return self.tokenizer.encode(json.dumps(messages, ensure_ascii=False))
        return self.tokenizer.encode(" ".join(map(str, range(1000))) if said == "count" else f"<<{said}>>")

    def hidden_states(self, input_ids: torch.Tensor, context: Context) -> torch.Tensor:
        """One-hot logits (B, T, V) of the next id of each row's script."""
        time.sleep(self.delay)
        self.passes.append((len(input_ids), input_ids.shape[1]))
        if self.fail_with:
            raise self.fail_with
        B, T = input_ids.shape
        logits = torch.zeros(B, T, self.config.vocab_size)
        for place, row in enumerate(context.rows.tolist()):
            if context.position_ids[place, 0] == 0:
                # No prompt ends in id 0, which fills shorter prompts up.
                prompt = input_ids[place].tolist()
                while prompt[-1] == 0:
                    prompt.pop()
                self.prompts.append(prompt)
                self.scripts.append([*self.reply(prompt), self.tokenizer.im_end_id])
                context.cache.keys[0][row, 0, 0, 0] = len(self.prompts) - 1
            number = int(context.cache.keys[0][row, 0, 0, 0])
            length = len(self.prompts[number])
            for token in range(T):
                at = int(context.position_ids[place, token]) + 1 - length
                if 0 <= at < len(self.scripts[number]):
                    logits[place, token, self.scripts[number][at]] = 50.0
        return logits


class Served:
    """A server on a free port: its `url`, its `batcher`, an HTTP `client`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        max_rows: int = 8,
        max_waiting: int = 20,
        drain_seconds: float = 0.0,
        **options: Any,
    ):
        engine = Engine.for_text(model, tokenizer, SamplingConfig(), max_rows, hide_special=True)
        self.model, self.tokenizer = model, tokenizer
        self.batcher = Batcher(engine, max_waiting)
        app = make_app(self.batcher, tokenizer, "tiny", **options)
        listener = open_socket("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        settings = uvicorn.Config(app, log_level="critical", access_log=False)
        self.server = DrainingServer(settings, self.batcher, drain_seconds)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()
        self.client = httpx.Client(base_url=self.url, timeout=30)

    def close(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join()

    def chat(self, content: Any, **fields: Any) -> httpx.Response:
        """Ask one question."""
        return self.ask("/v1/chat/completions", messages=[{"role": "user", "content": content}], **fields)

    def ask(self, path: str, **fields: Any) -> httpx.Response:
        return self.client.post(path, json={"model": "tiny", "temperature": 0, **fields})

    def events(self, path: str, **fields: Any) -> list[dict[str, Any]]:
        """The chunks of a streamed answer, whose last line must be the done line."""
        answer = self.ask(path, stream=True, **fields)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        *lines, done, end = answer.text.split("\n\n")
        assert (done, end) == ("data: [DONE]", "")
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    def wait_until_idle(self, seconds: float = 10) -> None:
        wait_for(lambda: self.batcher.num_running + self.batcher.num_waiting == 0, seconds)


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Until `condition` holds; fails after some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.005)


@contextlib.contextmanager
def served(model: "Transformer | ScriptedModel", tokenizer: Tokenizer, **options: Any) -> Iterator[Served]:
    """A server while inside."""
    server = Served(model, tokenizer, **options)
    try:
        yield server
    finally:
        server.close()

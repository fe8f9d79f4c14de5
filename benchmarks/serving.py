"""`danlu serve` under load: one stream alone, several at once, and the time to the first token.

    python benchmarks/serving.py                                    # about 100M parameters of random weights
    python benchmarks/serving.py --model runs/demo/ppo/model
    python benchmarks/serving.py --shape 1.8b --device cuda --dtype bfloat16
    python benchmarks/serving.py --peer-url http://127.0.0.1:8080 --peer-model NAME   # a server that already runs

Every client is a streaming greedy chat of made-up words. Rounds alternate: each chat alone, then all at once, and the
same of a peer where one is given. Printed as JSON: tokens a second of either and their ratio; whether each chat got the
same tokens beside the others as alone; the median and the 99th percentile of the time to the first text, for requests
that come one after the other and for `clients` at once; and the share of the limit that one stream reaches: every
weight is read once for a token, so no stream is faster than the memory's bandwidth over the size of the weights.
"""

import asyncio
import contextlib
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import httpx
import torch
import tyro
from made_up import SHAPES, made_up_words, write_language_model
from side_by_side import report, settings_of

from danlu.inference.config import DtypeName
from danlu.model.config import ModelConfig
from danlu.model.hf_config import read_config

MODELS: dict[str, ModelConfig] = {
    "100m": replace(SHAPES["demo"], hidden_size=768, intermediate_size=2560, num_hidden_layers=12,
                    num_attention_heads=12, num_key_value_heads=12, max_position_embeddings=1024),
    "1.8b": replace(SHAPES["demo"], vocab_size=151_936, hidden_size=2048, intermediate_size=5504, num_hidden_layers=24,
                    num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=2048),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What to measure."""

    model: Path | None = None
    """Model folder; none for random weights of `shape`."""

    shape: Literal["100m", "1.8b"] = "100m"
    """Of the random weights."""

    device: str = "cpu"
    """`cpu` or `cuda`."""

    dtype: DtypeName = "float32"
    """Of the weights while serving."""

    clients: int = 8
    """Chats at once."""

    max_tokens: int = 64
    """Of a reply."""

    rounds: int = 3
    """Of alone and at once."""

    first_tokens: int = 200
    """Requests whose time to the first text is taken, at once; a quarter as many one after the other."""

    peer_url: str | None = None
    """Address of another server, without `/v1`."""

    peer_model: str = "peer"
    """Name that it knows its model by."""

    json: Path | None = None
    """File for the figures, beside standard output."""


@dataclass(frozen=True)
class Reply:
    """What one request brought, and when, in seconds since it was sent."""

    text: str
    num_tokens: int
    first_text_s: float
    seconds: float


@dataclass(frozen=True)
class Server:
    """A server and how to ask it."""

    url: str
    model: str
    max_tokens: int

    def body(self, prompt: str, **more: Any) -> dict[str, Any]:
        """A greedy chat."""
        messages = [{"role": "user", "content": prompt}]
        return {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens, **more}

    async def ask(self, client: httpx.AsyncClient, prompt: str, **more: Any) -> Reply:
        """One streamed chat."""
        body = self.body(prompt, stream=True, stream_options={"include_usage": True}, **more)
        started, text, num_tokens, first = time.perf_counter(), "", 0, 0.0
        async with client.stream("POST", f"{self.url}/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if usage := chunk.get("usage"):
                    num_tokens = usage["completion_tokens"]
                for choice in chunk["choices"]:
                    piece = choice["delta"].get("content") or ""
                    first = first or (time.perf_counter() - started if piece else 0.0)
                    text += piece
        seconds = time.perf_counter() - started
        return Reply(text, num_tokens, first or seconds, seconds)

    async def tokens(self, client: httpx.AsyncClient, prompt: str) -> list[Any]:
        """The reply's tokens as the server names them."""
        answer = await client.post(f"{self.url}/v1/chat/completions", json=self.body(prompt, logprobs=True))
        answer.raise_for_status()
        return [entry["bytes"] for entry in answer.json()["choices"][0]["logprobs"]["content"]]


async def tokens_per_second(server: Server, client: httpx.AsyncClient, prompts: list[str], at_once: bool) -> float:
    """Of all chats together."""
    started = time.perf_counter()
    if at_once:
        replies = await asyncio.gather(*(server.ask(client, prompt) for prompt in prompts))
    else:
        replies = [await server.ask(client, prompt) for prompt in prompts]
    return sum(reply.num_tokens for reply in replies) / (time.perf_counter() - started)


async def first_text_seconds(server: Server, client: httpx.AsyncClient, count: int, clients: int) -> list[float]:
    """Time to the first text of so many requests, each client asking anew as soon as it is answered."""
    words, left, seconds = made_up_words(3), iter(range(count)), []
    chance = random.Random(3)

    async def keep_asking() -> None:
        for _ in left:
            prompt = " ".join(next(words) for _ in range(chance.randint(5, 60)))
            reply = await server.ask(client, prompt, max_tokens=chance.randint(8, server.max_tokens // 2))
            seconds.append(reply.first_text_s)

    await asyncio.gather(*(keep_asking() for _ in range(clients)))
    return seconds


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    return {
        "median_ms": 1000 * statistics.median(seconds),
        "p99_ms": 1000 * statistics.quantiles(seconds, n=100, method="inclusive")[-1],
        "requests": len(seconds),
    }


async def measured(benchmark: Benchmark, servers: dict[str, Server]) -> dict[str, Any]:
    """The figures of each server, their rounds in turn."""
    words = made_up_words(2)
    prompts = [" ".join(next(words) for _ in range(10 + 6 * number)) for number in range(benchmark.clients)]
    rates: dict[str, dict[str, list[float]]] = {name: {"alone": [], "at_once": []} for name in servers}
    figures: dict[str, Any] = {}
    async with httpx.AsyncClient(timeout=600) as client:
        for server in servers.values():
            await tokens_per_second(server, client, prompts, at_once=True)  # Warm.
        for _ in range(benchmark.rounds):
            for name, server in servers.items():
                for kind in ("alone", "at_once"):
                    rates[name][kind].append(await tokens_per_second(server, client, prompts, kind == "at_once"))
        for name, server in servers.items():
            alone = [await server.tokens(client, prompt) for prompt in prompts]
            together = await asyncio.gather(*(server.tokens(client, prompt) for prompt in prompts))
            one, all_ = (statistics.median(rates[name][kind]) for kind in ("alone", "at_once"))
            figures[name] = {
                "tokens_per_second_alone": one,
                "tokens_per_second_at_once": all_,
                "at_once_over_alone": all_ / one,
                "rounds": rates[name],
                "chats_with_the_same_tokens": sum(a == b for a, b in zip(alone, together, strict=True)),
                "first_text_alone": milliseconds(
                    await first_text_seconds(server, client, benchmark.first_tokens // 4, 1)
                ),
                "first_text_at_once": milliseconds(
                    await first_text_seconds(server, client, benchmark.first_tokens, benchmark.clients)
                ),
            }
    return figures


@contextlib.contextmanager
def served(benchmark: Benchmark, folder: Path) -> Iterator[Server]:
    """`danlu serve` on a free port."""
    command = [
        sys.executable, "-m", "danlu.cli", "serve", str(folder), "--port", "0", "--no-page", "--model-name", "danlu",
        "--max-rows", str(benchmark.clients), "--max-length", "512", "--device", benchmark.device,
        "--dtype", benchmark.dtype,
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        for line in process.stderr:
            print(line, end="", file=sys.stderr)
            if found := re.search(r"(http://\S+)/v1 ", line):
                yield Server(found[1], "danlu", benchmark.max_tokens)
                return
        raise SystemExit("danlu serve did not start")
    finally:
        process.terminate()
        process.wait()


def bytes_per_second(device: torch.device, seconds: float = 1.0) -> float:
    """Measured rate at which memory is read: the best of many sums over a gigabyte."""
    values = torch.ones(2**28, device=device)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        values.sum().item()
        best = min(best, time.perf_counter() - started)
    return values.nbytes / best


def limit(folder: Path, benchmark: Benchmark) -> float:
    """Tokens a second of one stream if nothing but reading the weights took time."""
    size = read_config(folder).num_matmul_parameters * getattr(torch, benchmark.dtype).itemsize
    return bytes_per_second(torch.device(benchmark.device)) / size


def main(benchmark: Benchmark) -> None:
    """Serve, measure, print."""
    with tempfile.TemporaryDirectory() as name:
        folder = benchmark.model
        if folder is None:
            write_language_model(Path(name), MODELS[benchmark.shape])
            folder = Path(name) / "model"
        with served(benchmark, folder) as server:
            servers = {"danlu": server}
            if benchmark.peer_url:
                servers["peer"] = Server(benchmark.peer_url, benchmark.peer_model, benchmark.max_tokens)
            figures = asyncio.run(measured(benchmark, servers))
        most = limit(folder, benchmark)
    figures["limit_tokens_per_second_alone"] = most
    figures["share_of_the_limit"] = figures["danlu"]["tokens_per_second_alone"] / most
    report({"settings": settings_of(benchmark), **figures}, benchmark.json)


if __name__ == "__main__":
    main(tyro.cli(Benchmark, description=__doc__))

"""The server among many clients that behave at random, and against every request that its document allows."""

import contextlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from scripted_model import Served

if TYPE_CHECKING:
    from danlu.model.transformer import Transformer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
NUM_CLIENTS = 16
SETTLED_AFTER = 1 / 3
"""Share of the time after which memory may not grow: until then what is used again is allocated."""
GROWTH = 16 * 2**20
"""Bytes of the process's memory that may come and go."""


class Client:
    """Asks one thing after the other, each drawn at random, until the time is over."""

    def __init__(self, port: int, seed: int) -> None:
        self.port, self.chance = port, random.Random(seed)
        self.statuses: Counter[int] = Counter()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)

    def ask(self) -> None:
        """One of the ways to behave."""
        self.chance.choice([self.whole, self.stream, self.walk_away, self.break_off, self.rubbish, self.mistake])()

    def body(self, **more: Any) -> dict[str, Any]:
        words = " ".join(self.chance.choices(["river", "cold", "你好", "世界", "<|im_end|>", "🙂"], k=8))
        limits = {"max_tokens": self.chance.randint(1, 60), "temperature": self.chance.choice([0, 0.7, 2])}
        turns = [{"role": "user", "content": words}]
        return {"model": "tiny", "messages": turns, "seed": self.chance.randrange(99), **limits, **more}

    def whole(self) -> None:
        more = self.chance.choice([{}, {"n": 3}, {"logprobs": True, "top_logprobs": 2}, {"stop": ["e", "好"]}])
        self.statuses[self.http.post(CHAT, json=self.body(**more)).status_code] += 1

    def stream(self, most_lines: int = 10**6) -> None:
        with self.http.stream("POST", CHAT, json=self.body(stream=True)) as answer:
            self.statuses[answer.status_code] += 1
            for number, _ in enumerate(answer.iter_lines()):
                if number >= most_lines:
                    break

    def walk_away(self) -> None:
        """Stop reading in the middle of a stream."""
        self.stream(self.chance.randint(0, 8))

    def break_off(self) -> None:
        """A request of which only a part is sent, or whose answer nobody waits for."""
        content = json.dumps(self.body()).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request[: self.chance.randint(1, len(request))])
            time.sleep(self.chance.random() / 20)

    def rubbish(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(self.chance.randbytes(self.chance.randint(1, 3000)))
            time.sleep(self.chance.random() / 20)

    def mistake(self) -> None:
        wrong: list[dict[str, Any]] = [
            {"temperature": "hot"}, {"max_tokens": -1}, {"n": 10**9}, {"messages": []}, {"nonsense": 1},
            {"model": "other"}, {"messages": [{"role": "user", "content": "long " * 2000}]},
        ]  # fmt: skip
        self.statuses[self.http.post(CHAT, json=self.body(**self.chance.choice(wrong))).status_code] += 1


class Soaked:
    """What a soak has seen."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.memory: list[int] = []
        self.failures: list[BaseException] = []


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`danlu serve` as a program of its own, and its port."""
    command = [sys.executable, "-m", "danlu.cli", "serve", str(folder), "--port", "0", "--no-page"]
    process = subprocess.Popen([*command, "--model-name", "tiny", "--device", "cpu"], stderr=subprocess.PIPE, text=True)
    assert process.stderr
    found = re.search(r":(\d+)/v1", process.stderr.readline())
    assert found, "the server did not start"
    try:
        yield process, int(found[1])
    finally:
        process.terminate()
        process.wait(60)


def soak(process: subprocess.Popen[str], port: int, seconds: float) -> Soaked:
    seen, end = Soaked(), time.monotonic() + seconds

    def go_on(seed: int) -> None:
        client = Client(port, seed)
        try:
            while time.monotonic() < end:
                client.ask()
        except BaseException as error:  # Shown by the test: a thread's own would be lost.
            seen.failures.append(error)
        finally:
            client.http.close()
            seen.statuses += client.statuses

    threads = [threading.Thread(target=go_on, args=(seed,)) for seed in range(NUM_CLIENTS)]
    for thread in threads:
        thread.start()
    program = psutil.Process(process.pid)
    while any(thread.is_alive() for thread in threads):
        seen.memory.append(program.memory_info().rss)
        time.sleep(1)
    return seen


def idle(port: int) -> dict[str, Any]:
    """What `/health` says once nothing runs, or after ten seconds."""
    for _ in range(100):
        health: dict[str, Any] = httpx.get(f"http://127.0.0.1:{port}/health").json()
        if health["running"] + health["waiting"] == 0:
            break
        time.sleep(0.1)
    return health


@pytest.mark.parametrize("seconds", [8, pytest.param(180, marks=pytest.mark.slow)])
def test_clients_that_behave_at_random_leave_no_trace(
    seconds: int, tiny_model: "Callable[..., Transformer]", tiny_tokenizer_folder: Path, tmp_path: Path
) -> None:
    from danlu.model.checkpoint import save_model
    from danlu.tokenizer.bpe import Tokenizer

    tokenizer = Tokenizer.load(tiny_tokenizer_folder)
    save_model(
        tmp_path / "model", tiny_model(max_position_embeddings=256), tiny_tokenizer_folder, list(tokenizer.stop_ids),
        tokenizer.end_of_text_id,
    )  # fmt: skip
    with serve(tmp_path / "model") as (process, port):
        Client(port, 0).whole()
        before = psutil.Process(process.pid)
        files, threads = before.num_fds(), before.num_threads()
        seen = soak(process, port, seconds)
        assert not seen.failures
        assert set(seen.statuses) == {200, 400, 404}, f"no other status may come, and each must: {seen.statuses}"
        assert idle(port) == {"status": "ok", "running": 0, "waiting": 0}
        time.sleep(1)
        assert before.num_fds() <= files + 2, "connections stay open"
        pool = min(32, (os.cpu_count() or 1) + 4)
        assert before.num_threads() <= threads + pool, "more threads than those that encode prompts"
        if seconds > 100:
            settled = seen.memory[int(len(seen.memory) * SETTLED_AFTER) :]
            growth = max(settled[-10:]) - min(settled[:10])
            print(f"{dict(seen.statuses)}; MiB of memory: {min(settled) / 2**20:.0f} to {max(settled) / 2**20:.0f}")
            assert growth < GROWTH, f"memory grew by {growth / 2**20:.0f} MiB"
        process.terminate()
        assert process.wait(60) == 0
        assert process.stderr
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("examples", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_no_request_of_the_openapi_document_is_a_server_error(
    random_server: Served, examples: int, tmp_path: Path
) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    # A list with too many items may also be a body that is too large.
    expected = "[checks.negative_data_rejection]\nexpected-statuses = ['4xx']\n"
    config = tmp_path / "schemathesis.toml"
    config.write_text(expected, encoding="utf-8")
    # What is refused for what it says, as a prompt that does not fit, is valid by its document: that check is left out.
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run",
        f"{random_server.url}/openapi.json", "--seed", "1",
        "--max-examples", str(examples), "--exclude-checks", "positive_data_acceptance",
        "--phases", "examples,coverage,fuzzing",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    print(run.stdout[-3000:])
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert random_server.client.get("/health").is_success

"""Clients that people use, clients that vanish or are slow, and the end of the server."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from scripted_model import ScriptedModel, Served, scripted_tokenizer, served, wait_for

import danlu.serving.server
from danlu.cli import main
from danlu.model.checkpoint import save_model
from danlu.run.errors import UserError
from danlu.serving.config import ServeConfig
from danlu.serving.guard import is_loopback
from danlu.serving.server import open_socket
from danlu.tokenizer.bpe import Tokenizer

if TYPE_CHECKING:
    from danlu.model.transformer import Transformer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PATHS = pytest.mark.parametrize("path", [CHAT, TEXT])
ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("serve_scripted.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
HI: Any = [{"role": "user", "content": "hi"}]


def request_bytes(path: str, body: dict[str, Any], more: str = "") -> bytes:
    """An HTTP request, as a socket sends it."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{more}"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def body_of(path: str, prompt: str, **more: Any) -> dict[str, Any]:
    given = {"messages": [{"role": "user", "content": prompt}]} if path == CHAT else {"prompt": prompt}
    return {"model": "tiny", "temperature": 0, **given, **more}


def connected(server: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received


def test_the_official_client(server: Served) -> None:
    openai = pytest.importorskip("openai", reason="the official client is not installed")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny"]
    whole = client.chat.completions.create(
        model="tiny", messages=HI, temperature=0, logprobs=True, top_logprobs=2, extra_body={"top_k": 5}
    )
    assert whole.choices[0].message.content == "Hello, world"
    assert [entry.token for entry in whole.choices[0].logprobs.content] == ["Hello", ",", " world"]
    stream = client.chat.completions.create(
        model="tiny", messages=HI, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello, world"
    assert last.usage == whole.usage
    text = client.completions.create(model="tiny", prompt="hi", temperature=0, logprobs=2)
    assert text.choices[0].text == "Hello, world"
    assert text.choices[0].logprobs.text_offset == [0, 5, 6]
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="tiny", messages=HI, presence_penalty=1)
    assert refusal.value.param == "presence_penalty"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=HI)


def test_the_official_client_raises_what_fails_in_the_middle(server: Served) -> None:
    openai = pytest.importorskip("openai", reason="the official client is not installed")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    server.model.delay = 0.01
    stream = client.chat.completions.create(model="tiny", messages=body_of(CHAT, "count")["messages"], stream=True)
    next(stream)
    server.model.fail_with = RuntimeError("broken")
    with pytest.raises(openai.APIError, match="the server failed"):
        list(stream)


def test_litellm(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    # It would fetch its price list from elsewhere.
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm", reason="litellm is not installed")
    common = {"model": "openai/tiny", "messages": HI, "api_base": f"{server.url}/v1", "api_key": "any"}
    whole = litellm.completion(**common, temperature=0, max_tokens=50, num_retries=0)
    assert whole.choices[0].message.content == "Hello, world"
    assert whole.choices[0].finish_reason == "stop"
    stream = litellm.completion(**common, temperature=0, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Hello, world"
    with pytest.raises(litellm.exceptions.BadRequestError, match="temperature"):
        litellm.completion(**common, temperature=3, num_retries=0)


def test_the_checklist_of_the_protocol_holds(random_server: Served) -> None:
    """The list that other servers are held against too."""
    pytest.importorskip("openai", reason="the official client is not installed")
    pytest.importorskip("litellm", reason="litellm is not installed")
    command = [sys.executable, ROOT / "benchmarks" / "protocol.py", "--url", random_server.url, "--model", "tiny"]
    run = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["items"] > 30


@PATHS
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_vanishes_frees_its_row(server: Served, path: str, stream: bool) -> None:
    server.model.delay = 0.02
    connection = connected(server)
    connection.sendall(request_bytes(path, body_of(path, "count", stream=stream)))
    wait_for(lambda: server.batcher.num_running == 1)
    before = len(server.model.passes)
    connection.close()
    wait_for(lambda: server.batcher.num_running == 0, 5)
    # One step may have been under way when the connection was closed, one more until the server knew of it.
    assert len(server.model.passes) - before <= 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_vanishes_while_it_waits_is_never_answered(server: Served, stream: bool) -> None:
    server.model.delay = 0.02
    with server.client.stream("POST", TEXT, json=body_of(TEXT, "count", n=8, stream=True)) as answer:
        lines = answer.iter_lines()
        next(lines)
        connection = connected(server)
        connection.sendall(request_bytes(TEXT, body_of(TEXT, "hi", stream=stream)))
        wait_for(lambda: server.batcher.num_waiting == 1)
        connection.close()
        wait_for(lambda: server.batcher.num_waiting == 0, 5)
        assert server.batcher.num_running == 8


def test_a_client_that_does_not_read_keeps_no_row(server: Served) -> None:
    """It reads one byte of a long answer; the row ends as it would, others are served meanwhile."""
    with connected(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.sendall(request_bytes(TEXT, body_of(TEXT, "count", stream=True, n=8)))
        assert connection.recv(1) == b"H"
        assert server.ask(TEXT, prompt="hi").json()["choices"][0]["text"] == "Hello, world"
        server.wait_until_idle()


@pytest.fixture(scope="module")
def impatient() -> Iterator[Served]:
    """A server that waits half a second for a body."""
    tokenizer = scripted_tokenizer()
    with served(ScriptedModel(tokenizer), tokenizer, body_seconds=0.5) as server:
        yield server


@PATHS
def test_a_body_that_comes_a_byte_at_a_time(impatient: Served, path: str) -> None:
    sent = request_bytes(path, body_of(path, "hi" * 200))
    with connected(impatient) as connection:
        connection.sendall(sent[:-300])
        with contextlib.suppress(ConnectionError):
            for byte in sent[-300:]:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        received = read_to_end(connection).decode()
    head, _, content = received.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 408"), received
    assert json.loads(content)["error"]["code"] == "body_timeout"
    assert impatient.ask(TEXT, prompt="hi").status_code == 200


def test_a_body_that_breaks_off(impatient: Served) -> None:
    with connected(impatient) as connection:
        connection.sendall(request_bytes(CHAT, body_of(CHAT, "hi"))[:-5])
    assert impatient.ask(TEXT, prompt="hi").status_code == 200


def test_a_large_body_is_refused_before_it_is_sent(impatient: Served) -> None:
    with connected(impatient) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n".encode())
        assert read_to_end(connection).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
    ids=lambda sent: repr(sent[:40]),
)
def test_what_is_not_http_leaves_the_server_up(impatient: Served, sent: bytes) -> None:
    with connected(impatient) as connection, contextlib.suppress(ConnectionError):
        connection.settimeout(1)
        connection.sendall(sent)
        with contextlib.suppress(TimeoutError):
            read_to_end(connection)
    assert impatient.ask(TEXT, prompt="hi").status_code == 200


class Process:
    """`danlu serve` with the scripted model, in a process of its own."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, "tiny", "--port", "0", "--no-page", *options],
            stderr=subprocess.PIPE, env=ENVIRONMENT, text=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        self.said = ""
        while "Ctrl-C" not in self.said:
            line = self.process.stderr.readline()
            assert line, f"the server ended: {self.said}"
            self.said += line
        found = re.search(r"http://127\.0\.0\.1:(\d+)/v1", self.said)
        assert found, self.said
        self.url = f"http://127.0.0.1:{found[1]}"

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


def stream_of(url: str, **more: Any) -> str:
    with httpx.Client(timeout=60) as client:
        return client.post(url + CHAT, json=body_of(CHAT, "count", stream=True, **more)).text


def test_the_greeting_works_and_sigterm_lets_running_answers_finish() -> None:
    with Process("--model-name", "tiny", "--drain-seconds", "20") as server, ThreadPoolExecutor(1) as pool:
        command = server.said[server.said.index("curl") : server.said.index("Ctrl-C")]
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
        assert "<<你好>>" in done.stdout, (command, done)
        running = pool.submit(stream_of, server.url, max_tokens=60)
        wait_for(lambda: httpx.get(server.url + "/health").json()["running"] == 1)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(httpx.ConnectError):
            httpx.post(server.url + CHAT, json=body_of(CHAT, "hi"))
        text = running.result()
        assert text.endswith("data: [DONE]\n\n")
        assert '"finish_reason":"length"' in text
        assert server.process.wait(timeout=10) == 0


def test_answers_that_take_too_long_end_with_an_error() -> None:
    """The end of the server, with 0.1 seconds for what runs; what has not begun gets a status."""
    tokenizer = scripted_tokenizer()
    with ThreadPoolExecutor(2) as pool:
        with served(ScriptedModel(tokenizer), tokenizer, max_rows=1, drain_seconds=0.1) as server:
            server.model.delay = 0.02
            running = pool.submit(stream_of, server.url)
            wait_for(lambda: server.batcher.num_running == 1)
            waiting = pool.submit(httpx.post, server.url + CHAT, json=body_of(CHAT, "hi"))
            wait_for(lambda: server.batcher.num_waiting == 1)
        last = running.result().strip().split("\n\n")[-1].removeprefix("data: ")
        assert json.loads(last)["error"]["code"] == "shutting_down"
        assert waiting.result().status_code == 503


def test_a_connection_that_stays_open_does_not_keep_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an open page's does: when all is answered it is closed."""
    monkeypatch.setattr("danlu.serving.server.GRACE_SECONDS", 0.2)
    tokenizer = scripted_tokenizer()
    with contextlib.ExitStack() as clients:
        with served(ScriptedModel(tokenizer), tokenizer, drain_seconds=20) as server:
            unfinished = clients.enter_context(connected(server))
            unfinished.sendall(request_bytes(CHAT, body_of(CHAT, "hi"))[:-5])
            reader = clients.enter_context(connected(server))
            reader.sendall(request_bytes(TEXT, body_of(TEXT, "count", n=8, stream=True)))
            wait_for(lambda: server.batcher.num_running == 8)
            started = time.monotonic()
        assert time.monotonic() - started < 10


def test_a_second_interrupt_ends_at_once() -> None:
    with Process("--drain-seconds", "60") as server, ThreadPoolExecutor(1) as pool:
        assert server.process.stderr is not None
        running = pool.submit(stream_of, server.url)
        wait_for(lambda: httpx.get(server.url + "/health").json()["running"] == 1)
        for _ in range(2):
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        with contextlib.suppress(httpx.HTTPError):
            running.result()
        assert server.process.wait(timeout=10) == 0
        assert "Traceback" not in server.process.stderr.read()


def test_the_command_serves_a_folder(
    tiny_model: "Callable[..., Transformer]", tiny_tokenizer: Tokenizer, tiny_tokenizer_folder: Path, tmp_path: Path
) -> None:
    from danlu.model.checkpoint import save_model

    save_model(tmp_path / "model", tiny_model(), tiny_tokenizer_folder, list(tiny_tokenizer.stop_ids), None)
    process = subprocess.Popen(
        [sys.executable, "-m", "danlu.cli", "serve", str(tmp_path / "model"), "--port", "0", "--no-page"],
        stderr=subprocess.PIPE, env={**ENVIRONMENT, "DANLU_API_KEY": "secret"}, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        found = re.search(r"http://\S+:\d+", process.stderr.readline())
        assert found
        asked = {"headers": {"Authorization": "Bearer secret"}, "json": {**body_of(TEXT, "hi"), "model": "model"}}
        assert httpx.post(found[0] + TEXT, **asked).status_code == 200
        assert httpx.post(found[0] + TEXT, json=asked["json"]).status_code == 401
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.communicate()


def test_an_address_in_use_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with open_socket("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", str(tmp_path), "--port", port]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert port in said
    assert "--port" in said


def test_events_are_sent_at_once() -> None:
    """asyncio asks for that where it knows a socket to be TCP, by its protocol's number."""
    with open_socket("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize("host", ["256.0.0.1", "no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_one_line(host: str) -> None:
    with pytest.raises(UserError, match="cannot listen"):
        open_socket(host, 0)


@pytest.mark.parametrize("way", ["option", "environment"])
def test_an_empty_key_does_not_open_the_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str
) -> None:
    monkeypatch.setenv("DANLU_API_KEY", "" if way == "environment" else "key")
    options = ["--api-key", " "] if way == "option" else []
    assert main(["serve", str(tmp_path), "--port", "0", *options]) == 1
    assert "the key is empty" in capsys.readouterr().err


def test_a_folder_without_a_model_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["serve", str(tmp_path / "nothing"), "--port", "0"]) == 1
    assert "no such model folder" in capsys.readouterr().err


def test_a_length_that_the_model_has_not_is_one_line(
    capsys: pytest.CaptureFixture[str], tiny_model: "Callable[..., Transformer]", tiny_tokenizer: Tokenizer,
    tiny_tokenizer_folder: Path, tmp_path: Path,
) -> None:  # fmt: skip
    save_model(tmp_path / "model", tiny_model(), tiny_tokenizer_folder, list(tiny_tokenizer.stop_ids), 0)
    assert main(["serve", str(tmp_path / "model"), "--port", "0", "--max-length", "100000"]) == 1
    assert "--max-length: the model reads 64 tokens, not 100000" in capsys.readouterr().err


def test_a_head_must_come_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(danlu.serving.server, "HEAD_SECONDS", 0.6)
    tokenizer = scripted_tokenizer()
    with served(ScriptedModel(tokenizer), tokenizer) as server:
        server.model.delay = 0.02
        with connected(server) as silent, connected(server) as half, connected(server) as answered:
            half.sendall(b"GET /health HTTP/1.1\r\nHost: 127")
            started = time.monotonic()
            answered.sendall(request_bytes(CHAT, body_of(CHAT, "count", max_tokens=60)))
            for connection in (silent, half):
                with contextlib.suppress(ConnectionResetError):
                    assert connection.recv(100) == b""
            assert time.monotonic() - started < 5
            received = b""
            while piece := answered.recv(65536):
                received += piece
                if b'"finish_reason":"length"' in received:
                    break
            assert b'"finish_reason":"length"' in received, "an answer may take its time"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_addresses(host: str) -> None:
    assert is_loopback(host)
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("example.org")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_rows", 0),
        ("max_waiting", 0),
        ("max_length", 1),
        ("port", 70000),
        ("port", -1),
        ("body_seconds", 0),
        ("drain_seconds", -1),
        ("drain_seconds", float("nan")),
        ("max_body_bytes", 0),
    ],
)
def test_impossible_values_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        ServeConfig(model=Path("m"), **{name: value})  # type: ignore[arg-type]

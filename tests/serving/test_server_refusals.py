"""What the server refuses: always OpenAI's shape, always the field's name, and it stays up."""

import base64
import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from scripted_model import ScriptedModel, Served, scripted_tokenizer, served, wait_for

from danlu.run.errors import UserError

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PATHS = pytest.mark.parametrize("path", [CHAT, TEXT])
MESSAGES = [{"role": "user", "content": "hi"}]
STRICT_BODY = {"model": "tiny", "messages": MESSAGES, "prompt": "hi"}


def refused(answer: httpx.Response, status: int, param: str | None = None) -> str:
    """The message of a refusal in the right shape that names the field."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    (error,) = answer.json().values()
    assert list(answer.json()) == ["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert error["param"] == param, error
    assert error["message"]
    if param:
        assert error["message"].startswith(param), "the message does not name the field"
    return str(error["message"])


def body(path: str, **changed: Any) -> dict[str, Any]:
    left_out = "prompt" if path == CHAT else "messages"
    return {name: value for name, value in {**STRICT_BODY, **changed}.items() if name != left_out}


EITHER: list[tuple[str, Any, str]] = [
    ("n", 0, "n"),
    ("n", -1, "n"),
    ("n", 9, "n"),
    ("n", 10**30, "n"),
    ("n", 1.5, "n"),
    ("n", "2", "n"),
    ("n", True, "n"),
    ("max_tokens", 0, "max_tokens"),
    ("max_tokens", -5, "max_tokens"),
    ("max_tokens", 600, "max_tokens"),
    ("max_tokens", 10**18, "max_tokens"),
    ("temperature", -0.1, "temperature"),
    ("temperature", 2.1, "temperature"),
    ("temperature", "hot", "temperature"),
    ("temperature", False, "temperature"),
    ("top_p", 1.1, "top_p"),
    ("top_p", -1, "top_p"),
    ("top_k", -1, "top_k"),
    ("top_k", 10**30, "top_k"),
    ("seed", 2**63, "seed"),
    ("seed", 0.5, "seed"),
    ("stop", "", "stop"),
    ("stop", ["a", ""], "stop[1]"),
    ("stop", ["a"] * 17, "stop"),
    ("stop", 5, "stop"),
    ("stop", [5], "stop[0]"),
    ("stop_token_ids", [-1], "stop_token_ids[0]"),
    ("stop_token_ids", 3, "stop_token_ids"),
    ("stop_token_ids", [10**6], "stop_token_ids"),
    ("stream", "yes", "stream"),
    ("stream", 1, "stream"),
    ("stream_options", {"include_usage": True}, "stream_options"),
    ("stream_options", {"what": 1}, "stream_options.what"),
    ("presence_penalty", 0.5, "presence_penalty"),
    ("frequency_penalty", -2, "frequency_penalty"),
    ("logit_bias", {"5": 1}, "logit_bias"),
    ("user", 5, "user"),
    ("model", None, "model"),
    ("model", 5, "model"),
    ("min_p", 0.1, "min_p"),
    ("repetition_penalty", 1.1, "repetition_penalty"),
    ("content", "a known word in the wrong place", "content"),
    ("x" * 500, 1, "x" * 100),
]

IN_CHATS: list[tuple[str, Any, str]] = [
    ("messages", None, "messages"),
    ("messages", [], "messages"),
    ("messages", "hi", "messages"),
    ("messages", {}, "messages"),
    ("messages", [5], "messages[0]"),
    ("messages", [{}], "messages[0].role"),
    ("messages", [{"content": "hi"}], "messages[0].role"),
    ("messages", [{"role": "user"}], "messages[0].content"),
    ("messages", [{"role": "user", "content": None}], "messages[0].content"),
    ("messages", [{"role": "user", "content": 5}], "messages[0].content"),
    ("messages", [{"role": "user", "content": []}], "messages[0].content"),
    ("messages", [{"role": "user", "content": ["hi"]}], "messages[0].content[0]"),
    ("messages", [{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    ("messages", [{"role": "user", "content": [{"type": "text", "text": None}]}], "messages[0].content[0].text"),
    ("messages", [*MESSAGES, {"role": "king", "content": "hi"}], "messages[1].role"),
    ("messages", [{"role": "user", "content": "hi", "name": "Ann"}], "messages[0].name"),
    ("messages", [{"role": "user", "content": "hi", "mood": "gay"}], "messages[0].mood"),
    ("messages", [{"role": "user", "content": "hi", "tool_calls": []}], "messages[0].tool_calls"),
    ("messages", [{"role": "user", "content": "hi", "tool_call_id": "1"}], "messages[0].tool_call_id"),
    ("messages", [{"role": "assistant", "content": None, "function_call": {}}], "messages[0].function_call"),
    ("messages", [{"role": "user", "content": "长" * 600}], "messages"),
    ("top_logprobs", 3, "top_logprobs"),
    ("logprobs", 3, "logprobs"),
    ("max_completion_tokens", 600, "max_completion_tokens"),
    ("tools", [{"type": "function", "function": {"name": "f"}}], "tools"),
    ("tool_choice", "required", "tool_choice"),
    ("tool_choice", {"type": "function", "function": {"name": "f"}}, "tool_choice"),
    ("functions", [{"name": "f"}], "functions"),
    ("response_format", {"type": "json_object"}, "response_format"),
    ("response_format", {"type": "json_schema", "json_schema": {}}, "response_format"),
    ("modalities", ["text", "audio"], "modalities"),
    ("audio", {"voice": "alloy"}, "audio"),
    ("prediction", {"type": "content", "content": "x"}, "prediction"),
    ("store", True, "store"),
    ("service_tier", "flex", "service_tier"),
    ("reasoning_effort", "high", "reasoning_effort"),
    ("verbosity", "low", "verbosity"),
    ("web_search_options", {}, "web_search_options"),
    ("metadata", {"a": 1}, "metadata"),
    ("echo", True, "echo"),
    ("prompt", None, ""),
]

IN_TEXTS: list[tuple[str, Any, str]] = [
    ("prompt", None, "prompt"),
    ("prompt", "", "prompt"),
    ("prompt", [], "prompt"),
    ("prompt", [""], "prompt"),
    ("prompt", ["hi", ""], "prompt"),
    ("prompt", [[]], "prompt[0]"),
    ("prompt", [1, "a"], "prompt[1]"),
    ("prompt", [-1], "prompt[0]"),
    ("prompt", [10**6], "prompt"),
    ("prompt", [[1], [10**6]], "prompt"),
    ("prompt", [1.5], "prompt[0]"),
    ("prompt", {"text": "hi"}, "prompt"),
    ("prompt", "长" * 600, "prompt"),
    ("prompt", ["hi", "长" * 600], "prompt"),
    ("prompt", ["hi"] * 21, "prompt"),
    ("logprobs", 21, "logprobs"),
    ("logprobs", -1, "logprobs"),
    ("logprobs", True, "logprobs"),
    ("echo", True, "echo"),
    ("suffix", "end", "suffix"),
    ("best_of", 2, "best_of"),
    ("messages", MESSAGES, ""),
]


def case_names(case: tuple[str, Any, str]) -> str:
    return f"{case[0][:30]}={json.dumps(case[1])[:40]}"


@PATHS
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", EITHER, ids=case_names)
def test_a_wrong_value_is_refused_by_name(server: Served, path: str, stream: bool, case: tuple[str, Any, str]) -> None:
    name, value, param = case
    changed = {"stream": stream, name: value}
    if name == "stream_options":
        changed["stream"] = False
    refused(server.client.post(path, json=body(path, **changed)), 400, param)


@pytest.mark.parametrize("case", IN_CHATS, ids=case_names)
def test_a_wrong_chat_is_refused_by_name(server: Served, case: tuple[str, Any, str]) -> None:
    name, value, param = case
    sent = {"model": "tiny", "messages": MESSAGES, name: value}
    refused(server.client.post(CHAT, json=sent), 400, param or name)


def test_a_field_of_the_other_endpoint_is_not_known(server: Served) -> None:
    chat = server.client.post(CHAT, json={"model": "tiny", "messages": MESSAGES, "echo": False})
    assert "not known" in refused(chat, 400, "echo")
    text = server.client.post(TEXT, json={"model": "tiny", "prompt": "hi", "tools": []})
    assert "not known" in refused(text, 400, "tools")


@pytest.mark.parametrize("case", IN_TEXTS, ids=case_names)
def test_a_wrong_text_request_is_refused_by_name(server: Served, case: tuple[str, Any, str]) -> None:
    name, value, param = case
    refused(server.client.post(TEXT, json={"model": "tiny", "prompt": "hi", name: value}), 400, param or name)


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}, "messages[0].content[1].type"),
        ({"type": "input_audio", "input_audio": {}}, "messages[0].content[1].type"),
        ({"type": "text", "text": "a", "cache_control": {}}, "messages[0].content[1].cache_control"),
    ],
)
def test_a_part_that_is_not_text_is_refused(server: Served, part: dict[str, Any], param: str) -> None:
    refused(server.chat([{"type": "text", "text": "what is this?"}, part]), 400, param)


@PATHS
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("presence_penalty", 0.0),
        ("frequency_penalty", 0),
        ("logit_bias", {}),
        ("logit_bias", None),
        ("user", "ann"),
        ("n", None),
        ("seed", None),
        ("stop", None),
        ("stop_token_ids", []),
        ("temperature", None),
        ("stream", None),
        ("stream_options", None),
    ],
    ids=str,
)
def test_a_value_that_means_nothing_is_taken(server: Served, path: str, name: str, value: Any) -> None:
    assert server.client.post(path, json=body(path, **{name: value})).status_code == 200


@pytest.mark.parametrize(
    "neutral",
    [
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": True, "functions": []},
        {"response_format": {"type": "text"}, "modalities": ["text"], "store": False, "metadata": {"a": "b"}},
        {"service_tier": "auto", "reasoning_effort": None, "audio": None, "top_logprobs": None, "logprobs": False},
        {"max_tokens": 5, "max_completion_tokens": 5},
    ],
    ids=str,
)
def test_a_chat_with_neutral_values_is_answered(server: Served, neutral: dict[str, Any]) -> None:
    assert server.chat("hi", **neutral).status_code == 200


@pytest.mark.parametrize("neutral", [{"echo": False, "suffix": ""}, {"best_of": 1}, {"n": 2, "best_of": 2}], ids=str)
def test_a_text_with_neutral_values_is_continued(server: Served, neutral: dict[str, Any]) -> None:
    assert server.ask(TEXT, prompt="hi", **neutral).status_code == 200


def test_two_names_of_one_limit_must_agree(server: Served) -> None:
    refused(server.chat("hi", max_tokens=5, max_completion_tokens=6), 400, "max_tokens")


@PATHS
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"5",
        b"[]",
        b'"text"',
        b'{"model": "tiny",}',
        b"\xff\xfe",
        b'{"model": "tiny", "prompt": "\xe4\xbd"}',
        '{"model": "tiny"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"model": "tiny"}',
        b'{"model": "tiny", "temperature": NaN}',
        b'{"model": "tiny", "temperature": Infinity}',
        b'{"model": "tiny", "temperature": -Infinity}',
        b'{"model": "tiny", "prompt": "hi", "temperature": 1e999}',
        b'{"model": "tiny", "prompt": "hi", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"model": ' + b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"model": "tiny", "\\ud800": 1, "prompt": "hi", "messages": []}',
        b"model=tiny&prompt=hi",
        b'{"model": "tiny", "prompt": "hi", "n": 1, "messages": [], "n": 2}',
        b'{"model": "tiny", "\\ud800": 1, "\\ud800": 2}',
    ],
    ids=lambda content: repr(content[:40]),
)
def test_a_body_that_is_not_a_request_is_refused(server: Served, path: str, content: bytes) -> None:
    answer = server.client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    refused(answer, 400, answer.json()["error"]["param"])
    assert server.client.get("/health").json()["status"] == "ok"


@PATHS
@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/json5"])
def test_a_body_must_say_that_it_is_json(server: Served, path: str, kind: str | None) -> None:
    """A page elsewhere can make a browser send these without asking first."""
    content = json.dumps(body(path)).encode()
    answer = server.client.post(path, content=content, headers={} if kind is None else {"Content-Type": kind})
    refused(answer, 415)


def test_no_page_elsewhere_is_given_leave(server: Served) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answers = [server.client.options(CHAT, headers=asked), server.client.get("/v1/models", headers=asked)]
    assert not [name for answer in answers for name in answer.headers if name.startswith("access-control")]
    refused(answers[0], 405)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "testserver", ""])
def test_a_foreign_name_for_this_machine_is_refused(server: Served, host: str) -> None:
    refused(server.client.get("/v1/models", headers={"Host": host}), 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.8.8.8:1", "127.0.0.1:8000", "[::1]:8000", "[::1]"])
def test_loopback_names_are_answered(server: Served, host: str) -> None:
    assert server.client.get("/v1/models", headers={"Host": host}).status_code == 200


@PATHS
def test_another_model_is_not_found(server: Served, path: str) -> None:
    answer = server.client.post(path, json=body(path, model="gpt-4"))
    refused(answer, 404, "model")
    assert answer.json()["error"]["code"] == "model_not_found"
    refused(server.client.get("/v1/models/gpt-4"), 404, "model")


def test_routes_that_are_not_there(server: Served) -> None:
    refused(server.client.get("/v1/nothing"), 404)
    refused(server.client.get(CHAT), 405)


def test_a_body_that_is_too_large_is_refused(server: Served) -> None:
    """10 MB, with the length said before and in chunks without one."""
    large = json.dumps(body(CHAT, messages=[{"role": "user", "content": "a" * 10_000_000}])).encode()
    headers = {"Content-Type": "application/json"}
    pieces = (large[start : start + 100_000] for start in range(0, len(large), 100_000))
    for content in (large, pieces):
        # A connection that is closed under a client that goes on sending may lose the answer: TCP's way, not ours.
        with contextlib.suppress(httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            refused(server.client.post(CHAT, content=content, headers=headers), 413)
    assert server.client.get("/health").status_code == 200


@PATHS
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", [UserError("the model's logits are not finite"), RuntimeError("secret detail")])
def test_an_engine_that_fails_is_a_500_and_the_next_request_works(
    server: Served, path: str, stream: bool, error: Exception
) -> None:
    server.model.fail_with = error
    message = refused(server.client.post(path, json=body(path, stream=stream)), 500)
    assert ("finite" in message) == isinstance(error, UserError)
    assert "secret" not in message
    server.model.fail_with = None
    assert server.client.post(path, json=body(path)).status_code == 200


@PATHS
def test_a_failure_in_the_middle_is_the_last_event(server: Served, path: str) -> None:
    server.model.delay = 0.01
    counting = {"messages": [{"role": "user", "content": "count"}], "prompt": "count"}
    with server.client.stream("POST", path, json=body(path, stream=True, **counting)) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        server.model.fail_with = RuntimeError("secret detail")
        rest = [line.removeprefix("data: ") for line in lines if line]
    assert json.loads(rest[-1])["error"]["code"] == "internal_error"
    assert "secret" not in rest[-1]


@PATHS
@pytest.mark.parametrize("stream", [False, True])
def test_too_many_that_wait_are_told_when_to_come_again(path: str, stream: bool) -> None:
    tokenizer = scripted_tokenizer()
    with served(ScriptedModel(tokenizer), tokenizer, max_rows=1, max_waiting=1) as server:
        server.model.delay = 0.02
        running, waiting = (httpx.Client(base_url=server.url, timeout=30) for _ in range(2))
        long = body(TEXT, prompt="count", stream=True, max_tokens=30)
        with running.stream("POST", TEXT, json=long), ThreadPoolExecutor(1) as pool:
            second = pool.submit(waiting.post, path, json=body(path, stream=stream))
            wait_for(lambda: server.batcher.num_waiting == 1)
            answer = server.client.post(path, json=body(path, stream=stream))
            refused(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
            assert second.result().status_code == 200


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("name", "item"),
    [("messages", "1"), ("messages", "{}"), ("prompt", "-1"), ("prompt", '""'), ("prompt", "1"), ("stop", '""')],
)
def test_a_million_mistakes_are_refused_at_the_first(server: Served, path: str, name: str, item: str) -> None:
    """Told one by one they took a minute and gigabytes."""
    content = f'{{"model": "tiny", "{name}": [{",".join([item] * 1_000_000)}]}}'
    started = time.monotonic()
    answer = server.client.post(path, content=content, headers={"Content-Type": "application/json"})
    refused(answer, 400, answer.json()["error"]["param"])
    assert len(answer.text) < 1000
    assert time.monotonic() - started < 5


def test_an_object_of_many_fields_is_refused_at_once(server: Served) -> None:
    answer = server.client.post(TEXT, json={f"field {number}": 1 for number in range(100_000)})
    refused(answer, 400)


KEY = "k3y-\u4f60"


@pytest.fixture(scope="module")
def locked() -> Iterator[Served]:
    """A server that asks for a key."""
    tokenizer = scripted_tokenizer()
    with served(ScriptedModel(tokenizer), tokenizer, api_key=KEY) as server:
        yield server


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"danlu:{password}".encode()).decode()


@pytest.mark.parametrize("path", ["/v1/models", "/openapi.json", "/", "/v1/nothing", CHAT])
@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer wrong", f"Token {KEY}", basic("wrong"), "Basic !", "Basic /w==", "Bearer \xff"],
    ids=str,
)
def test_without_the_key_every_route_is_closed(locked: Served, path: str, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given.encode()}
    for method in ("GET", "POST"):
        answer = locked.client.request(method, path, headers=headers)
        refused(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Basic")


@pytest.mark.parametrize("given", [f"Bearer {KEY}", f"bearer {KEY}", basic(KEY)], ids=["Bearer", "bearer", "Basic"])
def test_the_key_opens_every_route(locked: Served, given: str) -> None:
    headers = {"Authorization": given.encode()}
    assert locked.client.get("/v1/models", headers=headers).status_code == 200
    assert locked.client.post(CHAT, json=body(CHAT), headers=headers).status_code == 200


def test_health_needs_no_key(locked: Served) -> None:
    assert locked.client.get("/health").status_code == 200


def test_a_large_body_without_the_key_is_not_read(locked: Served) -> None:
    # The head alone: the answer comes before any of the body is sent.
    address = httpx.URL(locked.url)
    connection = http.client.HTTPConnection(address.host, address.port, timeout=10)
    connection.putrequest("POST", CHAT)
    connection.putheader("Content-Length", "3000000")
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 401
    assert json.loads(answer.read())["error"]["code"] == "invalid_api_key"
    connection.close()

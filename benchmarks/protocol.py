"""What clients rely on of an OpenAI-compatible server, item by item, so that two servers can be held side by side.

    python benchmarks/protocol.py --url http://127.0.0.1:8000 --model NAME
    python benchmarks/protocol.py --url http://127.0.0.1:8080 --model NAME --json FILE      # any other server

Each item is asked with the official client, litellm, or by hand where no client would send such a thing. Printed as
JSON: `ok` or what came instead, item by item; the exit status is 1 if an item fails. The model may be any that
continues `PROMPT` by `LONG` tokens. Needs the `eval` extra, and litellm for one item.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import tyro
from side_by_side import report

PROMPT = "The river was cold and clear, so we walked along"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
LONG = 24
"""Tokens of most replies."""


@dataclass(frozen=True, kw_only=True)
class Checklist:
    """Which server."""

    url: str
    """Its address, without `/v1`."""

    model: str
    """Name that it knows its model by."""

    rows: int = 8
    """Chats sent at once."""

    json: Path | None = None
    """File for the results, beside standard output."""


class Server:
    """How the items ask."""

    def __init__(self, config: Checklist) -> None:
        self.url, self.model, self.rows = config.url, config.model, config.rows
        self.http = httpx.Client(base_url=self.url, timeout=120)
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)

    def text(self, prompt: str = PROMPT, **more: Any) -> Any:
        """A greedy completion."""
        values: dict[str, Any] = {"temperature": 0, "max_tokens": LONG, **more}
        return self.client.completions.create(model=self.model, prompt=prompt, **values)

    def chat(self, prompt: str = PROMPT, **more: Any) -> Any:
        """A greedy chat."""
        values: dict[str, Any] = {"temperature": 0, "max_tokens": LONG, **more}
        turns: Any = [{"role": "user", "content": prompt}]
        return self.client.chat.completions.create(model=self.model, messages=turns, **values)

    def post(self, body: Any, path: str = CHAT) -> httpx.Response:
        """Anything at all: bytes as they are, else JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.post(path, content=content, headers={"Content-Type": "application/json"})

    def refusal(self, status: int | tuple[int, ...] = 400, path: str = CHAT, **fields: Any) -> str:
        """Empty if a chat with these fields is refused so, in OpenAI's shape."""
        given = {"messages": [{"role": "user", "content": PROMPT}]} if path == CHAT else {"prompt": PROMPT}
        return refused(self.post({"model": self.model, "max_tokens": 4, **given, **fields}, path), status)


def refused(answer: httpx.Response, status: int | tuple[int, ...] = 400) -> str:
    """Empty if an answer is a refusal of such a status with an error object that has a message; else what it is."""
    wanted = (status,) if isinstance(status, int) else status
    if answer.status_code not in wanted:
        return f"{answer.status_code}: {answer.text[:80]!r}"
    try:
        return "" if isinstance(answer.json()["error"]["message"], str) else "the error has no message"
    except (ValueError, KeyError, TypeError):
        return f"not OpenAI's shape: {answer.text[:80]!r}"


def expect(*conditions: tuple[Any, str]) -> str:
    """The first that does not hold; empty if all do."""
    return next((wrong for holds, wrong in conditions if not holds), "")


ITEMS: dict[str, Callable[[Server], str]] = {}


def item(name: str) -> Callable[[Callable[[Server], str]], Callable[[Server], str]]:
    """Put a check on the list; it gives what is wrong, or an empty text."""

    def put(check: Callable[[Server], str]) -> Callable[[Server], str]:
        ITEMS[name] = check
        return check

    return put


@item("the model is listed, and health answers")
def _(server: Server) -> str:
    names = [model.id for model in server.client.models.list()]
    return expect((server.model in names, f"only {names}"), (server.http.get("/health").is_success, "no /health"))


@item("usage adds up, and a reply cut by max_tokens says length")
def _(server: Server) -> str:
    reply = server.text()
    usage = reply.usage
    return expect(
        (usage.completion_tokens == LONG, f"{usage.completion_tokens} tokens instead of {LONG}"),
        (usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, "the sum is wrong"),
        (reply.choices[0].finish_reason == "length", reply.choices[0].finish_reason),
    )


@item("a stream says what the whole reply says, and ends with its usage")
def _(server: Server) -> str:
    whole = server.chat()
    *chunks, last = server.chat(stream=True, stream_options={"include_usage": True})
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    return expect(
        ("".join(pieces) == whole.choices[0].message.content, "other text"),
        (reasons == [whole.choices[0].finish_reason], f"reasons {reasons}"),
        (not last.choices and last.usage, "no usage in the last chunk"),
        (last.usage and last.usage.completion_tokens == whole.usage.completion_tokens, "another usage"),
    )


@item("a stop string ends the text before it")
def _(server: Server) -> str:
    whole = server.text().choices[0].text
    stop = whole[len(whole) // 2 :][:1] or " "
    reply = server.text(stop=stop).choices[0]
    return expect(
        (reply.text == whole.partition(stop)[0], f"{reply.text!r}"), (reply.finish_reason == "stop", "no stop")
    )


@item("a stop string split over tokens ends a stream before it")
def _(server: Server) -> str:
    choice = server.chat(logprobs=True).choices[0]
    tokens = [entry.token for entry in choice.logprobs.content]
    stop, whole = tokens[4][-1:] + tokens[5][:1], choice.message.content
    chunks = server.chat(stop=[stop], stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return expect((text == whole.partition(stop)[0], f"{text!r} for the stop {stop!r} in {whole!r}"))


@item("a seed gives the same text again, whatever else is answered beside it")
def _(server: Server) -> str:
    def drawn(seed: int) -> str:
        return server.text(temperature=1, seed=seed).choices[0].text

    alone = [drawn(seed) for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        beside = list(pool.map(drawn, [0, 1, 2, 3, 7, 8, 9, 10]))
    return expect(
        (beside[:4] == alone, "other texts beside others"), (len(set(alone)) > 1, "every seed gives one text")
    )


@item("greedy chats at once give what each gives alone")
def _(server: Server) -> str:
    prompts = [f"{PROMPT} {number} " * (1 + number % 3) for number in range(server.rows)]

    def reply(prompt: str) -> Any:
        return server.chat(prompt).choices[0].message.content

    alone = [reply(prompt) for prompt in prompts]
    with ThreadPoolExecutor(server.rows) as pool:
        together = list(pool.map(reply, prompts))
    return expect((together == alone, f"{sum(map(str.__eq__, alone, together))} of {len(alone)} are the same"))


@item("n replies are told apart by their index")
def _(server: Server) -> str:
    choices = server.chat(n=3, temperature=1, seed=1).choices
    return expect(([choice.index for choice in choices] == [0, 1, 2], f"{len(choices)} choices"))


@item("logprobs: as many as tokens, which spell the text, the best first")
def _(server: Server) -> str:
    choice = server.chat(logprobs=True, top_logprobs=3).choices[0]
    entries = choice.logprobs.content if choice.logprobs else []
    spelt = b"".join(bytes(entry.bytes or entry.token.encode()) for entry in entries).decode(errors="replace")
    best = all(entry.logprob >= entry.top_logprobs[0].logprob - 1e-4 for entry in entries)
    return expect(
        (spelt == choice.message.content, f"{spelt[:60]!r}"),
        (best, "the greedy token is not the best of the alternatives"),
        (all(len(entry.top_logprobs) == 3 for entry in entries), "not 3 alternatives"),
    )


@item("several prompts in one request")
def _(server: Server) -> str:
    prompts = [PROMPT, f"{PROMPT} a road", PROMPT]
    answer = server.client.completions.create(model=server.model, prompt=prompts, temperature=0, max_tokens=8)
    texts = [choice.text for choice in sorted(answer.choices, key=lambda choice: choice.index)]
    return expect((len(texts) == 3, f"{len(texts)} replies"), (texts[:1] == texts[2:3], "one prompt, two texts"))


@item("special tokens in a message stay text")
def _(server: Server) -> str:
    def length(content: str) -> int:
        return server.chat(content, max_tokens=1).usage.prompt_tokens

    more = length("a<|im_end|>a<|im_end|>a") - length("aaa")
    return expect((more >= 6, f"two <|im_end|> are {more} tokens: read as control tokens"))


@item("litellm streams and completes")
def _(server: Server) -> str:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # Else it looks for prices on the internet.
    import litellm

    ask: dict[str, Any] = {
        "model": f"openai/{server.model}", "api_base": f"{server.url}/v1", "api_key": "none", "temperature": 0,
        "max_tokens": LONG, "messages": [{"role": "user", "content": PROMPT}],
    }  # fmt: skip
    whole = litellm.completion(**ask).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**ask, stream=True)]
    return expect(("".join(pieces) == whole, "the stream says something else"))


REFUSED: dict[str, dict[str, Any]] = {
    "a misspelled field": {"max_token": 5},
    "a temperature that is a text": {"temperature": "hot"},
    "a negative temperature": {"temperature": -1},
    "a huge n": {"n": 10**6},
    "top_logprobs over the limit": {"logprobs": True, "top_logprobs": 10**6},
    "top_logprobs without logprobs": {"top_logprobs": 3},
    "a negative max_tokens": {"max_tokens": -7},
    "max_tokens beyond what the model reads": {"max_tokens": 10**7},
    "no messages": {"messages": []},
    "an unknown role": {"messages": [{"role": "emperor", "content": "hi"}]},
    "messages that are no list": {"messages": "hi"},
    "a prompt that does not fit": {"messages": [{"role": "user", "content": f"{PROMPT} " * 20_000}]},
    "an image to a model of text": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}
        ]
    },
    "a stop that is a number": {"stop": 5},
}
"""Fields of a chat that must be a 400, never be taken and ignored."""


def _refusal_item(name: str, fields: dict[str, Any]) -> None:
    item(f"{name} is a 400")(lambda server: server.refusal(**fields))


for _name, _fields in REFUSED.items():
    _refusal_item(_name, _fields)


@item("another model's name is a 404")
def _(server: Server) -> str:
    return server.refusal((400, 404), model="no-such-model")


@item("malformed JSON, NaN and invalid UTF-8 are 400s")
def _(server: Server) -> str:
    head = b'{"model": "' + server.model.encode() + b'", "max_tokens": 4, "messages": [{"role": "user", "content": "hi'
    bodies = {
        "malformed": head,
        "NaN": head + b'"}], "temperature": NaN}',
        "UTF-8": head + b'\xff\xfe"}]}',
    }
    wrong = {name: refused(server.post(body)) for name, body in bodies.items()}
    return expect(*((not said, f"{name}: {said}") for name, said in wrong.items()))


@item("half of a surrogate pair is refused or read as U+FFFD")
def _(server: Server) -> str:
    turns = [{"role": "user", "content": f"{PROMPT} \ud800"}]
    answer = server.post({"model": server.model, "max_tokens": 4, "messages": turns})
    return "" if answer.is_success else refused(answer)


@item("a body of 10 MB is refused")
def _(server: Server) -> str:
    return server.refusal((400, 413), messages=[{"role": "user", "content": "a" * 10_000_000}])


@item("clients that vanish free their rows at once")
def _(server: Server) -> str:
    seconds, streams = time.monotonic(), []
    server.text(max_tokens=4)
    usual = time.monotonic() - seconds
    for _ in range(server.rows):
        streams.append(server.text(stream=True, max_tokens=160))
    for stream in streams:
        next(iter(stream))
        stream.close()
    seconds = time.monotonic()
    server.text(max_tokens=4)
    took = time.monotonic() - seconds
    return expect((took < 10 * usual + 1, f"the next reply took {took:.1f} s, {usual:.1f} s on an idle server"))


@item("a client that sends a byte a second holds nobody up")
def _(server: Server) -> str:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 80)) as slow:
        slow.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 100\r\n\r\n".encode())
        for byte in b"{ ":
            slow.sendall(bytes([byte]))
            started = time.monotonic()
            server.text(max_tokens=1)
            if time.monotonic() - started > 10:
                return "another request waited"
            time.sleep(1)
    return ""


def checked(name: str, server: Server) -> str:
    """What is wrong with an item; an exception is the server's too."""
    try:
        return ITEMS[name](server)
    except (ImportError, openai.OpenAIError, httpx.HTTPError, AttributeError, LookupError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def main(config: Checklist) -> None:
    """Go through the list."""
    server, results = Server(config), {}
    for name in ITEMS:
        results[name] = " ".join(checked(name, server).split())[:160]
        print(
            f"{'ok  ' if not results[name] else 'FAIL'} {name}{': ' * bool(results[name])}{results[name]}",
            file=sys.stderr,
        )
    failed = sum(map(bool, results.values()))
    report(
        {"items": len(results), "failed": failed, "results": {k: v or "ok" for k, v in results.items()}}, config.json
    )
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(tyro.cli(Checklist, description=__doc__))

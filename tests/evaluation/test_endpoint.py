"""Any OpenAI-compatible endpoint is asked what a local model is asked; what it refuses ends the run in one
line, but a prompt that is too long."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
pytest.importorskip("openai", reason="openai is not installed")

from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM

from danlu.evaluation.harness.endpoint import EndpointLM
from danlu.evaluation.harness.prompt import FewShotPrompt
from danlu.run.errors import UserError

WANTED = {"until": ["STOP", "##", "@@", "%%", "END"], "max_gen_toks": 5, "temperature": 0.0}


TOO_LONG: list[tuple[int, dict[str, Any]]] = [
    (400, {"error": {"message": "max_tokens: 5 and the prompt's 300 tokens are more than the model's 256",
                     "type": "invalid_request_error", "param": "max_tokens", "code": "context_length_exceeded"}}),
    (400, {"error": {"code": 400, "message": "request (300 tokens) exceeds the available context size (256 tokens)",
                     "type": "exceed_context_size_error", "n_prompt_tokens": 300}}),
    (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 3000",
           "error_type": "validation"}),
]  # fmt: skip
"""How our server, llama.cpp's and TGI say it."""


class Scripted(BaseHTTPRequestHandler):
    """Answers with the last thing it was asked and notes every request; refuses the model `none`."""

    seen: list[tuple[str, dict[str, Any]]]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, asked))  # type: ignore[attr-defined]
        if asked["model"] == "odd":
            self._send(200, {"choices": []})
        elif asked["model"] == "small" and asked["max_tokens"] > 5:
            self._send(*TOO_LONG[0])
        elif asked["model"] == "capped":
            self._send(400, {"error": {"message": "max_tokens is too large: 5. This model supports at most 4"}})
        elif asked["model"] == "none":
            self._send(400, {"error": {"message": "no such model", "type": "invalid_request_error"}})
        elif len(json.dumps(asked)) > 1000:
            self._send(*TOO_LONG[len(self.server.seen) % len(TOO_LONG)])  # type: ignore[attr-defined]
        elif "messages" in asked:
            said = f"you said {asked['messages'][-1]['content']} END more"
            self._send(200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]})
        else:
            reason = "length" if "long" in asked["prompt"] else "stop"
            text = f"after {asked['prompt'][-3:]}"
            self._send(200, {"choices": [{"index": 0, "text": text, "finish_reason": reason}]})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[Any]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    served.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()


def address(server: Any) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"


def asked(prompts: list[str]) -> list[Instance]:
    return [Instance("generate_until", {}, (p, dict(WANTED)), 0, ("t", n, 1)) for n, p in enumerate(prompts)]


def test_a_chat_goes_as_messages_and_is_cut_at_every_stop(server: Any) -> None:
    prompts = [FewShotPrompt("Do it. ", [("one?", " 1")], f"{n}?", chat=True) for n in range(12)]
    replies = EndpointLM(address(server), "m", chat=True).generate_until(asked(list(prompts)))
    assert replies == [f"you said {n}? " for n in range(12)], "in the prompts' order, cut at the fifth stop too"
    path, body = server.seen[0]
    assert path == "/v1/chat/completions"
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert body["stop"] == ["STOP", "##", "@@", "%%"]
    assert (body["max_tokens"], body["temperature"]) == (5, 0.0)


def test_a_plain_prompt_goes_as_text(server: Any) -> None:
    assert EndpointLM(address(server), "m", chat=False).generate_until(asked(["Q: xyz"])) == ["after xyz"]
    assert server.seen[0][0] == "/v1/completions"


def test_a_reply_that_ended_at_its_length_says_so(server: Any) -> None:
    lm = EndpointLM(address(server), "m", chat=False)
    assert [reply.is_cut for reply in lm.generate_until(asked(["Q: xyz", "long: xyz"]))] == [False, True]


def test_a_refusal_is_one_line_that_names_the_endpoint(server: Any) -> None:
    with pytest.raises(UserError, match=f"{address(server)}: the endpoint refuses or does not answer: .*no such model"):
        EndpointLM(address(server), "none", chat=True).generate_until(asked(["a"]))


def test_likelihoods_are_not_made_up(server: Any) -> None:
    with pytest.raises(UserError, match="no likelihoods"):
        EndpointLM(address(server), "m", chat=False).loglikelihood([])


def test_a_prompt_that_is_too_long_loses_examples_and_is_counted(server: Any, tmp_path: Path) -> None:
    lm = EndpointLM(address(server), "m", chat=True)
    cached = CachingLM(lm, str(tmp_path / "requests.db"))
    prompts = [
        FewShotPrompt("Do it. ", [("a" * 500, " 1"), ("b" * 500, " 2"), ("c?", " 3")], "d?", chat=True),
        FewShotPrompt("", [("a?", " 1")], "e" * 2000, chat=True),
        FewShotPrompt("", [("a?", " 1")], "f?", chat=True),
    ]
    for time in ("asked", "from the cache"):
        replies = cached.generate_until(asked(list(prompts)))
        assert replies == ["you said d? ", "", "you said f? "], time
        fitted = [reply.fitted(prompt) for reply, prompt in zip(replies, prompts, strict=True)]
        assert [each.num_examples for each in fitted] == [2, 0, 1], time
        assert [each.ids is None for each in fitted] == [False, True, False], time
    assert len(server.seen) == 5, "each was asked once, and once more for each example that did not fit"
    cached.dbdict.close()


def test_a_reply_may_be_shorter_where_the_window_is_small(server: Any) -> None:
    wanted = {**WANTED, "max_gen_toks": 64}
    lm = EndpointLM(address(server), "small", chat=False)
    (reply,) = lm.generate_until([Instance("generate_until", {}, ("Q: xyz", wanted), 0, ("t", 0, 1))])
    assert reply == ""
    assert reply.left_out is None, "16 tokens and more do not fit"
    assert [body["max_tokens"] for _, body in server.seen] == [64, 32, 16]


@pytest.mark.parametrize(("model", "said"), [("odd", "not of OpenAI's shape"), ("capped", "max_tokens is too large")])
def test_another_fault_is_no_long_prompt(server: Any, model: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        EndpointLM(address(server), model, chat=True).generate_until(asked(["a"]))

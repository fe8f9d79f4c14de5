"""A server with the page, whose model says what the page's tests need; see `scripted_model`."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from scripted_model import ScriptedModel, scripted_tokenizer, wait_for

from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Engine
from danlu.serving.app import make_app
from danlu.serving.batcher import Batcher
from danlu.serving.page import mount_page
from danlu.serving.server import DrainingServer, open_socket
from danlu.tokenizer.chat import parse_conversation

MARKUP = "#include <stdio.h> <b>x</b> <think>y</think> <img src=x onerror=alert(1)>"

ANSWERS = {
    "markup": f"{MARKUP}\n\n```c\n{MARKUP}\n```\n\n"
    f"  &lt;i&gt; [a](javascript:alert(2)) <script>alert(3)</script>\n{MARKUP}",
    "open fence": f"Look:\n```html\n{MARKUP}",
}


class PageModel(ScriptedModel):
    """Counts its answers to `which`, so that one can be told from the next."""

    def __init__(self, limit: int = 600) -> None:
        super().__init__(scripted_tokenizer(), limit)
        self.num_which = 0

    def reply(self, prompt_ids: list[int]) -> list[int]:
        said = parse_conversation(self.tokenizer, prompt_ids)[-1]["content"]
        if said == "which":
            self.num_which += 1
            return self.tokenizer.encode(f"answer {self.num_which}")
        return self.tokenizer.encode(ANSWERS[said]) if said in ANSWERS else super().reply(prompt_ids)

    def messages(self, number: int = -1) -> list[dict[str, str]]:
        """What a prompt said."""
        return parse_conversation(self.tokenizer, self.prompts[number])


def batcher_of(model: PageModel, max_rows: int = 4, max_waiting: int = 20) -> Batcher:
    engine = Engine.for_text(model, model.tokenizer, SamplingConfig(), max_rows, hide_special=True)  # type: ignore[arg-type]
    return Batcher(engine, max_waiting)


class PageServer:
    """A server in a thread, its `url` and its `model`."""

    def __init__(self, **options: Any) -> None:
        self.model = PageModel()
        self.batcher = batcher_of(self.model)
        app = make_app(self.batcher, self.model.tokenizer, "tiny <model>", **options)
        mount_page(app, self.batcher, self.model.tokenizer, "tiny <model>")
        listener = open_socket("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = uvicorn.Config(app, log_level="critical", access_log=False)
        self.server = DrainingServer(settings, self.batcher, drain_seconds=5.0)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()
        wait_for(lambda: self.server.started, 30)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()

    def wait_until_idle(self, seconds: float = 3) -> None:
        wait_for(lambda: self.batcher.num_running + self.batcher.num_waiting == 0, seconds)


@contextlib.contextmanager
def page_server(**options: Any) -> Iterator[PageServer]:
    """A server while inside."""
    server = PageServer(**options)
    try:
        yield server
    finally:
        server.close()

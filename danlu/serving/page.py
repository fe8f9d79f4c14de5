"""The page to chat with the model, on the server's own port: mounted at `/` beside the API.

Works without Gradio being installed as far as the import of this file: `mount_page` then says what is missing.
"""

import os
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danlu.run.errors import UserError
from danlu.serving.batcher import Batcher
from danlu.serving.errors import ApiError
from danlu.serving.guard import check_is_json
from danlu.serving.page_replies import Replies
from danlu.serving.page_style import CSS, FONT, HEAD, MONO
from danlu.tokenizer.bpe import Tokenizer

API_PATHS = ("/v1", "/health", "/openapi.json")
"""Paths, and all below them, whose errors are the API's."""

GRADIO_VALUES = {
    "GRADIO_ANALYTICS_ENABLED": "0",
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9),
}
"""What Gradio reads when it is imported and mounted: it reports nothing to its makers, and does not gather figures of
ten thousand events anew after each of them."""


def mount_page(app: FastAPI, batcher: Batcher, tokenizer: Tokenizer, model_name: str) -> None:
    """Serve the page at `/`, behind the app's guard. Raises UserError where Gradio is not installed."""
    os.environ.update(GRADIO_VALUES)
    try:
        import gradio as gr
    except ImportError as error:
        raise UserError("the page needs Gradio", mend="pip install 'danlu[web]'") from error
    from danlu.serving.page_layout import build_page

    blocks = build_page(Replies(batcher, tokenizer), model_name, batcher.max_length)
    theme = gr.themes.Soft(primary_hue="teal", neutral_hue="slate", font=FONT, font_mono=MONO, radius_size="lg")
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        head=HEAD + CSS,
    )
    mounted: Any = app.router.routes.pop()
    app.router.routes.append(PageMount("/", Gate(mounted.app)))


class PageMount(Mount):
    """Takes every path but the API's, whose unknown paths and methods are answered as before."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path = scope["path"]
        if any(path == api_path or path.startswith(f"{api_path}/") for api_path in API_PATHS):
            return Match.NONE, {}
        return super().matches(scope)


class Gate:
    """What the guard promises of every route, for Gradio's too: nothing but JSON is taken, so that no other site's
    page can post here and no file can be left here; and no CORS header, which Gradio would send, lets one read."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_alone(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", [])
                message["headers"] = [pair for pair in headers if not pair[0].lower().startswith(b"access-control-")]
            await send(message)

        if scope.get("method", "GET") not in ("GET", "HEAD", "OPTIONS"):
            try:
                check_is_json(Headers(scope=scope))
            except ApiError as refusal:
                await refusal.response()(scope, receive, send)
                return
        await self.app(scope, receive, send_alone)

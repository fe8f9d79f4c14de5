"""The page's parts and what they do, in Gradio. In: `Replies`. Out: `gr.Blocks`, to be mounted.

Gradio keeps nothing for a page between its messages, so that an idle page holds no connection open.
"""

import html
from collections.abc import AsyncGenerator
from typing import Any

import gradio as gr

from danlu.inference.config import SamplingConfig
from danlu.serving.page_replies import Message, Replies, View, most_tokens, sampling_of
from danlu.serving.page_script import DRAW, FOLD, KEEP, RESTORE, SPEAK
from danlu.serving.page_texts import ENGLISH, Texts, texts_for
from danlu.tokenizer.text import well_formed

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Of events that neither veil what they change nor show up in a list of functions."""

LOOK_SECONDS = 0.02
"""So often Gradio looks for new messages. Measured over ten seconds in which nobody asked anything: the server uses
2.5 % of a core, and 6.6 % where Gradio looks every millisecond, as it does by itself."""


def build_page(replies: Replies, model_name: str, limit: int) -> gr.Blocks:
    """The page of a model that reads `limit` tokens."""
    with gr.Blocks(title=model_name, analytics_enabled=False) as blocks:
        page = Page(replies, model_name, limit)
        blocks.load(None, [page.language, *page.kept], [page.language, *page.kept], js=RESTORE)
    blocks.queue(default_concurrency_limit=None)
    blocks._queue.sleep_when_free = LOOK_SECONDS
    return blocks


class Page:
    """The page's parts; made inside `gr.Blocks`."""

    def __init__(self, replies: Replies, model_name: str, limit: int) -> None:
        self.replies, self.model_name, self.limit = replies, model_name, limit
        with gr.Column(elem_id="page"):
            with gr.Row(elem_id="head"):
                self._add_head()
            with gr.Column(elem_id="settings"):
                self._add_settings()
            # Gradio's own chat would take what looks like markup for markup, even where it is told not to.
            self.chat = gr.HTML(
                [],
                html_template='<div class="log" role="log" aria-live="polite"></div>',
                js_on_load=DRAW,
                apply_default_css=False,
                elem_id="chat",
            )
            self.welcome = gr.HTML(_heading(ENGLISH.empty), elem_id="welcome")
            with gr.Row(elem_id="foot"):
                self.again = gr.Button(ENGLISH.again, elem_id="again", size="sm")
                self.notice = gr.HTML(visible=False, elem_id="notice")
            with gr.Row(elem_id="entry"):
                self._add_entry()
        self.sampling = [self.temperature, self.top_p, self.top_k, self.max_tokens, self.seed, self.stops]
        self.kept: list[Any] = [self.chat, self.system, *self.sampling]
        """What a tab keeps when it is loaded again."""
        self._connect_replies()
        self._connect_looks()

    def _add_head(self) -> None:
        self.name = gr.HTML(self._name(ENGLISH), elem_id="name")
        self.fresh = gr.Button(ENGLISH.fresh, elem_id="fresh", size="sm")
        self.open = gr.Button(ENGLISH.settings, elem_id="open-settings", size="sm")
        self.language = gr.Radio(
            [("EN", "en"), ("中文", "zh")], value="en", show_label=False, container=False, elem_id="language"
        )

    def _name(self, texts: Texts) -> str:
        return f"<h1>{html.escape(self.model_name)}</h1><p>{html.escape(texts.subtitle)}</p>"

    def _add_settings(self) -> None:
        default = SamplingConfig()
        self.system = gr.Textbox(
            label=ENGLISH.system, placeholder=ENGLISH.system_hint, lines=2, max_lines=6, elem_id="system"
        )
        self.temperature = gr.Slider(0, 2, default.temperature, step=0.05, label=ENGLISH.temperature)
        self.top_p = gr.Slider(0, 1, default.top_p, step=0.01, label=ENGLISH.top_p)
        self.top_k = gr.Number(default.top_k, precision=0, label=ENGLISH.top_k, elem_id="top-k")
        self.max_tokens = gr.Number(
            most_tokens(self.limit), precision=0, label=ENGLISH.max_tokens, elem_id="max-tokens"
        )
        self.seed = gr.Textbox(label=ENGLISH.seed, elem_id="seed")  # A number field shows 0 for nothing.
        self.stops = gr.Textbox(label=ENGLISH.stops, lines=2, max_lines=6, elem_id="stops")

    def _add_entry(self) -> None:
        self.box = gr.Textbox(
            placeholder=ENGLISH.ask, show_label=False, container=False, autofocus=True, max_lines=8, elem_id="box"
        )
        self.send = gr.Button(ENGLISH.send, variant="primary", elem_id="send")
        self.stop = gr.Button(ENGLISH.stop, variant="stop", visible=False, elem_id="stop")

    def _connect_replies(self) -> None:
        asking: dict[str, Any] = {
            "inputs": [self.chat, self.box, self.language, self.system, *self.sampling],
            "outputs": [self.chat, self.box, *self._controls()],
            **QUIET,
        }
        gr.on([self.box.submit, self.send.click], self._ask, **asking)
        self.again.click(self._ask_again, **asking)
        self.stop.click(self._stop, queue=False, **QUIET)
        self.fresh.click(self._begin_anew, outputs=[self.chat, *self._controls()], queue=False, **QUIET)

    def _connect_looks(self) -> None:
        gr.on([part.change for part in self.kept], None, self.kept, js=KEEP)
        self.open.click(None, js=FOLD)
        spoken = list(self._spoken(ENGLISH))
        self.language.change(self._speak, self.language, spoken, js=SPEAK, queue=False, **QUIET)

    async def _ask(
        self, request: gr.Request, chat: list[Any], box: str, language: str, system: str, *sampling: Any
    ) -> AsyncGenerator[dict[Any, Any]]:
        """Answer what stands in the box, which is emptied as soon as the message is accepted."""
        message = well_formed(box)
        if not message.strip():
            return
        steps = self._answer(request, history_of(chat), message, language, system, sampling)
        number = 0
        async for view in steps:
            shown = self._show(view)
            if view.is_accepted and number == 0:
                shown[self.box] = ""
            yield shown
            number += 1

    async def _ask_again(
        self, request: gr.Request, chat: list[Any], _box: str, language: str, system: str, *sampling: Any
    ) -> AsyncGenerator[dict[Any, Any]]:
        """Answer the last question again, in the place of its answer."""
        history = history_of(chat)
        if not history:
            return
        message = history[-2]["content"]
        async for view in self._answer(request, history[:-2], message, language, system, sampling):
            yield self._show(view)

    async def _answer(
        self,
        request: gr.Request,
        history: list[Message],
        message: str,
        language: str,
        system: str,
        sampling: tuple[Any, ...],
    ) -> AsyncGenerator[View]:
        texts = texts_for(language)
        try:
            values = sampling_of(self.limit, *sampling)
        except ValueError as error:
            yield View(history=history, notice=texts.bad_setting.format(what=error), is_accepted=False)
            return
        page = str(request.session_hash)
        async for view in self.replies.answer(page, history, message, system, values, texts):
            yield view

    async def _stop(self, request: gr.Request) -> None:
        self.replies.stop(str(request.session_hash))

    async def _begin_anew(self) -> dict[Any, Any]:
        return self._show(View(history=[]))

    async def _speak(self, language: str) -> dict[Any, Any]:
        return self._spoken(texts_for(language))

    def _controls(self) -> list[Any]:
        return [self.notice, self.send, self.stop, self.fresh]

    def _show(self, view: View) -> dict[Any, Any]:
        """The parts as a view has them. What is refused leaves the conversation as it is."""
        shown = {
            self.notice: gr.update(value=html.escape(view.notice), visible=bool(view.notice)),
            self.send: gr.update(visible=not view.is_running),
            self.stop: gr.update(visible=view.is_running),
            self.fresh: gr.update(interactive=not view.is_running),
        }
        return shown | {self.chat: view.history} if view.is_accepted else shown

    def _spoken(self, texts: Texts) -> dict[Any, Any]:
        """All parts that have words, in one language."""
        labelled = {
            self.temperature: texts.temperature,
            self.top_p: texts.top_p,
            self.top_k: texts.top_k,
            self.max_tokens: texts.max_tokens,
            self.seed: texts.seed,
            self.stops: texts.stops,
        }
        buttons = {
            self.send: texts.send,
            self.stop: texts.stop,
            self.again: texts.again,
            self.fresh: texts.fresh,
            self.open: texts.settings,
        }
        return {
            self.name: gr.update(value=self._name(texts)),
            self.welcome: gr.update(value=_heading(texts.empty)),
            self.box: gr.update(placeholder=texts.ask),
            self.system: gr.update(label=texts.system, placeholder=texts.system_hint),
            **{part: gr.update(label=label) for part, label in labelled.items()},
            **{part: gr.update(value=word) for part, word in buttons.items()},
        }


def _heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def history_of(chat: list[Any] | None) -> list[Message]:
    """The conversation as the browser brought it, without what could not be sent back to it."""
    return [{"role": str(message["role"]), "content": well_formed(str(message["content"]))} for message in chat or []]

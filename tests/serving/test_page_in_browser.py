"""The page in a real browser, clicked through against a real server whose model is scripted."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from page_server import ANSWERS, PageServer, page_server

from danlu.serving.page_texts import CHINESE, ENGLISH

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
    *(
        pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
        for name in ("playwright", "gradio")
    ),
]
QUIETLY = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIETLY += ["--disable-sync", "--no-first-run"]

SHOWN = """
rows => rows.map(row => [...row.querySelectorAll(".text, pre")].map(part => part.textContent).join("|"))
"""
AT_END = """
() => {
    const log = document.querySelector("#chat .log");
    return log.scrollHeight > log.clientHeight && log.scrollHeight - log.scrollTop - log.clientHeight < 2;
}
"""
RIGHT_EDGES = "nodes => nodes.map(node => node.getBoundingClientRect().right)"


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIETLY)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shared_server() -> Iterator[PageServer]:
    with page_server() as server:
        yield server


@pytest.fixture
def server(shared_server: PageServer) -> Iterator[PageServer]:
    """The server, which every test must leave idle."""
    yield shared_server
    shared_server.model.delay = 0.0
    shared_server.model.fail_with = None
    shared_server.wait_until_idle()


class Tab:
    """A tab of the browser: what its user sees and does."""

    def __init__(self, page: "Page", url: str) -> None:
        self.page, self.url = page, url
        self.strange: list[str] = []
        """Dialogs, errors, and requests to other hosts."""
        page.on("request", self._note_request)
        page.on("pageerror", lambda error: self.strange.append(f"error: {error}"))
        page.on("dialog", self._note_dialog)
        page.set_default_timeout(15000)
        page.goto(url)
        page.wait_for_function("() => Boolean(window.danluKeeps && window.danluDraw)")

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.strange.append(request.url)

    def _note_dialog(self, dialog: Any) -> None:
        self.strange.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def send(self, text: str) -> None:
        self.page.fill("#box textarea", text)
        self.page.click("#send")

    def ask(self, text: str) -> str:
        """The whole answer."""
        count = self.page.locator("#chat .row").count()
        self.send(text)
        self.page.wait_for_function("count => document.querySelectorAll('#chat .row').length > count", arg=count)
        return self.answer()

    def answer(self) -> str:
        self.page.wait_for_selector("#stop", state="detached")
        return self.contents()[-1]

    def contents(self) -> list[str]:
        """All messages as they are shown."""
        return self.page.eval_on_selector_all("#chat .row", SHOWN)

    def wait_for_text(self, text: str) -> None:
        """Until the last answer holds it."""
        self.page.wait_for_function(
            "text => ([...document.querySelectorAll('#chat .row')].at(-1)?.textContent || '').includes(text)", arg=text
        )

    def notice(self) -> str:
        self.page.wait_for_selector("#notice")
        return self.page.inner_text("#notice").strip()

    def open_settings(self) -> None:
        if not self.page.is_visible("#settings"):
            self.page.click("#open-settings")
        self.page.wait_for_selector("#settings", state="visible")


@pytest.fixture
def open_tab(browser: "Browser", server: PageServer) -> "Iterator[Callable[..., Tab]]":
    """Opens a tab; options are those of a browser's context."""
    tabs: list[Tab] = []

    def open_tab(**options: Any) -> Tab:
        context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1200, "height": 800}, **options})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        tabs.append(Tab(context.new_page(), server.url))
        return tabs[-1]

    yield open_tab
    for tab in tabs:
        tab.page.context.close()
        assert tab.strange == [], "the page did what it must not"


def test_a_conversation_streams_stops_and_goes_on(
    open_tab: "Callable[..., Tab]", server: PageServer, tmp_path: Path
) -> None:
    tab = open_tab()
    assert tab.ask("hi") == "Hello, world"
    assert tab.page.input_value("#box textarea") == "", "a message that was sent stays in the box"
    server.model.delay = 0.03
    tab.send("count")
    tab.wait_for_text("0 1 2 3 4")
    tab.page.screenshot(path=tmp_path / "streaming.png")
    tab.page.fill("#box textarea", "which")
    tab.page.keyboard.press("Enter")
    began = time.monotonic()
    tab.page.click("#stop")
    server.wait_until_idle(1)
    assert time.monotonic() - began < 1, "the row was not given back at once"
    partial = tab.answer()
    assert partial.startswith("0 1 2 3 4")
    assert tab.notice() == ENGLISH.stopped
    assert tab.page.input_value("#box textarea") == "which", "what was typed meanwhile is lost"
    server.model.delay = 0.0
    tab.page.click("#send")
    tab.wait_for_text("answer")
    tab.answer()
    assert [message["content"] for message in server.model.messages()] == [
        "hi", "Hello, world", "count", partial, "which",
    ]  # fmt: skip


def test_answering_again_replaces_the_last_answer_alone(open_tab: "Callable[..., Tab]", server: PageServer) -> None:
    tab = open_tab()
    tab.ask("hi")
    first = tab.ask("which")
    asked = server.model.messages()
    tab.page.click("#again")
    tab.wait_for_text(f"answer {int(first.split()[-1]) + 1}")
    tab.answer()
    assert server.model.messages() == asked
    assert tab.contents()[:3] == ["hi", "Hello, world", "which"]
    assert len(tab.contents()) == 4


def test_what_looks_like_markup_is_shown_and_copied_as_it_is(
    open_tab: "Callable[..., Tab]", server: PageServer, tmp_path: Path
) -> None:
    tab = open_tab()
    tab.open_settings()
    tab.page.fill("#max-tokens input", "500")
    tab.page.click("#name")
    server.model.delay = 0.005
    tab.send("markup")
    tab.wait_for_text("<img src=x onerror=alert(1)>")
    _check_literal(tab)  # While it streams.
    before, code, after = ANSWERS["markup"].split("\n```")[0], ANSWERS["markup"].split("\n")[3], "\n  &lt;i&gt;"
    answer = tab.answer().split("|")
    assert answer[0] == before
    assert answer[1] == code
    assert answer[2].startswith(after)
    _check_literal(tab)
    tab.page.hover("#chat .row.bot")
    tab.page.click("#chat .row.bot > .copy")
    tab.page.wait_for_selector("#chat .copy.done")
    assert tab.page.evaluate("navigator.clipboard.readText()") == ANSWERS["markup"]
    tab.page.screenshot(path=tmp_path / "markup.png")
    tab.page.reload()
    tab.wait_for_text("<script>alert(3)</script>")
    _check_literal(tab)
    server.model.delay = 0.0
    assert tab.ask("open fence") == "Look:|" + ANSWERS["open fence"].partition("html\n")[2]
    assert tab.ask("<b>me</b>") == "<<<b>me</b>>>"
    _check_literal(tab)


def _check_literal(tab: Tab) -> None:
    """No message holds an element but those that the page draws it with."""
    names = tab.page.eval_on_selector_all(
        "#chat .bubble *", "nodes => [...new Set(nodes.map(node => node.localName + '.' + node.className))]"
    )
    assert set(names) <= {"div.text", "div.code", "pre.", "span.code-name", "button.copy", "button.copy done"}


def test_a_loaded_again_page_goes_on_with_its_conversation(open_tab: "Callable[..., Tab]", server: PageServer) -> None:
    tab = open_tab()
    tab.ask("hi")
    tab.open_settings()
    tab.page.fill("#system textarea", "be brief")
    tab.page.reload()
    tab.wait_for_text("Hello, world")
    tab.ask("which")
    contents = [message["content"] for message in server.model.messages()]
    assert contents == ["be brief", "hi", "Hello, world", "which"]
    tab.page.click("#fresh")
    tab.page.wait_for_selector("#chat .row", state="detached")
    tab.ask("which")
    assert [message["content"] for message in server.model.messages()] == ["be brief", "which"]


def test_a_closed_tab_gives_its_row_back(open_tab: "Callable[..., Tab]", server: PageServer) -> None:
    tab = open_tab()
    server.model.delay = 0.03
    tab.send("count")
    tab.wait_for_text("0 1 2")
    tab.page.close()
    server.wait_until_idle(2)


def test_two_tabs_do_not_see_each_other(open_tab: "Callable[..., Tab]", server: PageServer) -> None:
    one = open_tab()
    other = Tab(one.page.context.new_page(), server.url)
    assert (one.ask("hi"), other.ask("blanks")) == ("Hello, world", "   two")
    one.ask("which")
    assert [message["content"] for message in server.model.messages()] == ["hi", "Hello, world", "which"]
    other.page.reload()
    other.wait_for_text("two")
    assert other.contents()[0] == "blanks"
    assert len(other.contents()) == 2
    assert other.strange == []


def test_a_message_that_is_too_long_stays_in_the_box(open_tab: "Callable[..., Tab]", server: PageServer) -> None:
    tab = open_tab()
    tab.ask("hi")
    tab.send("长" * 700)
    assert tab.notice() == ENGLISH.too_long.format(limit=600)
    assert tab.page.input_value("#box textarea") == "长" * 700
    assert tab.contents() == ["hi", "Hello, world"]
    assert tab.ask("which").startswith("answer")


def test_turns_that_no_longer_fit_are_told(open_tab: "Callable[..., Tab]", server: PageServer) -> None:
    tab = open_tab()
    for letter in "abc":
        tab.ask(letter * 90)
    assert tab.notice() == ENGLISH.left_out.format(limit=600, count=1)
    assert len(tab.contents()) == 6


def test_settings_reach_the_model(open_tab: "Callable[..., Tab]", server: PageServer, tmp_path: Path) -> None:
    tab = open_tab()
    assert not tab.page.is_visible("#settings")
    tab.open_settings()
    tab.page.fill("#max-tokens input", "5")
    tab.page.fill("#stops textarea", "EN\\n\nEND")
    tab.page.screenshot(path=tmp_path / "settings.png")
    tab.page.click("#name")
    assert not tab.page.is_visible("#settings"), "a click beside them must fold the settings away"
    assert len(tab.ask("count")) == 5
    assert tab.notice() == ENGLISH.cut.format(count=5)
    assert tab.ask("stop") == "a "
    tab.open_settings()
    tab.page.fill("#seed textarea, #seed input", "x")
    tab.page.click("#name")
    tab.send("hi")
    tab.page.wait_for_function("() => document.querySelector('#notice')?.textContent.includes('seed')")
    assert tab.page.input_value("#box textarea") == "hi"


def test_the_language_is_the_browsers_until_it_is_switched(open_tab: "Callable[..., Tab]", tmp_path: Path) -> None:
    tab = open_tab(locale="zh-CN")
    tab.page.wait_for_selector(f"text={CHINESE.empty}")
    assert tab.page.inner_text("#send") == CHINESE.send
    tab.ask("hi")
    tab.page.screenshot(path=tmp_path / "chinese.png")
    tab.page.click("#language label:has-text('EN')")
    tab.page.wait_for_function(f"() => document.querySelector('#send').textContent.trim() === '{ENGLISH.send}'")
    assert tab.contents() == ["hi", "Hello, world"]
    tab.page.reload()
    tab.wait_for_text("Hello, world")
    assert tab.page.inner_text("#send") == ENGLISH.send, "the choice is forgotten"
    assert tab.page.get_attribute("#box textarea", "placeholder") == ENGLISH.ask


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_fits_on_a_phone(open_tab: "Callable[..., Tab]", tmp_path: Path, scheme: str) -> None:
    tab = open_tab(viewport={"width": 390, "height": 780}, color_scheme=scheme)
    for text in ("hi", "x" * 90, "markup"):
        tab.ask(text)
    assert tab.notice() == ENGLISH.cut.format(count=256)
    tab.page.wait_for_function(AT_END)
    tab.page.screenshot(path=tmp_path / f"phone-{scheme}.png")
    for opened in (False, True):
        if opened:
            tab.open_settings()
            tab.page.screenshot(path=tmp_path / f"phone-settings-{scheme}.png")
        wide = tab.page.evaluate("document.documentElement.scrollWidth")
        assert wide == 390, "the page scrolls sideways"
        tall = tab.page.evaluate("document.documentElement.scrollHeight")
        assert tall <= 780, "the entry is not always in view"
    parts = "#head button, #language, #send, #again, #settings"
    edges = tab.page.eval_on_selector_all(parts, RIGHT_EDGES)
    assert max(edges) <= 390
    assert tab.page.locator("footer").count() == 0 or not tab.page.is_visible("footer")


def test_the_page_works_behind_a_key(browser: "Browser", tmp_path: Path) -> None:
    with page_server(api_key="schlüssel") as server:
        credentials = {"username": "anyone", "password": "schlüssel"}
        context = browser.new_context(locale="en-US", http_credentials=credentials)  # type: ignore[arg-type]
        tab = Tab(context.new_page(), server.url)
        assert tab.ask("hi") == "Hello, world"
        assert tab.strange == []
        context.close()


def test_an_open_page_and_a_running_reply_do_not_hold_up_the_end(browser: "Browser") -> None:
    program = """
import sys
from page_server import PageServer
server = PageServer()
server.model.delay = 0.02
print(server.url, flush=True)
import signal
signal.signal(signal.SIGTERM, lambda *_: setattr(server.server, "should_exit", True))
server.thread.join()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    running = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert running.stdout is not None
        tab = Tab(browser.new_page(), running.stdout.readline().strip())
        idle = Tab(browser.new_page(), tab.url)
        tab.send("x" * 60)
        tab.wait_for_text("xxx")
        running.send_signal(signal.SIGTERM)
        assert tab.answer() == f"<<{'x' * 60}>>", "a running reply may finish"
        began = time.monotonic()
        assert running.wait(15) == 0
        assert time.monotonic() - began < 8, "something of the page kept the server from ending"
        idle.page.close()
        tab.page.close()
    finally:
        running.kill()

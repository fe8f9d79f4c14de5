"""The page without a browser: what it shows step by step, its settings and words, and how it stands beside the API."""

import asyncio
import dataclasses
import re
import string
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import httpx
import pytest
from page_server import PageModel, PageServer, batcher_of, page_server
from scripted_model import wait_for

from danlu.inference.config import SamplingConfig
from danlu.run.errors import UserError
from danlu.serving.batcher import Batcher
from danlu.serving.page_replies import Replies, View, conversation_of, gathered, most_tokens, sampling_of
from danlu.serving.page_texts import CHINESE, ENGLISH, texts_for
from danlu.tokenizer.chat import encode_conversation

GREEDY = SamplingConfig(temperature=0, max_new_tokens=200)


@pytest.fixture
def model() -> PageModel:
    return PageModel()


@pytest.fixture
def batcher(model: PageModel) -> Iterator[Batcher]:
    batcher = batcher_of(model, max_rows=2, max_waiting=2)
    yield batcher
    batcher.close()


@pytest.fixture
def replies(batcher: Batcher, model: PageModel) -> Replies:
    return Replies(batcher, model.tokenizer)


def turns(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": content} for number, content in enumerate(contents)]


def answer(
    replies: Replies,
    message: str,
    history: list[dict[str, str]] | None = None,
    system: str = "",
    sampling: SamplingConfig = GREEDY,
    page: str = "a",
) -> AsyncGenerator[View]:
    return replies.answer(page, history or [], message, system, sampling, ENGLISH)


def all_views(*args: object, **values: object) -> list[View]:
    async def collect() -> list[View]:
        return [view async for view in answer(*args, **values)]  # type: ignore[arg-type]

    return asyncio.run(collect())


def test_a_reply_grows_and_the_last_view_is_at_rest(replies: Replies) -> None:
    views = all_views(replies, "hi", turns("one", "two"))
    assert views[0] == View(history=turns("one", "two", "hi", ""), is_running=True)
    assert views[-1] == View(history=turns("one", "two", "hi", "Hello, world"))
    assert all(view.is_running for view in views[:-1])


def test_the_system_message_and_all_blanks_reach_the_model(replies: Replies, model: PageModel) -> None:
    all_views(replies, "  hi \n", turns("one", "  two\n"), system="be brief")
    assert [message["content"] for message in model.messages()] == ["be brief", "one", "  two\n", "  hi \n"]


def test_a_stopped_reply_is_what_the_next_prompt_holds(replies: Replies, model: PageModel, batcher: Batcher) -> None:
    model.delay = 0.02

    async def stop_early() -> View:
        async for view in answer(replies, "count"):
            if len(view.history[-1]["content"]) > 10:
                replies.stop("another page")
                replies.stop("a")
        return view

    last = asyncio.run(stop_early())
    assert last.notice == ENGLISH.stopped
    assert not last.is_running
    wait_for(lambda: batcher.num_running == 0, 1)
    model.delay = 0
    partial = last.history[-1]["content"]
    assert "0 1 2 3 4".startswith(partial[:9])
    all_views(replies, "hi", last.history)
    assert model.messages() == turns("count", partial, "hi")


def test_a_page_that_vanishes_gives_its_row_back(replies: Replies, model: PageModel, batcher: Batcher) -> None:
    model.delay = 0.02

    async def leave() -> None:
        async with aclosing(answer(replies, "count")) as views:
            async for view in views:
                if view.history[-1]["content"]:
                    return

    asyncio.run(leave())
    wait_for(lambda: batcher.num_running == 0, 1)


def test_pages_do_not_stop_each_other(replies: Replies, model: PageModel) -> None:
    async def both() -> list[View]:
        async def last(page: str, message: str) -> View:
            return [view async for view in answer(replies, message, page=page)][-1]

        return list(await asyncio.gather(last("a", "hi"), last("b", "which")))

    assert [view.history[-1]["content"] for view in asyncio.run(both())] == ["Hello, world", "answer 1"]


def test_a_message_that_is_too_long_is_not_accepted(replies: Replies) -> None:
    (view,) = all_views(replies, "长" * 700, turns("one", "two"))
    assert view == View(history=turns("one", "two"), notice=ENGLISH.too_long.format(limit=600), is_accepted=False)


def test_turns_that_are_left_out_are_told(replies: Replies, model: PageModel) -> None:
    history = turns(*("x" * 100 for _ in range(8)))
    last = all_views(replies, "hi", history)[-1]
    kept = len(model.messages()) - 1
    assert 0 < kept < 8
    assert last.notice == ENGLISH.left_out.format(limit=600, count=(8 - kept) // 2)
    assert last.history[:8] == history, "what the model no longer sees must stay in the page"


def test_a_cut_reply_says_which_limit_cut_it(replies: Replies) -> None:
    short = dataclasses.replace(GREEDY, max_new_tokens=5)
    assert all_views(replies, "count", sampling=short)[-1].notice == ENGLISH.cut.format(count=5)
    long = dataclasses.replace(GREEDY, max_new_tokens=600)
    assert all_views(replies, "count", sampling=long)[-1].notice == ENGLISH.full.format(limit=600)


def test_a_failure_is_one_line_and_leaves_the_question(replies: Replies, model: PageModel) -> None:
    model.fail_with = RuntimeError("inner")
    last = all_views(replies, "hi")[-1]
    assert last == View(history=turns("hi", ""), notice=ENGLISH.failed)
    model.fail_with = UserError("the logits are not finite")
    assert all_views(replies, "hi")[-1].notice == f"{ENGLISH.failed} the logits are not finite"


def test_pages_that_wait_are_told_so_and_one_too_many_loses_nothing(
    replies: Replies, model: PageModel, batcher: Batcher
) -> None:
    model.delay = 0.02
    notices: dict[int, set[str]] = {number: set() for number in range(4)}

    async def watch(number: int) -> None:
        async with aclosing(answer(replies, "count", page=str(number))) as views:
            async for view in views:
                notices[number].add(view.notice)

    async def crowd() -> list[View]:
        watching = []
        for number in notices:
            watching.append(asyncio.ensure_future(watch(number)))
            while batcher.num_running < min(number + 1, 2) or batcher.num_waiting < number - 1:
                await asyncio.sleep(0.01)
        while ENGLISH.waiting not in notices[3]:
            await asyncio.sleep(0.01)
        late = [view async for view in answer(replies, "mine", page="late")]
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        return late

    assert asyncio.run(crowd()) == [View(history=[], notice=ENGLISH.busy, is_accepted=False)]
    assert notices == {0: {""}, 1: {""}, 2: {"", ENGLISH.waiting}, 3: {"", ENGLISH.waiting}}


def test_the_end_of_the_server_is_told(replies: Replies, batcher: Batcher) -> None:
    batcher.close()
    (view,) = all_views(replies, "hi")
    assert view == View(history=[], notice=ENGLISH.closed, is_accepted=False)


def test_pieces_are_gathered_and_silence_is_noticed(model: PageModel, batcher: Batcher) -> None:
    model.delay = 0.03

    async def collect() -> list[list[str]]:
        prompt_ids = encode_conversation(model.tokenizer, turns("abc"), add_generation_prompt=True)[0]
        ticket = batcher.submit([prompt_ids], [GREEDY])
        groups = gathered(ticket, gather_seconds=0.1, beat_seconds=0.005)
        return [[piece.text for piece in group] async for group in groups]

    groups = asyncio.run(collect())
    assert [] in groups, "a reply that is slow to come must let its reader be missed"
    assert "".join(text for group in groups for text in group) == "<<abc>>"
    assert len([group for group in groups if group]) < 7


@pytest.mark.parametrize("history", [turns("one"), turns("one", "two")[::-1], [{"role": "system", "content": "x"}] * 2])
def test_only_question_and_answer_in_turn_are_a_conversation(history: list[dict[str, str]]) -> None:
    with pytest.raises(UserError, match="in turn"):
        conversation_of(history, "")


def test_a_blank_system_message_is_none() -> None:
    assert conversation_of([], " \n").system is None
    assert conversation_of([], " x ").system == " x "


def test_settings_become_values() -> None:
    values = sampling_of(600, 0.5, 0.8, 3, 40, " -7 ", "END\n\\n\\nUser:\n")
    assert values == SamplingConfig(
        temperature=0.5, top_p=0.8, top_k=3, max_new_tokens=40, seed=-7, stop=("END", "\n\nUser:")
    )
    default = SamplingConfig(max_new_tokens=most_tokens(600))
    assert sampling_of(600, None, None, None, None, "", "") == default
    assert [most_tokens(limit) for limit in (100, 600, 32768)] == [100, 256, 8192]


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1), ("top_p", 2), ("top_k", -1), ("max_tokens", 0), ("seed", "x"), ("seed", str(2**63))],
)
def test_settings_that_cannot_be_are_named(name: str, value: object) -> None:
    values = {"temperature": 1, "top_p": 1, "top_k": 0, "max_tokens": 9, "seed": "", "stops": ""}
    with pytest.raises(ValueError, match=name.replace("max_tokens", "max_new_tokens")):
        sampling_of(600, **{**values, name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at most 16"):
        sampling_of(600, **{**values, "stops": "x\n" * 17})  # type: ignore[arg-type]


def test_both_languages_say_everything() -> None:
    for name, english in dataclasses.asdict(ENGLISH).items():
        chinese = getattr(CHINESE, name)
        assert re.search("[一-鿿]", chinese), f"{name} is not Chinese: {chinese}"
        fields = [{part[1] for part in string.Formatter().parse(text)} for text in (english, chinese)]
        assert fields[0] == fields[1], f"{name} is filled with other values in Chinese"
    assert texts_for("zh") is CHINESE
    assert texts_for(None) is texts_for("fr") is ENGLISH


@pytest.fixture(scope="module")
def web() -> Iterator[PageServer]:
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'danlu[web]'")
    with page_server() as server:
        yield server


def test_the_page_loads_nothing_from_elsewhere(web: PageServer) -> None:
    page = httpx.get(web.url + "/").text
    assert not re.findall(r"""(?:<script[^>]*\bsrc|<link[^>]*\bhref)=["'](?:https?:)?//[^"']*""", page)
    theme = httpx.get(web.url + "/theme.css").text
    assert not re.findall(r"url\(['\"]?(?:https?:)?//[^)]*|@import[^;]*", page + theme)
    config = httpx.get(web.url + "/config").json()
    assert config["analytics_enabled"] is False
    assert config["connect_heartbeat"] is False, "idle pages would each hold a connection open"


def test_the_api_answers_as_before(web: PageServer) -> None:
    assert httpx.get(web.url + "/health").json()["status"] == "ok"
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405)):
        answer = httpx.request(method, web.url + path)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}, f"{path} is answered by the page"


def test_other_sites_can_neither_post_nor_read(web: PageServer) -> None:
    foreign = {"Origin": "http://evil.example"}
    upload = httpx.post(web.url + "/gradio_api/upload", files={"files": b"x"}, headers=foreign)
    assert upload.status_code == 415
    asked = httpx.options(
        web.url + "/gradio_api/queue/join", headers={**foreign, "Access-Control-Request-Method": "POST"}
    )
    for answer in (upload, asked, httpx.get(web.url + "/config", headers={"Origin": web.url})):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_page_asks_for_the_key() -> None:
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'danlu[web]'")
    with page_server(api_key="secret") as server:
        for path in ("/", "/config", "/gradio_api/queue/data?session_hash=x"):
            answer = httpx.get(server.url + path)
            assert (answer.status_code, answer.headers["www-authenticate"][:5]) == (401, "Basic"), path
        assert httpx.get(server.url + "/", auth=("anyone", "secret")).status_code == 200


def test_without_gradio_a_line_says_what_the_page_needs() -> None:
    program = """
import sys
sys.modules["gradio"] = None
from danlu.serving.server import add_page
class Nobody: max_length = 9
from fastapi import FastAPI
assert add_page(FastAPI(), Nobody(), None, "x") is False
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "danlu: the page needs Gradio. pip install 'danlu[web]'\n"


def test_the_server_is_imported_without_gradio() -> None:
    program = "import sys, danlu.serving.server; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0

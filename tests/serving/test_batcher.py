"""Requests that join and leave while others are answered: none of them notices."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import pytest
import torch
from scripted_model import ScriptedModel, scripted_tokenizer, wait_for

from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Engine, generate_batch
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.serving import batcher as batcher_module
from danlu.serving.batcher import Batcher, Busy, Closed, Piece, Ticket
from danlu.tokenizer.bpe import Tokenizer

GREEDY = SamplingConfig(temperature=0, max_new_tokens=20)
Made = Callable[..., Batcher]


@pytest.fixture
def make() -> Iterator[Made]:
    """Batchers that are closed after the test."""
    made: list[Batcher] = []

    def batcher(model: object, tokenizer: Tokenizer, max_rows: int = 8, max_waiting: int = 20) -> Batcher:
        made.append(Batcher(Engine.for_text(model, tokenizer, GREEDY, max_rows), max_waiting))  # type: ignore[arg-type]
        return made[-1]

    yield batcher
    for one in made:
        one.close()


@pytest.fixture
def scripted() -> ScriptedModel:
    return ScriptedModel(scripted_tokenizer())


def ids(model: ScriptedModel, text: str) -> list[int]:
    return model.tokenizer.encode(text)


async def all_pieces(ticket: Ticket) -> list[Piece]:
    return [piece async for piece in ticket]


async def texts(ticket: Ticket, count: int = 1) -> list[str]:
    """The text of each continuation."""
    pieces = await all_pieces(ticket)
    return ["".join(piece.text for piece in pieces if piece.index == index) for index in range(count)]


def prompts(count: int) -> list[list[int]]:
    return [[(7 * number + 3 * place) % 290 for place in range(3 + 4 * number)] for number in range(count)]


def test_eight_at_once_say_what_each_says_alone(
    make: Made, tiny_model: Callable[..., Transformer], tiny_tokenizer: Tokenizer
) -> None:
    model = tiny_model()
    alone = [
        generate_batch(model, tiny_tokenizer.stop_ids, [prompt], GREEDY, vocab_size=tiny_tokenizer.vocab_size)[0]
        for prompt in prompts(8)
    ]
    batcher = make(model, tiny_tokenizer, max_rows=5)

    async def together() -> list[list[Piece]]:
        tickets = [batcher.submit([prompt], [GREEDY], num_alternatives=0) for prompt in prompts(8)]
        return await asyncio.gather(*map(all_pieces, tickets))

    for sequence, pieces in zip(alone, asyncio.run(together()), strict=True):
        assert [token for piece in pieces for token in piece.token_ids] == sequence.output_ids
        assert pieces[-1].finish_reason == sequence.finish_reason
        assert pieces[-1].num_tokens == len(sequence.response_ids)


def test_a_seed_gives_the_same_text_alone_and_in_a_crowd(
    make: Made, tiny_model: Callable[..., Transformer], tiny_tokenizer: Tokenizer
) -> None:
    batcher = make(tiny_model(), tiny_tokenizer)
    seeded = [SamplingConfig(temperature=1.3, seed=seed, max_new_tokens=20) for seed in (5, 6)]

    async def alone() -> list[str]:
        return await texts(batcher.submit([prompts(3)[2]], seeded), 2)

    async def crowded() -> list[str]:
        others = [batcher.submit([prompt], [SamplingConfig(temperature=0.7)]) for prompt in prompts(4)]
        own, *_ = await asyncio.gather(texts(batcher.submit([prompts(3)[2]], seeded), 2), *map(texts, others))
        return own

    first = asyncio.run(alone())
    assert asyncio.run(crowded()) == first == asyncio.run(alone())
    assert first[0] != first[1]


def test_prompts_of_one_ticket_and_their_copies_are_numbered_in_order(make: Made, scripted: ScriptedModel) -> None:
    batcher = make(scripted, scripted.tokenizer, max_rows=3)

    async def work() -> list[str]:
        names = [ids(scripted, name) for name in ("hi", "one", "stop")]
        return await texts(batcher.submit(names, [GREEDY, GREEDY]), 6)

    assert asyncio.run(work()) == ["Hello, world"] * 2 + ["<<one>>"] * 2 + ["a END_OF b"] * 2


def test_first_come_first_served(make: Made, scripted: ScriptedModel) -> None:
    """One that needs all rows is not passed by for ever by small ones."""
    batcher, order = make(scripted, scripted.tokenizer, max_rows=2), []

    async def note(name: str, copies: int) -> None:
        await texts(batcher.submit([ids(scripted, name)], [GREEDY] * copies))
        order.append(name)

    async def work() -> None:
        await asyncio.gather(note("a", 1), note("bb", 2), note("c", 1), note("d", 1))

    asyncio.run(work())
    assert order.index("bb") < order.index("c"), order


def test_a_cancelled_ticket_gives_its_rows_back_within_a_step(make: Made, scripted: ScriptedModel) -> None:
    batcher, long = make(scripted, scripted.tokenizer), SamplingConfig(temperature=0, max_new_tokens=500)

    async def work() -> int:
        scripted.delay = 0.02
        ticket = batcher.submit([ids(scripted, "count")], [long, long])
        await anext(ticket)
        assert batcher.num_running == 2
        ticket.cancel()
        before = len(scripted.passes)
        while batcher.num_running:
            await asyncio.sleep(0.001)
        await all_pieces(ticket)
        return len(scripted.passes) - before

    assert asyncio.run(work()) <= 1


def test_a_ticket_cancelled_while_it_waits_is_never_read(make: Made, scripted: ScriptedModel) -> None:
    batcher, long = make(scripted, scripted.tokenizer, max_rows=1), SamplingConfig(temperature=0, max_new_tokens=200)

    async def work() -> None:
        first = batcher.submit([ids(scripted, "count")], [long])
        await anext(first)
        second, third = (batcher.submit([ids(scripted, name)], [GREEDY]) for name in ("two", "three"))
        second.cancel()
        assert await texts(third) == ["<<three>>"]
        assert await texts(second) == [""]

    asyncio.run(work())
    assert len(scripted.prompts) == 2


def test_an_event_loop_that_is_gone_frees_its_rows(make: Made, scripted: ScriptedModel) -> None:
    batcher, long = make(scripted, scripted.tokenizer), SamplingConfig(temperature=0, max_new_tokens=500)
    scripted.delay = 0.01

    async def leave() -> None:
        await anext(batcher.submit([ids(scripted, "count")], [long]))

    asyncio.run(leave())
    wait_for(lambda: batcher.num_running == 0, 2)


def test_stop_ids_are_the_tickets_own(make: Made, scripted: ScriptedModel) -> None:
    batcher = make(scripted, scripted.tokenizer)

    async def work() -> list[list[Piece]]:
        hi = [ids(scripted, "hi")]
        tickets = [batcher.submit(hi, [GREEDY], stop_ids=stop_ids) for stop_ids in ([scripted.id_of(",")], [])]
        return await asyncio.gather(*map(all_pieces, tickets))

    stopped, whole = asyncio.run(work())
    assert "".join(piece.text for piece in stopped) == "Hello"
    assert (stopped[-1].finish_reason, stopped[-1].num_tokens) == ("stop", 2)
    assert "".join(piece.text for piece in whole) == "Hello, world"


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), UserError("the model's logits are not finite")])
def test_a_step_that_fails_ends_what_runs_and_nothing_else(
    make: Made, scripted: ScriptedModel, error: Exception
) -> None:
    batcher = make(scripted, scripted.tokenizer)

    async def work() -> str:
        tickets = [batcher.submit([ids(scripted, "count")], [SamplingConfig(temperature=0)]) for _ in range(2)]
        for ticket in tickets:
            await anext(ticket)
        scripted.fail_with = error
        for ticket in tickets:
            with pytest.raises(type(error), match=str(error)):
                await all_pieces(ticket)
        with pytest.raises(type(error), match=str(error)):
            await all_pieces(batcher.submit([ids(scripted, "hi")], [GREEDY]))
        scripted.fail_with = None
        return (await texts(batcher.submit([ids(scripted, "hi")], [GREEDY] * 8)))[0]

    assert asyncio.run(work()) == "Hello, world", "rows were lost"


def test_a_prompt_that_is_not_finite_ends_alone(
    make: Made, tiny_model: Callable[..., Transformer], tiny_tokenizer: Tokenizer
) -> None:
    model = tiny_model(max_position_embeddings=128)
    bad = tiny_tokenizer.special["<|extra_1|>"]
    with torch.no_grad():
        model.embed_tokens.weight[bad] = float("nan")
    batcher = make(model, tiny_tokenizer)

    async def work() -> list[str]:
        running = batcher.submit([prompts(3)[2]], [GREEDY])
        read_together = [batcher.submit([ids], [GREEDY]) for ids in ([5, bad, 7], [9, 10, 13], [12, 13, bad])]
        for number in (0, 2):
            with pytest.raises(UserError, match="not finite"):
                await all_pieces(read_together[number])
        return [*await texts(running), *await texts(read_together[1])]

    alone = generate_batch(
        model, tiny_tokenizer.stop_ids, [prompts(3)[2], [9, 10, 13]], GREEDY, vocab_size=tiny_tokenizer.vocab_size,
        tokenizer=tiny_tokenizer,
    )  # fmt: skip
    assert asyncio.run(work()) == [sequence.text.take() for sequence in alone if sequence.text]


def test_a_long_prompt_is_read_between_the_steps_of_others(
    make: Made, tiny_model: Callable[..., Transformer], tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher_module, "READ_AT_ONCE", 16)
    model = tiny_model(max_position_embeddings=128)
    long, short = list(range(5, 85)), list(range(9, 15))
    sampling = SamplingConfig(temperature=0, max_new_tokens=30)
    passes: list[tuple[int, int]] = []
    read = model.hidden_states

    def noted(input_ids: torch.Tensor, **more: object) -> torch.Tensor:
        passes.append(tuple(input_ids.shape))  # type: ignore[arg-type]
        return read(input_ids, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "hidden_states", noted)
    batcher = make(model, tiny_tokenizer)

    async def work() -> list[str]:
        running = batcher.submit([short], [sampling])
        await anext(running)
        asked = batcher.submit([long], [sampling])
        given_up = batcher.submit([long], [sampling])
        given_up.cancel()
        return [*await texts(asked), *await texts(running)]

    told = asyncio.run(work())
    pieces = [place for place, shape in enumerate(passes) if shape == (1, 16)]
    assert len(pieces) == 5, "80 tokens, 16 at once"
    assert all((1, 1) in passes[one:other] for one, other in pairwise(pieces)), "nobody else was continued meanwhile"
    assert told[0] == asyncio.run(texts_alone(batcher, long, sampling))


async def texts_alone(batcher: Batcher, prompt_ids: list[int], sampling: SamplingConfig) -> str:
    return (await texts(batcher.submit([prompt_ids], [sampling])))[0]


def test_a_long_prompt_may_be_given_up_while_it_is_read(
    make: Made, tiny_model: Callable[..., Transformer], tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher_module, "READ_AT_ONCE", 2)
    batcher = make(tiny_model(max_position_embeddings=128), tiny_tokenizer)

    async def work() -> None:
        asked = batcher.submit([list(range(5, 125))], [GREEDY] * 3)
        await asyncio.to_thread(wait_for, lambda: batcher.num_running == 3)
        asked.cancel()
        await asyncio.to_thread(wait_for, lambda: batcher.num_running == 0)
        assert len(await texts(batcher.submit([[5, 6]], [GREEDY] * 8), 8)) == 8, "rows were lost"

    asyncio.run(work())


def refused(batcher: Batcher, prompt: list[int], samplings: Sequence[SamplingConfig], error: type[Exception]) -> None:
    async def work() -> None:
        with pytest.raises(error):
            batcher.submit([prompt], samplings)

    asyncio.run(work())


def test_what_can_never_be_served_is_refused_at_once(make: Made, scripted: ScriptedModel) -> None:
    batcher = make(scripted, scripted.tokenizer, max_rows=2)
    refused(batcher, [], [GREEDY], UserError)
    refused(batcher, [1] * 600, [GREEDY], UserError)
    refused(batcher, [1], [GREEDY] * 3, UserError)


def test_too_many_that_wait_are_refused_and_the_others_answered(make: Made, scripted: ScriptedModel) -> None:
    batcher, long = make(scripted, scripted.tokenizer, 1, 2), SamplingConfig(temperature=0, max_new_tokens=100)

    async def work() -> list[list[str]]:
        first = batcher.submit([ids(scripted, "count")], [long])
        await anext(first)
        waiting = [batcher.submit([ids(scripted, "hi")], [GREEDY]) for _ in range(2)]
        with pytest.raises(Busy):
            batcher.submit([ids(scripted, "hi")], [GREEDY])
        return await asyncio.gather(*map(texts, waiting))

    assert asyncio.run(work()) == [["Hello, world"]] * 2


def test_closing_lets_what_was_accepted_finish(make: Made, scripted: ScriptedModel) -> None:
    batcher = make(scripted, scripted.tokenizer, max_rows=1)
    scripted.delay = 0.005

    async def work() -> list[list[str]]:
        tickets = [batcher.submit([ids(scripted, "hi")], [GREEDY]) for _ in range(3)]
        closing = threading.Thread(target=batcher.close, args=(10.0,))
        closing.start()
        while batcher.is_alive:
            await asyncio.sleep(0.001)
        with pytest.raises(Closed):
            batcher.submit([ids(scripted, "hi")], [GREEDY])
        return await asyncio.gather(*map(texts, tickets))

    assert asyncio.run(work()) == [["Hello, world"]] * 3


def test_closing_ends_what_takes_too_long_with_an_error(make: Made, scripted: ScriptedModel) -> None:
    batcher = make(scripted, scripted.tokenizer, max_rows=1)
    scripted.delay = 0.02

    async def work() -> None:
        tickets = [batcher.submit([ids(scripted, "count")], [SamplingConfig(max_new_tokens=500)]) for _ in range(2)]
        await anext(tickets[0])
        await asyncio.to_thread(batcher.close, 0.05)
        for ticket in tickets:
            with pytest.raises(Closed):
                await all_pieces(ticket)

    asyncio.run(work())


def test_a_crowd_of_prompts_does_not_hold_up_the_others(make: Made, scripted: ScriptedModel) -> None:
    """Between two decoding steps no more than READ_AT_ONCE tokens of short prompts are read."""
    batcher = make(scripted, scripted.tokenizer, max_rows=8)

    async def work() -> None:
        first = batcher.submit([ids(scripted, "count")], [SamplingConfig(temperature=0, max_new_tokens=40)])
        await anext(first)
        crowd = [batcher.submit([ids(scripted, "7" * 300)], [GREEDY]) for _ in range(6)]
        await asyncio.gather(all_pieces(first), *map(all_pieces, crowd))

    asyncio.run(work())
    assert len(scripted.prompts) == 7
    reads = [number for number, (_, num_tokens) in enumerate(scripted.passes) if num_tokens > 1]
    assert all(later > earlier + 1 for earlier, later in pairwise(reads)), (
        "two prompts were read without a step between"
    )

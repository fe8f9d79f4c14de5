"""Generation: the cache computes what the full forward pass does, and a row is the same alone and in company (M07)."""

from collections.abc import Callable

import pytest
import torch

from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Engine, generate_batch
from danlu.model.cache import KVCache
from danlu.model.transformer import Context, Transformer

MakeModel = Callable[..., Transformer]
GREEDY = SamplingConfig(temperature=0, max_new_tokens=20)


def prompt(length: int) -> list[int]:
    return torch.randint(0, 300, (length,), generator=torch.Generator().manual_seed(length)).tolist()


@torch.no_grad()
def greedy_without_cache(model: Transformer, ids: list[int], count: int) -> list[int]:
    ids = list(ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[-count:]


@pytest.mark.parametrize("step", [1, 7, 20])
@pytest.mark.parametrize("key_heads", [4, 1])
@torch.no_grad()
def test_the_cache_gives_the_logits_of_the_full_forward_pass(tiny_model: MakeModel, step: int, key_heads: int) -> None:
    model = tiny_model(num_key_value_heads=key_heads)
    ids = torch.tensor([prompt(20)])
    cache = KVCache([0, 0], 3, key_heads, 32, 8, torch.float32, torch.device("cpu"))
    for stored in (*cache.keys, *cache.values):
        stored.normal_()  # leftovers of other rows
    pieces = [
        model(
            ids[:, at : at + step],
            context=Context(cache, torch.tensor([1]), torch.arange(at, min(at + step, 20))[None], min(at + step, 20)),
        )
        for at in range(0, 20, step)
    ]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), rtol=0, atol=1e-4)


def test_rows_that_come_and_go_are_continued_as_if_alone(tiny_model: MakeModel) -> None:
    model = tiny_model(num_key_value_heads=2)
    engine = Engine(model, [], GREEDY, max_rows=3)
    rows = {length: engine.admit(prompt(length)) for length in (3, 9, 17)}
    for _ in range(5):
        engine.step()
    engine.remove(rows.pop(17))
    rows[30] = engine.admit(prompt(30))
    while any(sequence.finish_reason is None for sequence in engine.rows.values()):
        engine.step()
    for length, row in rows.items():
        assert engine.rows[row].output_ids == greedy_without_cache(model, prompt(length), 20), (
            f"prompt of {length} tokens"
        )
        assert engine.rows[row].finish_reason == "length"


def test_a_batch_gives_each_prompt_what_it_gets_alone(tiny_model: MakeModel) -> None:
    model = tiny_model()
    prompts = [prompt(length) for length in (3, 9, 17, 30, 4)]
    stop = greedy_without_cache(model, prompts[1], 6)[-1]
    together = generate_batch(model, [stop], prompts, GREEDY, max_rows=2)
    for ids, sequence in zip(prompts, together, strict=True):
        expected = greedy_without_cache(model, ids, 20)
        reason = "stop" if stop in expected else "length"
        expected = expected[: expected.index(stop)] if stop in expected else expected
        assert (sequence.output_ids, sequence.finish_reason) == (expected, reason)
    assert together[1].finish_reason == "stop"


def test_a_sampled_row_does_not_depend_on_its_company(tiny_model: MakeModel) -> None:
    model = tiny_model()
    sampling = SamplingConfig(temperature=1.0, top_p=0.95, seed=4, max_new_tokens=15)
    prompts = [prompt(5), prompt(6), prompt(12)]
    assert [row.output_ids for row in generate_batch(model, [], prompts, sampling, max_rows=3)] == [
        row.output_ids for row in generate_batch(model, [], prompts, sampling, max_rows=1)
    ]


def test_the_same_prompt_answers_the_same_before_and_after_a_long_one(tiny_model: MakeModel) -> None:
    model = tiny_model()
    answers = [
        generate_batch(model, [], [prompt(length)], SamplingConfig(temperature=0, max_new_tokens=10))[0].output_ids
        for length in (20, 60, 20)
    ]
    with torch.no_grad():
        before = model(torch.tensor([prompt(20)]))
        model(torch.zeros(1, 500, dtype=torch.long))
        assert torch.equal(model(torch.tensor([prompt(20)])), before)
    assert answers[0] == answers[2]

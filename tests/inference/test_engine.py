"""Rows that come and go (known fault M07): what a row says depends on its prompt alone."""

from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from danlu.inference import engine as engine_module
from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Engine, NotFinite, generate_batch
from danlu.inference.sampling import Drawn, draw
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError

MakeModel = Callable[..., Transformer]
Logits = dict[torch.Generator, list[Tensor]]

GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=20)
LENGTHS = (3, 9, 17)
LATE = 30


def prompt(length: int) -> list[int]:
    return torch.randint(0, 300, (length,), generator=torch.Generator().manual_seed(length)).tolist()


@pytest.fixture
def logits(monkeypatch: pytest.MonkeyPatch) -> Logits:
    """The logits from which each row chose its tokens, by the row's generator."""
    seen: Logits = defaultdict(list)

    def noting(rows: Tensor, temperature: float, top_p: float, top_k: int, generators: list[torch.Generator]) -> Drawn:
        for row, generator in zip(rows, generators, strict=True):
            seen[generator].append(row.clone())
        return draw(rows, temperature, top_p, top_k, generators)

    monkeypatch.setattr(engine_module, "draw", noting)
    return seen


def alone(model: Transformer, ids: list[int], logits: Logits) -> tuple[list[int], Tensor]:
    """The ids and logits (20, V) of a prompt continued by itself."""
    engine = Engine(model, [], GREEDY)
    row = engine.admit(ids)
    while engine.rows[row].finish_reason is None:
        engine.step()
    sequence = engine.remove(row)
    return sequence.output_ids, torch.stack(logits[sequence.generator])


@pytest.mark.parametrize("num_key_value_heads", [4, 2])
def test_rows_that_come_and_go_equal_rows_alone(
    tiny_model: MakeModel, logits: Logits, num_key_value_heads: int
) -> None:
    model = tiny_model(num_key_value_heads=num_key_value_heads)
    engine = Engine(model, [], GREEDY, max_rows=len(LENGTHS))
    rows = {length: engine.admit(prompt(length)) for length in LENGTHS}
    for _ in range(4):
        engine.step()
    left = engine.remove(rows.pop(max(LENGTHS)))
    rows[LATE] = engine.admit(prompt(LATE))
    while any(engine.rows[row].finish_reason is None for row in rows.values()):
        engine.step()
    done = {length: engine.remove(row) for length, row in rows.items()}
    assert len(left.output_ids) == 5
    for length, sequence in {**done, max(LENGTHS): left}.items():
        ids, single = alone(model, prompt(length), logits)
        count = len(sequence.output_ids)
        assert sequence.output_ids == ids[:count], f"the row of {length} tokens differs from its run alone"
        assert count == (5 if sequence is left else 20)
        torch.testing.assert_close(torch.stack(logits[sequence.generator]), single[:count], atol=1e-4, rtol=0)


@pytest.mark.parametrize("max_rows", [1, 2, 64])
def test_a_batch_of_any_width_equals_one_at_a_time(tiny_model: MakeModel, max_rows: int) -> None:
    model, prompts = tiny_model(), [prompt(length) for length in (9, 3, 30, 17, 1)]
    wanted = [generate_batch(model, [], [ids], GREEDY)[0].output_ids for ids in prompts]
    results = generate_batch(model, [], prompts, GREEDY, max_rows=max_rows)
    assert [sequence.output_ids for sequence in results] == wanted
    assert generate_batch(model, [], [], GREEDY) == []


def test_a_seeded_row_draws_the_same_whatever_else_is_in_the_batch(tiny_model: MakeModel) -> None:
    model, sampling = tiny_model(), SamplingConfig(seed=5, temperature=1.0, top_p=0.95, max_new_tokens=12)
    (single,) = generate_batch(model, [], [prompt(9)], sampling)
    batch = generate_batch(model, [], [prompt(9), prompt(9), prompt(17)], sampling)
    again = generate_batch(model, [], [prompt(9), prompt(9), prompt(17)], sampling, max_rows=2)
    assert batch[0].output_ids == single.output_ids
    assert batch[1].output_ids != single.output_ids, "two rows of one batch draw alike"
    assert [row.output_ids for row in batch] == [row.output_ids for row in again]


def test_rows_say_why_they_ended(tiny_model: MakeModel) -> None:
    model = tiny_model()
    free = generate_batch(model, [], [prompt(9)], GREEDY)[0]
    assert free.finish_reason == "length"
    stop = next(token for token in free.output_ids if free.output_ids.index(token) >= 2)
    stopped = generate_batch(model, [stop], [prompt(9)], GREEDY)[0]
    assert stopped.finish_reason == "stop"
    assert stopped.output_ids == free.output_ids[: free.output_ids.index(stop)], "the end token is not part of the text"


def test_generation_ends_where_the_model_stops_reading(tiny_model: MakeModel) -> None:
    (sequence,) = generate_batch(tiny_model(), [], [prompt(60)], GREEDY)
    assert (len(sequence.output_ids), sequence.finish_reason) == (4, "length")


@pytest.mark.parametrize("length", [0, 64, 65])
def test_a_prompt_that_does_not_fit_is_refused_and_takes_no_row(tiny_model: MakeModel, length: int) -> None:
    engine = Engine(tiny_model(), [], GREEDY)
    with pytest.raises(UserError, match="prompt"):
        engine.admit(prompt(length))
    engine.remove(engine.admit(prompt(63)))


def test_a_prompt_that_fails_gives_its_row_back(tiny_model: MakeModel) -> None:
    model = tiny_model()
    engine = Engine(model, [], GREEDY)
    bias = model.layers[0].self_attn.qkv_proj.bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        engine.admit(prompt(3))
    with torch.no_grad():
        bias.copy_(before)
    row = engine.admit(prompt(3))
    with pytest.raises(ValueError, match="every row is taken"):
        engine.admit(prompt(3))
    engine.remove(row)


def poisoned(model: Transformer, token: int) -> None:
    """From now on `token` makes everything that reads it NaN."""
    with torch.no_grad():
        model.embed_tokens.weight[token] = float("nan")


def test_a_prompt_that_is_not_finite_leaves_nothing_behind_in_its_row(tiny_model: MakeModel) -> None:
    """M08: a mask gives NaN a weight of 0, and 0 times NaN is NaN."""
    sound, model = tiny_model(), tiny_model()
    poisoned(model, 299)
    engine = Engine(model, [], GREEDY, max_rows=2, vocab_size=299)
    with pytest.raises(NotFinite):
        engine.admit([5, 6, 299, 8, 9, 10, 11, 12])
    rows = engine.admit_all([[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [3, 4]])
    for _ in range(5):
        engine.step()
    alone = generate_batch(sound, [], [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [3, 4]], GREEDY, vocab_size=299)
    for row, expected in zip(rows, alone, strict=True):
        assert engine.rows[row].output_ids == expected.output_ids[:6]


def test_a_row_that_breaks_in_a_step_is_named_and_the_step_can_be_made_again(tiny_model: MakeModel) -> None:
    model = tiny_model()
    engine = Engine(model, [], SamplingConfig(temperature=1.0, max_new_tokens=20, seed=1), max_rows=2)
    first, second = engine.admit_all([prompt(4), prompt(9)])
    alone = Engine(model, [], SamplingConfig(temperature=1.0, max_new_tokens=20, seed=1))
    expected = alone.rows[alone.admit(prompt(4))]
    while engine.rows[first].output_ids[-1] == engine.rows[second].output_ids[-1]:
        engine.step()
        alone.step()
    token = engine.rows[second].output_ids[-1]
    kept = model.embed_tokens.weight[token].detach().clone()
    poisoned(model, token)
    before = list(engine.rows[first].output_ids)
    with pytest.raises(NotFinite) as broken:
        engine.step()
    assert broken.value.rows == [second]
    assert engine.rows[first].output_ids == before, "half a step was noted"
    engine.remove(second)
    with torch.no_grad():
        model.embed_tokens.weight[token] = kept
    for _ in range(3):
        engine.step()
        alone.step()
    assert engine.rows[first].output_ids == expected.output_ids, "the draws of the step that failed were lost"


@pytest.mark.parametrize("length", [16, 17, 40, 48])
def test_a_prompt_read_in_pieces_is_continued_as_one_read_whole(tiny_model: MakeModel, length: int) -> None:
    model = tiny_model()
    whole = generate_batch(model, [], [prompt(length), prompt(5)], GREEDY)
    engine = Engine(model, [], GREEDY, max_rows=4)
    beside = engine.admit(prompt(5))
    pieces = engine.admit_in_pieces(prompt(length), 16, copies=2)
    num_pieces = 1
    try:
        while True:
            next(pieces)
            num_pieces += 1
            engine.step()
    except StopIteration as end:
        rows = end.value
    assert num_pieces == -(-length // 16)
    while any(engine.rows[row].finish_reason is None for row in (*rows, beside)):
        engine.step()
    assert [engine.rows[row].output_ids for row in rows] == [whole[0].output_ids] * 2
    assert engine.rows[beside].output_ids == whole[1].output_ids


def test_a_prompt_that_is_given_up_between_two_pieces_frees_its_rows(tiny_model: MakeModel) -> None:
    engine = Engine(tiny_model(), [], GREEDY, max_rows=2)
    pieces = engine.admit_in_pieces(prompt(40), 16, copies=2)
    next(pieces)
    assert not engine.free
    pieces.close()
    assert len(engine.free) == 2
    assert not engine.rows


def test_a_step_without_anything_to_continue_does_nothing(tiny_model: MakeModel) -> None:
    engine = Engine(tiny_model(), [], SamplingConfig(temperature=0.0, max_new_tokens=1))
    engine.step()
    row = engine.admit(prompt(3))
    engine.step()
    assert len(engine.remove(row).output_ids) == 1


def test_padding_of_the_vocabulary_is_never_chosen(tiny_model: MakeModel) -> None:
    sampling = SamplingConfig(temperature=100.0, top_p=1.0, max_new_tokens=40, seed=1)
    (sequence,) = generate_batch(tiny_model(), [], [prompt(3)], sampling, vocab_size=10)
    assert max(sequence.output_ids) < 10


def test_a_model_can_be_trained_after_it_has_generated(tiny_model: MakeModel) -> None:
    model = tiny_model()
    generate_batch(model, [], [prompt(3)], GREEDY)
    model(torch.tensor([prompt(9)])).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_row_with_values_of_its_own_draws_alike_in_any_company(tiny_model: MakeModel) -> None:
    model = tiny_model()
    own = SamplingConfig(seed=11, temperature=1.3, top_p=0.9, max_new_tokens=12)
    others = [SamplingConfig(seed=1, temperature=0.5), GREEDY, SamplingConfig(seed=2, temperature=2.0, top_k=7)]

    def drawn(company: list[SamplingConfig]) -> list[int]:
        engine = Engine(model, [], GREEDY, max_rows=8)
        for number, sampling in enumerate(company):
            engine.admit_all([prompt(4 + number)], samplings=[sampling])
        (row,) = engine.admit_all([prompt(9)], samplings=[own])
        while engine.rows[row].finish_reason is None:
            engine.step()
        return engine.rows[row].output_ids

    assert drawn([]) == drawn(others) == drawn(others[:1])
    assert len(drawn([])) == 12, "the row's own limit did not hold"


def test_alternatives_are_the_models_own_probabilities(tiny_model: MakeModel) -> None:
    model = tiny_model()
    engine = Engine(model, [], GREEDY)
    (row,) = engine.admit_all([prompt(6)], samplings=[SamplingConfig(temperature=1.5, seed=3)], num_alternatives=4)
    for _ in range(5):
        engine.step()
    sequence = engine.rows[row]
    ids = prompt(6) + sequence.output_ids
    expected = model(torch.tensor([ids]))[0, 5:-1].double().log_softmax(-1)
    for place, noted in enumerate(sequence.alternatives):
        assert noted.logprob == pytest.approx(float(expected[place, sequence.output_ids[place]]), abs=1e-5)
        assert noted.ids == expected[place].topk(4).indices.tolist()
        assert noted.logprobs == pytest.approx(expected[place].topk(4).values.tolist(), abs=1e-5)


@pytest.mark.parametrize("shared", [1, 5, 30])
def test_a_prefix_read_once_changes_no_row(tiny_model: MakeModel, shared: int) -> None:
    model, prefix = tiny_model(), prompt(shared)
    prompts = [prefix + prompt(length) for length in (3, 9, 17, 4, 1)]
    plain = generate_batch(model, [], prompts, GREEDY, max_rows=3)
    once = generate_batch(model, [], prompts, GREEDY, max_rows=3, prefix=prefix)
    assert [each.output_ids for each in once] == [each.output_ids for each in plain]

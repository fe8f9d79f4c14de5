"""The record of a generation: for every token what it was drawn from, and how probable it was there."""

from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from danlu.inference import engine as engine_module
from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Sequence, generate_batch
from danlu.inference.sampling import Drawn, draw, token_probabilities
from danlu.model.transformer import Transformer

MakeModel = Callable[..., Transformer]
Logits = dict[torch.Generator, list[Tensor]]

SAMPLING = SamplingConfig(temperature=0.8, top_p=0.9, seed=3, max_new_tokens=12)
LENGTHS = (5, 11, 2, 20)


def prompt(length: int) -> list[int]:
    return torch.randint(0, 300, (length,), generator=torch.Generator().manual_seed(length)).tolist()


PROMPTS = [prompt(length) for length in LENGTHS]


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


def assert_recorded(sequence: Sequence, logits: list[Tensor], sampling: SamplingConfig) -> None:
    """The record is what `token_probabilities` says of the same logits."""
    drawn = sequence.response_ids
    assert len(sequence.logprobs) == len(drawn) == len(logits), "a token has no record"
    everything = sampling.top_p == 1 and not sampling.top_k
    assert len(sequence.nuclei) == (0 if everything else len(drawn))
    for place, (token, row) in enumerate(zip(drawn, logits, strict=True)):
        spread = token_probabilities(row[None], sampling.temperature, sampling.top_p, sampling.top_k)[0]
        support = spread.nonzero()[:, 0].tolist()
        members = spread.argsort(descending=True).tolist() if everything else sequence.nuclei[place].tolist()
        assert sequence.logprobs[place] == pytest.approx(float(spread[token].log()), abs=1e-6), f"token {place}"
        if everything:
            continue
        assert sorted(members) == support, f"the nucleus of token {place} is not the support it was drawn from"
        assert [float(spread[i]) for i in members] == sorted(spread[support].tolist(), reverse=True), "not best first"
        assert token in members


@pytest.mark.parametrize(
    "sampling",
    [SAMPLING, SamplingConfig(temperature=1.5, top_p=1.0, seed=3), SamplingConfig(temperature=1.0, top_k=5, seed=3)],
    ids=["nucleus", "everything", "best five"],
)
def test_every_token_is_recorded_with_its_nucleus_and_its_probability_in_it(
    tiny_model: MakeModel, logits: Logits, sampling: SamplingConfig
) -> None:
    model = tiny_model(num_key_value_heads=2)
    sequences = generate_batch(model, [4, 5], PROMPTS, sampling, max_rows=3, vocab_size=290, record=True)
    for sequence in sequences:
        assert_recorded(sequence, logits[sequence.generator], sampling)
        assert all(int(nucleus.max()) < 290 for nucleus in sequence.nuclei), "padding of the vocabulary was drawn from"


def test_the_end_token_is_recorded_and_no_part_of_the_text(tiny_model: MakeModel, logits: Logits) -> None:
    model = tiny_model()
    free = generate_batch(model, [], PROMPTS, SAMPLING)
    stop = free[1].output_ids[6]
    sequences = generate_batch(model, [stop, 299], PROMPTS, SAMPLING, record=True)
    stopped = sequences[1]
    first = free[1].output_ids.index(stop)
    assert (stopped.finish_reason, stopped.stop_id) == ("stop", stop)
    assert stopped.output_ids == free[1].output_ids[:first], "recording changed what is drawn"
    assert stopped.response_ids == [*stopped.output_ids, stop]
    assert_recorded(stopped, logits[stopped.generator], SAMPLING)
    for sequence in sequences:
        ended = sequence.finish_reason == "stop"
        assert (sequence.stop_id is not None) is ended
        assert sequence.response_ids == sequence.output_ids + ([sequence.stop_id] if ended else [])


def test_a_row_cut_at_the_limit_has_no_end_token(tiny_model: MakeModel) -> None:
    (sequence,) = generate_batch(tiny_model(), [], PROMPTS[:1], SAMPLING, record=True)
    assert (sequence.finish_reason, sequence.stop_id) == ("length", None)
    assert sequence.response_ids == sequence.output_ids
    assert len(sequence.logprobs) == len(sequence.nuclei) == SAMPLING.max_new_tokens


def test_a_greedy_token_is_certain_and_its_nucleus_is_itself(tiny_model: MakeModel) -> None:
    model, greedy = tiny_model(), SamplingConfig(temperature=0.0, max_new_tokens=8)
    stop = generate_batch(model, [], PROMPTS[:1], greedy)[0].output_ids[5]
    for sequence in generate_batch(model, [stop], PROMPTS, greedy, record=True):
        assert sequence.logprobs == [0.0] * len(sequence.response_ids)
        assert [nucleus.tolist() for nucleus in sequence.nuclei] == [[token] for token in sequence.response_ids]


def test_a_row_is_recorded_alike_alone_and_in_company(tiny_model: MakeModel) -> None:
    model = tiny_model()
    wide, narrow = (
        generate_batch(model, [4], PROMPTS, SAMPLING, max_rows=max_rows, record=True) for max_rows in (4, 1)
    )
    for together, alone in zip(wide, narrow, strict=True):
        assert together.response_ids == alone.response_ids
        assert together.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert [set(ids.tolist()) for ids in together.nuclei] == [set(ids.tolist()) for ids in alone.nuclei]


def test_nothing_is_recorded_unless_asked(tiny_model: MakeModel) -> None:
    (sequence,) = generate_batch(tiny_model(), [], PROMPTS[:1], SAMPLING)
    assert (sequence.logprobs, sequence.nuclei) == ([], [])
    assert len(sequence.response_ids) == SAMPLING.max_new_tokens

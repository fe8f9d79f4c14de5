"""The published Qwen v1 code's own logits and greedy ids, of a tiny checkpoint in its layout."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Engine
from danlu.inference.loglikelihood import loglikelihoods
from danlu.model.checkpoint import load_model
from danlu.model.extension import ContextExtension
from danlu.model.transformer import Transformer

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
LENGTHS = {
    "qwen1-plain": (1, 7, 15, 16, 17, 25, 32, 33, 53, 80),
    "qwen1-ntk-logn": (1, 7, 31, 32, 33, 41, 64, 65, 101, 160),
}
CASES = [(name, length) for name, lengths in LENGTHS.items() for length in lengths]
TRAINING_LENGTHS = {"qwen1-plain": 16, "qwen1-ntk-logn": 32}

Published = tuple[Transformer, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def published() -> dict[str, Published]:
    """Each model with the published code's values."""
    if not GOLDEN.is_dir():
        pytest.skip(f"the published code's values are not at {GOLDEN}")
    return {name: (load_model(GOLDEN / name), load_file(GOLDEN / name / "golden.safetensors")) for name in LENGTHS}


def test_the_shape_is_read_from_the_published_names(published: dict[str, Published]) -> None:
    plain, extended = (published[name][0].config for name in LENGTHS)
    assert (plain.intermediate_size, plain.max_position_embeddings, plain.head_size) == (128, 16, 16)
    assert (extended.max_position_embeddings, extended.training_length) == (256, 32)
    assert extended.extension == ContextExtension(training_length=32, dynamic_ntk=True, logn=True)


@pytest.mark.parametrize(("name", "length"), CASES)
def test_logits_are_those_of_the_published_code(published: dict[str, Published], name: str, length: int) -> None:
    """Past the training length the published code's float32 angles alone differ from ours, formed in float64."""
    model, golden = published[name]
    with torch.no_grad():
        logits = model(golden[f"ids.{length}"][None])[0]
    difference = float((logits - golden[f"logits.{length}"]).abs().max())
    assert difference < (1e-4 if length <= TRAINING_LENGTHS[name] else 2e-3)


@pytest.mark.parametrize(("name", "length"), CASES)
def test_decoding_with_the_cache_is_that_of_the_published_code(
    published: dict[str, Published], name: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt's alpha is kept while decoding."""
    model, golden = published[name]
    # The published code goes on past its training length; the engine would stop there.
    longest = max(model.config.max_position_embeddings, 128)
    extension = replace(model.config.extension, training_length=TRAINING_LENGTHS[name])
    monkeypatch.setattr(model, "config", replace(model.config, max_position_embeddings=longest, extension=extension))
    logits: list[torch.Tensor] = []
    monkeypatch.setattr(model.lm_head, "forward", noted(model.lm_head.forward, logits))
    expected = golden[f"greedy.{length}"].tolist()
    engine = Engine(model, [], SamplingConfig(temperature=0, max_new_tokens=len(expected)), max_rows=2)
    beside = engine.admit([3, 4, 5])  # Of another length, and so of another alpha.
    row = engine.admit(golden[f"ids.{length}"].tolist())
    logits.clear()
    while engine.rows[row].finish_reason is None:
        engine.step()
    assert engine.rows[row].output_ids == expected
    steps = torch.stack([each[-1] for each in logits])
    assert float((steps - golden[f"decode_logits.{length}"]).abs().max()) < 2e-3
    engine.remove(beside)


def noted(forward: Callable[[torch.Tensor], torch.Tensor], logits: list[torch.Tensor]) -> Any:
    """`forward`, whose results are put down."""

    def note(hidden: torch.Tensor) -> torch.Tensor:
        logits.append(forward(hidden))
        return logits[-1]

    return note


def test_likelihoods_of_texts_of_many_lengths_are_those_of_the_whole_pass(published: dict[str, Published]) -> None:
    """Texts that share a beginning and differ in alpha share nothing that was read."""
    model, golden = published["qwen1-ntk-logn"]
    ids = golden["ids.160"].tolist()
    requests = [(ids[: end - 4], ids[end - 4 : end]) for end in (20, 30, 40, 60, 70, 100, 150)]
    found = {number: likelihood.logprob for piece in loglikelihoods(model, requests) for number, likelihood in piece}
    for number, (context, continuation) in enumerate(requests):
        with torch.no_grad():
            logprobs = model(torch.tensor([[*context, *continuation[:-1]]]))[0].log_softmax(-1)
        expected = logprobs[-4:].gather(1, torch.tensor(continuation)[:, None]).sum()
        assert found[number] == pytest.approx(float(expected), abs=1e-4)


def test_a_prompt_is_read_alike_before_and_after_a_long_one(published: dict[str, Published]) -> None:
    """M02."""
    golden = published["qwen1-ntk-logn"][1]
    model = load_model(GOLDEN / "qwen1-ntk-logn")  # Whose tables are as short as they begin.
    short, long = golden["ids.7"][None], golden["ids.160"].repeat(3)[None]
    engine = Engine(model, [], SamplingConfig(temperature=0, max_new_tokens=20))

    def said() -> list[int]:
        row = engine.admit(short[0].tolist())
        while engine.rows[row].finish_reason is None:
            engine.step()
        return engine.remove(row).output_ids

    with torch.no_grad():
        before, before_said = model(short), said()
        model(long)
        engine.remove(engine.admit(long[0, :250].tolist()))
        assert torch.equal(model(short), before)
    assert said() == before_said

"""The published Qwen v1 code's own logits and greedy ids, of a tiny checkpoint in its layout."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Engine
from danlu.model.checkpoint import load_model
from danlu.model.transformer import Transformer

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "qwen1-plain"
LENGTHS = (1, 7, 15, 16, 17, 25, 32, 33, 53, 80)
TRAINING_LENGTH = 16


@pytest.fixture(scope="module")
def model() -> Transformer:
    if not GOLDEN.is_dir():
        pytest.skip(f"the published code's values are not at {GOLDEN}")
    return load_model(GOLDEN)


@pytest.fixture(scope="module")
def golden(model: Transformer) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "golden.safetensors")


def test_the_shape_is_read_from_the_published_names(model: Transformer) -> None:
    config = model.config
    assert (config.intermediate_size, config.max_position_embeddings, config.head_dim) == (128, TRAINING_LENGTH, 16)


@pytest.mark.parametrize("length", LENGTHS)
def test_logits_are_those_of_the_published_code(
    model: Transformer, golden: dict[str, torch.Tensor], length: int
) -> None:
    """Past the training length the published code's float32 angles alone differ from ours, formed in float64."""
    with torch.no_grad():
        logits = model(golden[f"ids.{length}"][None])[0]
    difference = float((logits - golden[f"logits.{length}"]).abs().max())
    assert difference < (1e-4 if length <= TRAINING_LENGTH else 2e-3)


@pytest.mark.parametrize("length", LENGTHS)
def test_greedy_decoding_with_the_cache_is_that_of_the_published_code(
    model: Transformer, golden: dict[str, torch.Tensor], length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The published code goes on past its training length; the engine would stop there.
    monkeypatch.setattr(model, "config", type(model.config)(**{**vars(model.config), "max_position_embeddings": 128}))
    expected = golden[f"greedy.{length}"].tolist()
    engine = Engine(model, [], SamplingConfig(temperature=0, max_new_tokens=len(expected)))
    row = engine.admit(golden[f"ids.{length}"].tolist())
    while engine.rows[row].finish_reason is None:
        engine.step()
    assert engine.rows[row].output_ids == expected

"""A new model's weights: their deviations, and what they come to in the residual stream."""

import math

import pytest
import torch

from danlu.model.config import ModelConfig
from danlu.model.transformer import Transformer


def new_model(layers: int) -> Transformer:
    shape = ModelConfig(
        vocab_size=512, hidden_size=256, intermediate_size=704, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    model = Transformer(shape)
    model.initialise(torch.Generator().manual_seed(3))
    return model


def test_matrices_have_the_configured_deviation_and_those_that_add_to_the_stream_a_narrower_one() -> None:
    layers = 8
    for name, parameter in new_model(layers).named_parameters():
        if parameter.dim() == 1:
            assert parameter.unique().tolist() == [0.0 if name.endswith("bias") else 1.0], name
        else:
            adds = "o_proj" in name or "down_proj" in name
            wanted = 0.02 / math.sqrt(2 * layers) if adds else 0.02
            assert parameter.std().item() == pytest.approx(wanted, rel=0.02), name
            assert abs(parameter.mean().item()) < wanted / 50, name


def test_what_all_layers_add_to_the_stream_hardly_grows_with_their_number() -> None:
    ids = torch.randint(512, (4, 64), generator=torch.Generator().manual_seed(4))
    added = []
    for layers in (2, 32):
        model = new_model(layers)
        model.norm = torch.nn.Identity()  # type: ignore[assignment]
        with torch.no_grad():
            added.append((model.hidden_states(ids) - model.embed_tokens(ids)).std().item())
    # Equal deviations would make it sqrt(32 / 2) = 4 times. (It grows a little: what layers add makes tokens more
    # alike, and the mean over them that attention takes is the larger for it.)
    assert added[1] < 2 * added[0]

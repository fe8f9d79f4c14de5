"""The table of `danlu model info`: the sizes of the recipe have the published numbers of parameters."""

from pathlib import Path

import pytest
import torch

from danlu.cli import main
from danlu.model.config import ModelConfig
from danlu.model.describe import describe
from danlu.model.extension import ContextExtension
from danlu.model.transformer import Transformer, cache_for
from danlu.recipe import Recipe
from danlu.run.recipe_file import read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"

PUBLISHED = {"qwen-1.8b": 1_836_828_672, "qwen-7b": 7_721_324_544, "qwen-14b": 14_167_290_880}
"""Parameters in the index files of the published checkpoints."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_recipes_sizes_are_the_published_ones(name: str) -> None:
    recipe = read_recipe(RECIPES / f"{name}.toml", Recipe)
    assert describe(name, recipe.pretrain.model, 2048).num_parameters == PUBLISHED[name]
    assert recipe.pretrain.step.sequence_length * recipe.pretrain.step.batch_size == 4 * 2**20


@pytest.mark.parametrize("tied", [False, True])
def test_figures_are_those_of_a_model_that_is_there(tied: bool) -> None:
    config = ModelConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    found, model = describe("m", config, 64), Transformer(config)
    assert found.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.num_embedding_parameters == 300 * 32 * (1 if tied else 2)
    assert found.bf16_bytes == sum(parameter.numel() for parameter in model.bfloat16().parameters()) * 2
    assert found.cache_bytes == 1024 * 2 * 2 * 2 * 8 * 2, "tokens, keys and values, layers, heads, width, bytes"


def test_layers_with_a_window_cache_no_more_than_that() -> None:
    config = ModelConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, extension=ContextExtension(windows=(256, 0)),
    )  # fmt: skip
    cache = cache_for(Transformer(config).bfloat16(), rows=1, slots=1024)
    assert describe("m", config, 64).cache_bytes == pytest.approx(cache.num_bytes, rel=0.01)


def test_decoding_takes_what_the_profiler_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = ModelConfig(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=4)  # fmt: skip
    model, ids = Transformer(config), torch.randint(0, 300, (1, 64))
    with FlopCounterMode(display=False) as counter:
        model(ids)
    # The counter takes the whole square of a causal mask, as each token's own work at the end of a text.
    assert counter.get_total_flops() == pytest.approx(64 * describe("m", config, 64).decode_flops, rel=0.02)


def test_the_table_names_recipes_and_folders(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "info", str(RECIPES / "demo.toml"), str(RECIPES / "qwen-7b.toml")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("| | demo | qwen-7b |")
    assert "| parameters | 3,346,368 | 7,721,324,544 |" in out
    assert main(["model", "info"]) == 1
    assert "names no model" in capsys.readouterr().err

"""What Danlu saves is a `Qwen2ForCausalLM`: transformers opens it and computes the same, and the other way round."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from danlu.model.checkpoint import load_model, save_model
from danlu.model.transformer import Transformer

MakeModel = Callable[..., Transformer]

SHAPES: dict[str, dict[str, Any]] = {
    "as many key heads as query heads": {},
    "grouped queries": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1},
    "tied embeddings": {"tie_word_embeddings": True},
    "tied, grouped, another base and another epsilon": {
        "tie_word_embeddings": True,
        "num_key_value_heads": 2,
        "rope_theta": 1_000_000.0,
        "rms_norm_eps": 1e-5,
    },
    "Qwen3": {"family": "Qwen3", "num_key_value_heads": 2},
    "Qwen3, heads wider than their share": {"family": "Qwen3", "head_dim": 24, "tie_word_embeddings": True},
    "Llama": {"family": "Llama", "num_key_value_heads": 2, "rms_norm_eps": 1e-5},
    "Llama, narrow heads": {"family": "Llama", "head_dim": 4},
    "wide heads and an odd vocabulary": {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 301},
}


def some_ids(rows: int = 3, length: int = 50) -> torch.Tensor:
    return torch.randint(0, 300, (rows, length), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_transformers_computes_the_same_logits(tiny_model: MakeModel, tmp_path: Path, shape: dict[str, Any]) -> None:
    model = tiny_model(**shape)
    save_model(tmp_path / "m", model, None, [1, 2], 1)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    assert type(theirs).__name__ == f"{model.config.family}ForCausalLM"
    with torch.no_grad():
        ours, reference = model(some_ids()), theirs(some_ids()).logits
    assert ours.abs().max() > 1, "logits this small would hide a difference"
    difference = float((ours - reference).abs().max())
    assert difference < 2e-5, f"logits differ by {difference:.1e} (the promise is 1e-4)"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "Llama"])
@pytest.mark.parametrize("max_shard_size", ["10GB", "40KB"])
def test_we_open_what_transformers_saves(tmp_path: Path, family: str, tied: bool, max_shard_size: str) -> None:
    torch.manual_seed(3)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rope_theta=500_000.0,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    theirs = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    theirs.save_pretrained(tmp_path / "m", max_shard_size=max_shard_size)
    assert (tmp_path / "m" / "model.safetensors").is_file() == (max_shard_size == "10GB")
    ours = load_model(tmp_path / "m")
    assert (ours.config.tie_word_embeddings, ours.config.max_position_embeddings) == (tied, 64)
    with torch.no_grad():
        difference = float((ours(some_ids()) - theirs(some_ids()).logits).abs().max())
    assert difference < 2e-5, f"logits differ by {difference:.1e}"


def test_gradients_are_those_of_transformers(tiny_model: MakeModel, tmp_path: Path) -> None:
    model = tiny_model(num_key_value_heads=2)
    save_model(tmp_path / "m", model, None, [1], 1)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").train()
    ids = some_ids()
    for logits in (model.train()(ids), theirs(ids).logits):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    reference = dict(theirs.named_parameters())
    for name in (
        "embed_tokens.weight",
        "norm.weight",
        "layers.0.self_attn.o_proj.weight",
        "layers.1.mlp.down_proj.weight",
    ):
        ours, other = model.get_parameter(name).grad, reference[f"model.{name}"].grad
        assert ours is not None
        assert other is not None
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    fused = model.get_parameter("layers.0.self_attn.qkv_proj.weight").grad
    parts = [reference[f"model.layers.0.self_attn.{part}_proj.weight"].grad for part in "qkv"]
    torch.testing.assert_close(fused, torch.cat(parts), rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]


SCALINGS: dict[str, dict[str, Any]] = {
    "interpolation": {"rope_type": "linear", "factor": 4.0},
    "YaRN": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "YaRN with values of its own": {
        "rope_type": "yarn",
        "factor": 3.0,
        "original_max_position_embeddings": 32,
        "beta_fast": 8.0,
        "beta_slow": 2.0,
        "attention_factor": 1.3,
    },
}


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_an_extended_model_is_computed_alike_and_saved_alike(tmp_path: Path, scaling: dict[str, Any]) -> None:
    torch.manual_seed(3)
    config = transformers.Qwen2Config(
        vocab_size=300, hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, initializer_range=0.15,
        rope_parameters={"rope_theta": 10_000.0, **scaling},
    )  # fmt: skip
    theirs = transformers.Qwen2ForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "m")
    ours = load_model(tmp_path / "m")
    assert ours.config.max_position_embeddings == 32 * scaling["factor"]
    ids = some_ids(length=120 if scaling["factor"] == 4 else 90)
    with torch.no_grad():
        difference = float((ours(ids) - theirs(ids).logits).abs().max())
    assert difference < 1e-4, f"logits differ by {difference:.1e}"
    save_model(tmp_path / "again", ours, None, [1], 1)
    assert load_model(tmp_path / "again").config == ours.config
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
    with torch.no_grad():
        assert float((ours(ids) - again(ids).logits).abs().max()) < 1e-4

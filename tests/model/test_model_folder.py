"""Model folders: what is saved is what is read, and a folder that lacks something is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import danlu
from danlu.model.checkpoint import load_model, save_model
from danlu.model.config import ModelConfig
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.tokenizer.bpe import Tokenizer

MakeModel = Callable[..., Transformer]
IDS = torch.arange(40).view(2, 20)


@pytest.fixture
def folder(tiny_model: MakeModel, tiny_tokenizer_folder: Path, tmp_path: Path) -> Path:
    save_model(tmp_path / "m", tiny_model(num_key_value_heads=2), tiny_tokenizer_folder, [7, 9], 7)
    return tmp_path / "m"


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        load_model(folder)
    assert "\n" not in str(error.value), "the refusal must be one line"
    return str(error.value)


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_computes_bit_for_bit_the_same(tiny_model: MakeModel, tmp_path: Path, tied: bool) -> None:
    model = tiny_model(tie_word_embeddings=tied, num_key_value_heads=2)
    save_model(tmp_path / "m", model, None, [1], 1)
    again = load_model(tmp_path / "m")
    assert again.config == model.config
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(IDS), model(IDS))
    assert ("lm_head.weight" in load_file(tmp_path / "m" / "model.safetensors")) is not tied
    assert (again.lm_head.weight is again.embed_tokens.weight) is tied


def test_the_door_load_gives_model_and_tokenizer(folder: Path, tiny_tokenizer: Tokenizer) -> None:
    model, tokenizer = danlu.load(folder, device="cpu")
    assert tokenizer is not None
    assert tokenizer.encode("你好 river") == tiny_tokenizer.encode("你好 river")
    assert model(IDS).shape == (2, 20, 300)
    for name in ("tokenizer.json", "qwen.tiktoken", "tokenizer_config.json"):
        (folder / name).unlink()
    assert danlu.load(folder)[1] is None, "a folder without a tokenizer gives None for it"


def test_a_model_can_be_opened_in_bfloat16(folder: Path) -> None:
    assert {parameter.dtype for parameter in load_model(folder, torch.bfloat16).parameters()} == {torch.bfloat16}


def test_saving_over_a_model_leaves_only_the_new_one(folder: Path, tiny_model: MakeModel) -> None:
    new = tiny_model(seed=2, num_hidden_layers=1)
    save_model(folder, new, None, [1], 1)
    with torch.no_grad():
        assert torch.equal(load_model(folder)(IDS), new(IDS))
    assert {path.name for path in folder.parent.iterdir()} == {"m"}, "something was left beside the model"
    assert not (folder / "tokenizer.json").exists(), "a file of the old folder survived"


def test_a_missing_tensor_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.self_attn.k_proj.bias"]
    save_file(tensors, folder / "model.safetensors")
    assert "`model.layers.1.self_attn.k_proj.bias` is missing" in refusal(folder)


def test_an_untied_model_without_a_head_is_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    assert "`lm_head.weight` is missing" in refusal(folder)


def test_a_misshapen_tensor_is_named_with_both_shapes(folder: Path) -> None:
    edit_config(folder, intermediate_size=40)
    message = refusal(folder)
    assert "gate_proj" in message
    assert "(48, 32)" in message
    assert "(40, 32)" in message


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_cut_off_is_refused(folder: Path, share: float) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "not a whole safetensors file" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_absent_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name in refusal(folder)


def test_an_absent_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model folder"):
        danlu.load(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"{", b"[]", b"3", b"\xff\xfe{}", b""])
def test_a_config_that_is_no_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mamba"}, "'mamba'"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": 33}, "hidden_size 33"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"rope_theta": "far"}, "rope_theta"),
        ({"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}, "yarn"),
        ({"head_dim": 15}, "head_dim"),
        ({"model_type": "llama", "attention_bias": True}, "attention_bias"),
        ({"model_type": "llama", "mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
    ],
)
def test_a_config_that_asks_for_what_we_do_not_compute_is_refused(
    folder: Path, change: dict[str, Any], named: str
) -> None:
    edit_config(folder, **change)
    message = refusal(folder)
    assert "config.json" in message
    assert named in message


def test_the_end_of_a_generation_is_the_same_in_every_file(folder: Path) -> None:
    config, generation = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "generation_config"))
    assert config["eos_token_id"] == generation["eos_token_id"] == [7, 9]
    assert config["pad_token_id"] == generation["pad_token_id"] == 7


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"hidden_size": 30}, "hidden_size 30"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"vocab_size": -1}, "vocab_size"),
    ],
)
def test_sizes_that_cannot_work_together_are_refused(
    tiny_shape: Callable[..., ModelConfig], numbers: dict[str, int], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        tiny_shape(**numbers)

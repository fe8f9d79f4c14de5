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


def test_a_head_that_was_trained_apart_and_a_vocabulary_that_has_grown_are_saved_as_they_are(
    tiny_model: MakeModel, tmp_path: Path
) -> None:
    model = tiny_model(tie_word_embeddings=True)
    before = model.config.vocab_size
    grown = torch.cat((model.embed_tokens.weight, torch.randn(5, model.config.hidden_size))).detach()
    model.embed_tokens.weight, model.lm_head.weight = (torch.nn.Parameter(each) for each in (grown, grown * 1.5))
    save_model(tmp_path / "m", model, None, [1], 1)
    again = load_model(tmp_path / "m")
    assert (again.config.tie_word_embeddings, again.config.vocab_size) == (False, before + 5)
    with torch.no_grad():
        assert torch.equal(again(IDS + 5), model(IDS + 5))


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


def test_a_tensor_without_a_place_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tables = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file({**tensors, **tables}, folder / "model.safetensors")
    load_model(folder)
    save_file({**tensors, "model.layers.0.mlp.experts": torch.ones(4)}, folder / "model.safetensors")
    assert "no tensor `model.layers.0.mlp.experts`" in refusal(folder)


def test_a_head_of_its_own_under_a_tied_flag_is_refused(folder: Path) -> None:
    """M04: a merged model's flag may still say tied."""
    tensors = load_file(folder / "model.safetensors")
    edit_config(folder, tie_word_embeddings=True)
    assert "tie_word_embeddings is true" in refusal(folder)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    load_model(folder)


@pytest.fixture
def sharded(folder: Path) -> Path:
    """The folder with its tensors in two files."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, own in files.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    weight_map = {name: file for file, own in files.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def edit_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_two_files_are_one_model(sharded: Path) -> None:
    load_model(sharded)


def test_an_index_that_names_an_absent_file_is_refused(sharded: Path) -> None:
    (sharded / "b.safetensors").unlink()
    message = refusal(sharded)
    assert "index.json" in message
    assert "b.safetensors" in message


def test_an_index_that_leads_out_of_the_folder_does_not(sharded: Path) -> None:
    edit_index(sharded, lambda places: places.update({name: f"../../{file}" for name, file in places.items()}))
    load_model(sharded)


def test_a_tensor_that_the_index_promises_is_named(sharded: Path) -> None:
    edit_index(sharded, lambda places: places.update({"model.norm.weight": "a.safetensors"}))
    assert "`model.norm.weight` is not in it" in refusal(sharded)


def test_an_old_file_that_the_index_does_not_name_is_left_alone(sharded: Path) -> None:
    """M11: shards of an older model in a folder that was used again."""
    save_file({"model.norm.weight": torch.full((32,), 7.0)}, sharded / "c.safetensors")
    assert float(load_model(sharded).norm.weight.detach().max()) != 7.0


def test_a_shard_cut_off_is_named(sharded: Path) -> None:
    path = sharded / "a.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert "a.safetensors: not a whole safetensors file" in refusal(sharded)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 5}', '{"weight_map": {}}'])
def test_an_index_that_is_none_is_refused(sharded: Path, content: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refusal(sharded)


def test_a_pickle_is_never_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    assert "pickles" in refusal(folder)


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
        *(({"use_sliding_window": True, "sliding_window": it}, "sliding_window") for it in ("8", 8.5, True, 10**30, 0)),
        ({"use_sliding_window": "false", "sliding_window": 8}, "use_sliding_window"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers must be a whole number"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false"),
        ({"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention"]}, "layer_types"),
        ({"use_sliding_window": True, "sliding_window": 8, "layer_types": [["x"], 3]}, "layer_types"),
        ({"model_type": "llama", "use_sliding_window": True, "sliding_window": 8}, "sliding window"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 4.0, "rope_theta": 1e4}}, "longrope"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 0.5}}, "yarn_factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "4"}}, "factor"),
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

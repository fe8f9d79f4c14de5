"""From one layout to another and back: every number and every weight survives; a Qwen v1 Chat folder answers (S13)."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import danlu
from danlu.cli import main
from danlu.evaluation.benchmark import has_chat_template
from danlu.model.checkpoint import check_savable, leave_extension_out, load_model, save_model
from danlu.model.convert import convert
from danlu.model.extension import ContextExtension
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.serving.config import ServeConfig
from danlu.serving.server import make_engine
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.formats import Vocabulary
from danlu.tokenizer.special import special_tokens

MakeModel = Callable[..., Transformer]
MakeFolder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: MakeModel, tiny_tokenizer: Tokenizer) -> MakeFolder:
    """A function that makes a model folder, whose tokenizer has all of Qwen v1's special tokens."""
    ranks = tiny_tokenizer.vocabulary.ranks
    tokenizer = Tokenizer(Vocabulary(ranks, special_tokens(len(ranks))))
    tokenizer.save(tmp_path / "tokenizer")

    def make(dtype: torch.dtype = torch.float32, **shape: Any) -> Path:
        model = tiny_model(**{"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 64, **shape}, dtype=dtype)
        save_model(tmp_path / "m", model, tmp_path / "tokenizer", list(tokenizer.stop_ids), tokenizer.end_of_text_id)
        return tmp_path / "m"

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [{}, {"tie_word_embeddings": True, "rope_theta": 1e6, "rms_norm_eps": 1e-5}])
def test_qwen_v1_comes_back_bit_by_bit(
    folder: MakeFolder, tmp_path: Path, shape: dict[str, Any], dtype: torch.dtype
) -> None:
    source = folder(dtype, **shape)
    convert(source, tmp_path / "v1", "qwen-v1", None)
    convert(tmp_path / "v1", tmp_path / "back", "hf", None)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "qwen.tiktoken"):
        assert (tmp_path / "back" / name).read_text("utf-8") == (source / name).read_text("utf-8"), name
    assert (tmp_path / "back/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_v1_holds_context_extension_that_hugging_face_cannot(
    folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(folder(), tmp_path / "v1", "qwen-v1", None)
    written = json.loads((tmp_path / "v1/config.json").read_text("utf-8"))
    written |= {"use_dynamic_ntk": True, "use_logn_attn": True, "seq_length": 32, "max_position_embeddings": 128}
    (tmp_path / "v1/config.json").write_text(json.dumps(written), encoding="utf-8")
    own = ContextExtension(training_length=32, dynamic_ntk=True, logn=True)
    assert load_model(tmp_path / "v1").config.extension == own
    convert(tmp_path / "v1", tmp_path / "again", "qwen-v1", None)
    assert json.loads((tmp_path / "again/config.json").read_text("utf-8")) == written
    with pytest.raises(UserError, match="no word for dynamic_ntk"):
        convert(tmp_path / "v1", tmp_path / "hf", "hf", None)
    assert not (tmp_path / "hf").exists()
    assert main(["convert", str(tmp_path / "v1"), str(tmp_path / "hf"), "--to", "hf", "--extend", "none"]) == 0
    plain = load_model(tmp_path / "hf")
    assert (plain.config.extension, plain.config.max_position_embeddings) == (ContextExtension(), 32)
    # What is trained is saved without them, and says so before.
    model = load_model(tmp_path / "v1")
    leave_extension_out(model, tmp_path / "v1")
    assert "NTK and LogN are no part of what is trained" in capsys.readouterr().err
    save_model(tmp_path / "trained", model, None, [1], 1)
    with pytest.raises(UserError, match="windows of several sizes"):
        check_savable(replace(model.config, extension=ContextExtension(windows=(8, 16))))


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"num_key_value_heads": 2}, "no grouped key heads"),
        ({"family": "Qwen3"}, "no Qwen3 model"),
        ({"head_dim": 24}, "no heads of a width of their own"),
        ({"extension": ContextExtension(windows=(8,))}, "no windows"),
        ({"extension": ContextExtension(yarn_factor=2.0)}, "no YaRN"),
    ],
)
def test_what_v1_cannot_compute_is_refused(
    folder: MakeFolder, tmp_path: Path, shape: dict[str, Any], said: str
) -> None:
    source = folder(**shape)
    with pytest.raises(UserError, match=said):
        convert(source, tmp_path / "v1", "qwen-v1", None)
    assert not (tmp_path / "v1").exists()


def test_a_folder_may_be_narrowed(folder: MakeFolder, tmp_path: Path) -> None:
    source = folder()
    assert main(["convert", str(source), str(tmp_path / "half"), "--to", "hf", "--quantize", "BFloat16"]) == 0
    assert json.loads((tmp_path / "half/config.json").read_text("utf-8"))["torch_dtype"] == "bfloat16"
    narrow, wide = load_model(tmp_path / "half", dtype=torch.bfloat16), load_model(source)
    assert torch.equal(narrow.embed_tokens.weight, wide.embed_tokens.weight.bfloat16())


def test_a_published_chat_folder_answers_without_a_template(
    folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder()
    convert(source, tmp_path / "v1", "qwen-v1", None)
    assert not (tmp_path / "v1/tokenizer.json").exists()
    assert has_chat_template(tmp_path / "v1")
    words = ["--chat", "--prompt", "你好", "--temperature", "0", "--max-new-tokens", "12", "--device", "cpu"]
    said = []
    for path in (source, tmp_path / "v1"):
        assert main(["generate", str(path), *words]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[0].strip()
    model, tokenizer = danlu.load(tmp_path / "v1", device="cpu")
    assert tokenizer is not None
    assert tokenizer.stop_ids == Tokenizer.load(source).stop_ids
    assert make_engine(ServeConfig(model=tmp_path / "v1"), model, tokenizer).stop_ids == set(tokenizer.stop_ids)


def test_a_name_on_the_hub_is_one_line_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def fetch(name: str, **values: Any) -> str:
        asked.update(values, name=name)
        raise ConnectionError("no network here\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(
        UserError, match=r"Qwen/Qwen2\.5-0\.5B: no such folder, and not to be had from the hub: no network"
    ):
        danlu.load("Qwen/Qwen2.5-0.5B")
    assert asked["name"] == "Qwen/Qwen2.5-0.5B"
    assert not any(pattern.endswith((".py", ".bin", ".pt")) for pattern in asked["allow_patterns"])
    for path in ("runs/none/model", "/no/such", "nothing", "../x"):
        asked.clear()
        with pytest.raises(UserError, match="no such model folder"):
            danlu.load(path)
        assert not asked, path


def test_numbers_that_half_precision_does_not_hold_name_layer_and_type(
    tiny_model: MakeModel, tiny_tokenizer: Tokenizer
) -> None:
    model = tiny_model(vocab_size=tiny_tokenizer.vocab_size)
    with torch.no_grad():
        model.layers[1].mlp.down_proj.weight *= 1e5
    model = model.half()
    with pytest.raises(UserError, match=r"not finite in float16, first in layer 1\. Load it in float32 or bfloat16"):
        danlu.generate(model, tiny_tokenizer, "Hello", temperature=0)

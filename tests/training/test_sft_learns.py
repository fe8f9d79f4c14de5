"""Fine-tuning teaches a reply and where it ends, and hands on a folder that others open (T05, T06, S13)."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import danlu
from danlu.inference.config import SamplingConfig
from danlu.inference.engine import generate_batch
from danlu.inference.generate import encode_prompt
from danlu.model.checkpoint import save_model
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.run.metrics import read_jsonl
from danlu.tokenizer.bpe import Tokenizer
from danlu.training.config import SftConfig, StepConfig
from danlu.training.sft import sft

Write = Callable[[Path, Sequence[Sequence[tuple[str, str]]]], Path]
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def base(tiny_model: Callable[..., Transformer], tiny_tokenizer_folder: Path, tmp_path_factory: Any) -> Path:
    """An untrained model whose padding id is one of its end ids."""
    from danlu.tokenizer.bpe import Tokenizer

    tokenizer = Tokenizer.load(tiny_tokenizer_folder)
    folder: Path = tmp_path_factory.mktemp("base") / "model"
    save_model(folder, tiny_model(), tiny_tokenizer_folder, list(tokenizer.stop_ids), tokenizer.im_end_id)
    return folder


def config(base: Path, data: Path, out: Path, **changes: Any) -> SftConfig:
    step = StepConfig(
        sequence_length=64,
        batch_size=4,
        micro_batch_size=2,
        max_steps=60,
        learning_rate=0.01,
        bf16=False,
        compile=False,
    )
    return dataclasses.replace(SftConfig(model=base, data=data, out=out, step=step, dropout=0.0), **changes)


@pytest.fixture(scope="module")
def tuned(base: Path, write_conversations: Write, tmp_path_factory: Any) -> Path:
    """A model that has learnt to answer `hi`, of different lengths, with `ok`."""
    folder = tmp_path_factory.mktemp("tuned")
    twenty = [[("user", "hi" + " the river" * (index % 5)), ("assistant", "ok")] for index in range(20)]
    return sft(config(base, write_conversations(folder / "c.jsonl", twenty), folder / "sft"))


def test_the_model_stops_by_itself_although_padding_is_an_end_token(tuned: Path) -> None:
    model, tokenizer = danlu.load(tuned)
    assert tokenizer is not None
    (row,) = generate_batch(
        model, tokenizer.stop_ids, [encode_prompt(tokenizer, HI)], SamplingConfig(temperature=0, max_new_tokens=20)
    )
    assert tokenizer.decode(row.output_ids) == "ok"
    assert row.finish_reason == "stop"
    assert len(row.output_ids) < 5


def test_every_assistant_turn_taught_its_end_token(tuned: Path) -> None:
    figures = json.loads((tuned.parent / "figures.json").read_text())
    assert (figures["conversations"], figures["dropped"], figures["steps"]) == (20, {}, 60)
    assert figures["targets"] == 240 * figures["supervised_tokens"] / 20, "60 steps of 4 rows, each `ok` and its end"
    assert figures["loss"] < 0.5


def test_transformers_opens_the_folder_and_gives_the_same_greedy_text(tuned: Path) -> None:
    model, tokenizer = danlu.load(tuned)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tuned).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tuned)
    for content in ("hi", "hi the river", "你好 it was cold"):
        messages = [{"role": "user", "content": content}]
        inputs = their_tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        assert tokenizer is not None
        assert inputs["input_ids"][0].tolist() == encode_prompt(tokenizer, messages)
        output = theirs.generate(**inputs, max_new_tokens=12, do_sample=False, top_p=None)
        reply = their_tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert reply == danlu.generate(model, tokenizer, messages, max_new_tokens=12, temperature=0), content


def test_a_plain_text_is_continued_as_transformers_does(tuned: Path) -> None:
    model, tokenizer = danlu.load(tuned)
    assert tokenizer is not None
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tuned).eval()
    ids = tokenizer.encode("the river was")
    output = theirs.generate(torch.tensor([ids]), max_new_tokens=15, do_sample=False, top_p=None, eos_token_id=[])
    (row,) = generate_batch(model, [], [ids], SamplingConfig(temperature=0, max_new_tokens=15))
    assert row.output_ids == output[0, len(ids) :].tolist()


def test_all_files_agree_on_what_ends_a_reply(tuned: Path, tiny_tokenizer: Tokenizer) -> None:
    config_ids, generation_ids = (
        json.loads((tuned / f"{name}.json").read_text())["eos_token_id"] for name in ("config", "generation_config")
    )
    assert config_ids == generation_ids
    assert set(config_ids) == {tiny_tokenizer.im_end_id, tiny_tokenizer.end_of_text_id} == set(tiny_tokenizer.stop_ids)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tuned)
    assert their_tokenizer.eos_token == "<|im_end|>"
    assert their_tokenizer.eos_token_id in config_ids
    assert their_tokenizer.pad_token_id == tiny_tokenizer.end_of_text_id


@pytest.mark.parametrize("packing", [False, True])
def test_rows_without_a_reply_are_left_out_and_the_weights_stay_finite(
    base: Path, write_conversations: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], packing: bool
) -> None:
    long_prompt = [("user", "the river was cold " * 30), ("assistant", "ok")]
    data = write_conversations(tmp_path / "c.jsonl", [[("user", "hi"), ("assistant", "ok")]] * 7 + [long_prompt])
    step = dataclasses.replace(config(base, data, tmp_path).step, max_steps=4)
    model = sft(config(base, data, tmp_path / "sft", step=step, packing=packing, dropout=0.1))
    assert "left out, for example" in capsys.readouterr().err
    figures = json.loads((tmp_path / "sft" / "figures.json").read_text())
    assert figures["dropped"] == {"no reply ends within the limit of 64 tokens": 1}
    assert "conversation 8" in figures["dropped_examples"][0]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(model / "model.safetensors").values())
    assert all(
        record["loss"] > 0 and record["targets"] > 0 for record in read_jsonl(tmp_path / "sft" / "metrics.jsonl")
    )


def test_a_file_with_nothing_to_learn_is_refused_before_training(
    base: Path, write_conversations: Write, tmp_path: Path
) -> None:
    long_prompt = [("user", "the river was cold " * 30), ("assistant", "ok")]
    data = write_conversations(tmp_path / "c.jsonl", [long_prompt] * 3)
    with pytest.raises(UserError, match="no conversation to learn from"):
        sft(config(base, data, tmp_path / "sft"))
    assert not (tmp_path / "sft").exists(), "training had begun"


def test_the_saved_model_does_not_drop_out(tuned: Path) -> None:
    model, _ = danlu.load(tuned, device="cpu")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(model(ids), model(ids))

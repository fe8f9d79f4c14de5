"""Perplexity by length and technique against plain arithmetic; pass keys at their depth; a stopped run goes on."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from danlu.cli import main
from danlu.evaluation import long_context as stage
from danlu.evaluation import passkey
from danlu.evaluation.config import LongContextConfig
from danlu.evaluation.long_context import DEPTHS, long_context, perplexity
from danlu.inference.load import load
from danlu.model.checkpoint import save_model
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.tokenizer import Tokenizer

MakeModel = Callable[..., Transformer]

TRAINED = 32


@pytest.fixture
def folder(tmp_path: Path, tiny_model: MakeModel, tiny_tokenizer: Tokenizer, tiny_tokenizer_folder: Path) -> Path:
    model = tiny_model(vocab_size=tiny_tokenizer.vocab_size, max_position_embeddings=TRAINED)
    ends = list(tiny_tokenizer.stop_ids)
    save_model(tmp_path / "model", model, tiny_tokenizer_folder, ends, tiny_tokenizer.end_of_text_id)
    return tmp_path / "model"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {n} of a long text, 第{n}行\n" for n in range(60)), encoding="utf-8")
    return path


def config(tmp_path: Path, folder: Path, text: Path, **values: Any) -> LongContextConfig:
    given = {"lengths": (16, 32, 64), "num_texts": 2, "out": tmp_path / "out", "device": "cpu", **values}
    return LongContextConfig(model=folder, text=text, **given)


def by_hand(model: Transformer, ids: list[int], length: int) -> float:
    """In float64, window by window, from the logits of the whole window."""
    losses = []
    for start in range(0, len(ids), length):
        window = torch.tensor([ids[start : start + length]])
        with torch.no_grad():
            logprobs = model(window)[0].double().log_softmax(-1)
        losses += [-float(logprobs[place, token]) for place, token in enumerate(window[0, 1:])]
    return math.exp(sum(losses) / len(losses))


def test_perplexities_are_those_of_plain_arithmetic(tmp_path: Path, folder: Path, text: Path) -> None:
    long_context(config(tmp_path, folder, text, techniques=("none", "dynamic_ntk+logn", "windows=8")))
    figures = json.loads((tmp_path / "out/figures.json").read_text("utf-8"))
    assert (figures["training_length"], figures["num_tokens"]) == (TRAINED, 128)
    for name, words in {"none": (), "dynamic_ntk+logn": ("dynamic_ntk", "logn"), "windows=8": ("windows=8",)}.items():
        model, tokenizer = load(folder, device="cpu", extend=("length=64", *words))
        assert tokenizer is not None
        ids = tokenizer.encode(text.read_text("utf-8"))[:128]
        for length in (16, 32, 64):
            assert figures["perplexity"][name][str(length)] == pytest.approx(by_hand(model, ids, length), rel=1e-5)
    plain, extended = figures["perplexity"]["none"], figures["perplexity"]["dynamic_ntk+logn"]
    assert plain["32"] == extended["32"], "within the length of training dynamic NTK and LogN change nothing"
    assert plain["64"] != extended["64"]


def test_a_last_window_that_is_short_counts_with_what_it_has(tiny_model: MakeModel) -> None:
    model, ids = tiny_model(), list(range(1, 42))
    assert perplexity(model, ids, 16) == pytest.approx(by_hand(model, ids, 16), rel=1e-5)
    assert perplexity(model, ids[:33], 16) == pytest.approx(by_hand(model, ids[:33], 16), rel=1e-5)


def test_a_stopped_run_goes_on_and_a_page_is_drawn(
    tmp_path: Path, folder: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def measured(model: Transformer, ids: list[int], length: int) -> float:
        asked.append(length)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return perplexity(model, ids, length)

    monkeypatch.setattr(stage, "perplexity", measured)
    words = ["evaluate", str(folder), "--long-context", "--text", str(text), "--lengths", "16", "32", "64"]
    words += ["--num-texts", "2", "--techniques", "none", "logn", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 130
    assert main(words) == 0
    assert asked == [16, 32, 64, 16, 16, 32, 64]
    out = capsys.readouterr().out
    assert "| plain | " in out
    page = (tmp_path / "out/long_context.html").read_text("utf-8")
    assert page.count("<tr><th>plain</th>") == 1
    assert "<script" not in page


def test_pass_keys_lie_where_they_should_and_the_prompt_has_its_length(tiny_tokenizer: Tokenizer) -> None:
    filler, chance = tiny_tokenizer.encode("some words of a filler " * 60), Random(1)
    for depth in DEPTHS:
        hidden = passkey.hide(tiny_tokenizer, filler, 200, depth, chance)
        assert len(hidden.ids) + passkey.REPLY_TOKENS == 200
        written = tiny_tokenizer.decode(hidden.ids)
        assert written.count(hidden.key) == 1
        assert written.endswith("The pass key is")
        chat = passkey.hide(tiny_tokenizer, filler, 200, depth, chance, chat=True)
        assert len(chat.ids) + passkey.REPLY_TOKENS == 200
        said = tiny_tokenizer.decode(chat.ids)
        assert said.startswith("<|im_start|>user\n")
        assert said.endswith("What is the pass key?<|im_end|>\n<|im_start|>assistant\n")
        assert said.count(chat.key) == 1
        needle = len(tiny_tokenizer.encode(passkey.NEEDLE.format(key=hidden.key)))
        before = tiny_tokenizer.encode(written[: written.index("\nThe pass key is")])
        asked = [*tiny_tokenizer.encode(passkey.QUESTION), *tiny_tokenizer.encode(passkey.ANSWER)]
        room = 200 - passkey.REPLY_TOKENS - needle - len(asked)
        assert abs(len(before) - depth * room) <= 2
    with pytest.raises(ValueError, match="leave"):
        passkey.hide(tiny_tokenizer, filler, 20, 0.5, chance)


def test_a_model_that_names_every_key_finds_all_and_a_silent_one_none(
    tmp_path: Path, folder: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[passkey.Passkey] = []
    real = passkey.hide
    monkeypatch.setattr(passkey, "hide", lambda *given: (asked.append(real(*given)), asked[-1])[1])

    class Text:
        def __init__(self, text: str) -> None:
            self.text = type("T", (), {"text": text})()

    monkeypatch.setattr(
        stage, "generate_batch",
        lambda model, stops, prompts, *_, **__: [Text(f" {each.key}. And") for each in asked[-len(prompts) :]],
    )  # fmt: skip
    values = {"techniques": ("none",), "lengths": (128, 160), "num_passkeys": 3}
    long_context(config(tmp_path, folder, text, **values))
    figures = json.loads((tmp_path / "out/figures.json").read_text("utf-8"))
    assert figures["passkeys"] == {"none": {"128": [1.0] * 5, "160": [1.0] * 5}}
    monkeypatch.setattr(stage, "generate_batch", lambda model, stops, prompts, *_, **__: [Text("no")] * len(prompts))
    long_context(config(tmp_path, folder, text, **values, out=tmp_path / "other"))
    figures = json.loads((tmp_path / "other/figures.json").read_text("utf-8"))
    assert figures["passkeys"] == {"none": {"128": [0.0] * 5, "160": [0.0] * 5}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lengths": (16, 4096)}, "tokens, 2 texts of 4096 are asked for"),
        ({"techniques": ("dynamic",)}, "'dynamic' is no setting"),
        ({"num_passkeys": 1}, "16 tokens leave -"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    tmp_path: Path, folder: Path, text: Path, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        long_context(config(tmp_path, folder, text, **values))


@pytest.mark.parametrize("lengths", [(), (1, 2), (32, 16), (16, 16)])
def test_lengths_go_from_short_to_long(tmp_path: Path, folder: Path, text: Path, lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="from short to long"):
        config(tmp_path, folder, text, lengths=lengths)


def test_a_model_that_was_trained_longer_has_techniques_too(tmp_path: Path, folder: Path, text: Path) -> None:
    long_context(config(tmp_path, folder, text, lengths=(8, 16)))
    figures = json.loads((tmp_path / "out/figures.json").read_text("utf-8"))
    assert list(figures["perplexity"]) == [
        "none", "logn", f"windows={TRAINED}", "dynamic_ntk", "dynamic_ntk+logn", f"dynamic_ntk+logn+windows={TRAINED}",
    ]  # fmt: skip


def test_numbers_that_are_not_finite_are_no_perplexity(tiny_model: MakeModel) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.layers[1].mlp.down_proj.weight *= 1e30
    with pytest.raises(UserError, match="not finite in float16, first in layer 1"):
        perplexity(model.half(), list(range(1, 40)), 16)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("evaluate m --text t.txt", "--text: belongs to --long-context"),
        ("evaluate m --long-context", "--long-context: needs a text"),
        ("evaluate m --long-context --text t.txt --limit 3", "--limit: does not go with --long-context"),
        ("evaluate m --long-context --text t.txt --compare a b", "--compare: does not go with --long-context"),
        ("evaluate m --long-context --text t.txt --extend logn", "--extend: does not go with --long-context"),
    ],
)
def test_what_does_not_go_together_is_refused(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 1
    assert said in capsys.readouterr().err

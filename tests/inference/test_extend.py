"""`--extend`: settings of context extension in place of a folder's own, each by itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import danlu
from danlu.inference.extend import extended
from danlu.model.checkpoint import save_model
from danlu.model.config import ModelConfig
from danlu.model.extension import ContextExtension
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError

PLAIN = ModelConfig(max_position_embeddings=64, num_hidden_layers=2)


def test_nothing_said_changes_nothing_that_is_computed() -> None:
    assert extended(PLAIN, ()).extension == ContextExtension(training_length=64)
    assert extended(PLAIN, ()).training_length == PLAIN.training_length


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("dynamic_ntk",), {"dynamic_ntk": True}),
        (("dynamic_ntk=true", "dynamic_ntk_per_step"), {"dynamic_ntk": True, "dynamic_ntk_per_step": True}),
        (("ntk_alpha=4",), {"ntk_alpha": 4.0}),
        (("logn",), {"logn": True}),
        (("windows=16,32",), {"windows": (16, 32)}),
        (("windows=16",), {"windows": (16,)}),
        (("interpolation=2.5",), {"interpolation": 2.5}),
        (("yarn_factor=4", "yarn_beta_fast=16"), {"yarn_factor": 4.0, "yarn_beta_fast": 16.0}),
    ],
)
def test_each_setting_has_a_word(words: tuple[str, ...], expected: dict[str, object]) -> None:
    assert extended(PLAIN, words).extension == ContextExtension(training_length=64, **expected)  # type: ignore[arg-type]


def test_what_is_read_may_grow_and_what_was_trained_stays() -> None:
    config = extended(PLAIN, ("length=256", "logn"))
    assert (config.max_position_embeddings, config.training_length) == (256, 64)
    assert extended(PLAIN, ("training_length=32",)).training_length == 32


def test_the_folders_own_settings_stay_unless_none_is_said() -> None:
    own = ModelConfig(extension=ContextExtension(training_length=64, dynamic_ntk=True, logn=True))
    assert extended(own, ("logn=false",)).extension == ContextExtension(training_length=64, dynamic_ntk=True)
    stretched = ModelConfig(
        max_position_embeddings=256, extension=ContextExtension(training_length=64, yarn_factor=4.0)
    )
    assert extended(stretched, ("none",)).max_position_embeddings == 64
    assert extended(stretched, ("none", "length=128")).max_position_embeddings == 128
    assert extended(own, ("none", "ntk_alpha=2")).extension == ContextExtension(training_length=64, ntk_alpha=2.0)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("ntk", "'ntk' is no setting. There are none, length, training_length, ntk_alpha"),
        ("none=5", "'none' is no setting"),
        ("logn=maybe", "logn=maybe: expected true or false"),
        ("length=far", "length=far: expected an integer, got 'far'"),
        ("length", "length: expected an integer, got ''"),
        ("ntk_alpha=0.5", "ntk_alpha must be a number from 1 upwards"),
        ("windows=8,x", "windows=8,x: expected an integer, got 'x'"),
        ("windows=1,2,3", "windows must be one number, one for each of the 2 layers"),
        ("length=0", "max_position_embeddings must be at least 1"),
    ],
)
def test_a_wrong_word_is_one_line(word: str, said: str) -> None:
    with pytest.raises(UserError, match=f"--extend: {said}"):
        extended(PLAIN, (word,))


def test_a_model_is_opened_with_them(tmp_path: Path, tiny_model: Callable[..., Transformer]) -> None:
    save_model(tmp_path / "m", tiny_model(max_position_embeddings=16), None, [1], 1)
    plain, _ = danlu.load(tmp_path / "m", device="cpu", extend=("length=64",))
    stretched, _ = danlu.load(tmp_path / "m", device="cpu", extend=("length=64", "dynamic_ntk", "logn"))
    ids = torch.randint(0, 300, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(plain(ids[:, :16]), stretched(ids[:, :16]))
        assert not torch.allclose(plain(ids), stretched(ids))

"""A reward model's folder opens in transformers and gives the same rewards; it is no language model's (R01)."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import danlu
from danlu.inference.score import score_groups
from danlu.model.branches import Group
from danlu.model.checkpoint import load_model, load_reward_model, load_with_new_score, save_model
from danlu.model.hf_config import is_reward_model
from danlu.model.transformer import ScalarModel, Transformer
from danlu.run.errors import UserError
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.chat import encode_conversation

MakeModel = Callable[..., Transformer]
MakeFolders = Callable[..., tuple[Path, Path]]

LONG = {"max_position_embeddings": 256}
SHAPES: dict[str, dict[str, Any]] = {
    "as many key heads as query heads": LONG,
    "grouped queries": {**LONG, "num_key_value_heads": 2},
    "tied embeddings, another base": {**LONG, "tie_word_embeddings": True, "rope_theta": 1_000_000.0},
}

TWO_TURNS = [
    {"role": "user", "content": "what is the river"},
    {"role": "assistant", "content": "cold and clear"},
    {"role": "user", "content": "and 你好"},
]
REPLIES = ["far", "it is far and cold so we walked along", "世界，今天天气"]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def save(folder: Path, model: Any, tokenizer_folder: Path) -> Path:
    tokenizer = Tokenizer.load(tokenizer_folder)
    save_model(folder, model, tokenizer_folder, list(tokenizer.stop_ids), tokenizer.end_of_text_id)
    return folder


@pytest.fixture
def make_folders(tiny_model: MakeModel, tiny_tokenizer_folder: Path, tmp_path: Path) -> MakeFolders:
    """Folders of a language model and of a reward model with its blocks."""

    def make(seed: int = 1, **shape: Any) -> tuple[Path, Path]:
        language = save(tmp_path / f"language{seed}", tiny_model(seed=seed, **shape), tiny_tokenizer_folder)
        reward_model = load_with_new_score(language, seeded(7))
        return language, save(tmp_path / f"reward{seed}", reward_model, tiny_tokenizer_folder)

    return make


@pytest.fixture
def group(tiny_tokenizer: Tokenizer) -> Group:
    """A two-turn prompt, with end tokens inside, and responses of several lengths."""
    prompt = encode_conversation(tiny_tokenizer, TWO_TURNS, add_generation_prompt=True)[0]
    assert prompt.count(tiny_tokenizer.im_end_id) == 3
    return prompt, [[*tiny_tokenizer.encode(reply), tiny_tokenizer.im_end_id] for reply in REPLIES]


def padded(texts: Sequence[Sequence[int]], more: int, left: bool, pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask (B, T) of texts filled up to the longest of them and `more`."""
    width = max(map(len, texts)) + more
    ids, mask = torch.full((len(texts), width), pad_id), torch.zeros(len(texts), width, dtype=torch.long)
    for row, text in enumerate(texts):
        span = slice(width - len(text), width) if left else slice(0, len(text))
        ids[row, span], mask[row, span] = torch.tensor(text), 1
    return ids, mask


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_transformers_gives_the_same_rewards_however_a_batch_is_padded(
    make_folders: MakeFolders, group: Group, shape: dict[str, Any]
) -> None:
    _, folder = make_folders(**shape)
    ours = torch.tensor(score_groups(load_reward_model(folder), [group])[0])
    assert float(ours.max() - ours.min()) > 0.1, "rewards this alike hide a mistake"
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert type(theirs).__name__ == "Qwen2ForSequenceClassification"
    assert (theirs.config.num_labels, theirs.config.id2label) == (1, {0: "reward"})
    texts = [[*group[0], *response] for response in group[1]]
    with torch.no_grad():
        for left in (False, True):
            for more in (0, 7, 33):
                together = padded(texts, more, left, theirs.config.pad_token_id)
                alone = [padded([text], more, left, theirs.config.pad_token_id) for text in texts]
                for batch in ([together], alone):
                    rewards = torch.cat([theirs(ids, attention_mask=mask).logits for ids, mask in batch])
                    difference = float((rewards[:, 0] - ours).abs().max())
                    place = f"{more} places of padding on the {'left' if left else 'right'}, {len(batch)} batches"
                    assert difference < 1e-5, f"rewards differ by {difference:.1e} with {place}"


def test_the_text_of_transformers_template_has_the_ids_that_we_score(make_folders: MakeFolders, group: Group) -> None:
    """Up to the end token: the line break that the template puts after it is not part of a response."""
    theirs = transformers.AutoTokenizer.from_pretrained(make_folders(**LONG)[1])
    text = theirs.apply_chat_template([*TWO_TURNS, {"role": "assistant", "content": REPLIES[1]}], tokenize=False)
    assert text.endswith("<|im_end|>\n")
    assert theirs(text.removesuffix("\n"))["input_ids"] == [*group[0], *group[1][1]]


def test_the_padding_of_a_reward_folder_is_no_token_that_ends_a_response(
    make_folders: MakeFolders, tiny_tokenizer: Tokenizer
) -> None:
    """Transformers looks for the last id that is not padding: an end token that pads would be passed over."""
    config = json.loads((make_folders()[1] / "config.json").read_text())
    assert config["pad_token_id"] not in (None, tiny_tokenizer.im_end_id)
    assert config["architectures"] == ["Qwen2ForSequenceClassification"]


def test_a_saved_reward_model_computes_bit_for_bit_the_same(make_folders: MakeFolders, tmp_path: Path) -> None:
    _, folder = make_folders(num_key_value_heads=2)
    model, ids = load_reward_model(folder), torch.arange(40).view(2, 20)
    assert not model.training
    assert not (folder / "generation_config.json").exists(), "a reward model generates nothing"
    save_model(tmp_path / "again", model, None, [1], 1)
    with torch.no_grad():
        assert torch.equal(load_reward_model(tmp_path / "again")(ids), model(ids))
    assert {p.dtype for p in load_reward_model(folder, torch.bfloat16).parameters()} == {torch.bfloat16}


def test_we_open_what_transformers_saves(make_folders: MakeFolders, tmp_path: Path) -> None:
    _, folder = make_folders()
    transformers.AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path / "theirs")
    ours, again = load_reward_model(folder), load_reward_model(tmp_path / "theirs")
    for name, parameter in ours.named_parameters():
        assert parameter.equal(again.get_parameter(name)), name


def test_a_reward_model_is_no_language_model_and_the_other_way_round(
    make_folders: MakeFolders,
) -> None:
    language, folder = make_folders()
    assert (is_reward_model(language), is_reward_model(folder)) == (False, True)
    for opened in (load_model, danlu.load):
        with pytest.raises(UserError, match="this is a reward model, which cannot write") as error:
            opened(folder)
        assert str(folder) in str(error.value)
    with pytest.raises(UserError, match="this is not a reward model") as error:
        load_reward_model(language)
    assert str(language) in str(error.value)
    assert "danlu reward" in str(error.value), "how to mend it"


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_missing_head_is_named(make_folders: MakeFolders) -> None:
    _, folder = make_folders()
    edit_tensors(folder, lambda tensors: tensors.__delitem__("score.weight"))
    with pytest.raises(UserError, match=r"the tensor `score\.weight` is missing"):
        load_reward_model(folder)


def test_a_classifier_of_two_labels_is_refused(make_folders: MakeFolders) -> None:
    _, folder = make_folders()
    edit_tensors(folder, lambda tensors: tensors.update({"score.weight": torch.zeros(2, 32)}))
    with pytest.raises(UserError, match=r"`score.weight` is \(2, 32\), config.json asks for \(1, 32\)"):
        load_reward_model(folder)


@pytest.mark.parametrize("tied", [False, True])
def test_a_new_head_keeps_every_bit_of_the_blocks(make_folders: MakeFolders, tied: bool) -> None:
    language, _ = make_folders(num_key_value_heads=2, tie_word_embeddings=tied)
    before, after = load_model(language), load_with_new_score(language, seeded(1))
    assert type(after) is ScalarModel
    assert not after.training
    for name, parameter in after.named_parameters():
        if name != "score.weight":
            assert parameter.equal(before.get_parameter(name)), f"{name} has changed"


def test_a_new_head_depends_on_its_generator_alone(make_folders: MakeFolders) -> None:
    (first, reward_folder), (other, _) = make_folders(seed=1), make_folders(seed=2)
    torch.manual_seed(5)
    head = load_with_new_score(first, seeded(3)).score.weight
    torch.manual_seed(6)
    assert load_with_new_score(first, seeded(3)).score.weight.equal(head)
    assert load_with_new_score(other, seeded(3)).score.weight.equal(head)
    assert load_with_new_score(reward_folder, seeded(3)).score.weight.equal(head), "the old head shows through"
    assert not load_with_new_score(first, seeded(4)).score.weight.equal(head)
    assert head.shape == (1, 32)


def test_first_rewards_have_a_deviation_of_about_one(tiny_model: MakeModel, tmp_path: Path) -> None:
    model = tiny_model(hidden_size=256, num_hidden_layers=1)
    with torch.no_grad():
        model.norm.weight.fill_(1.0)
    save_model(tmp_path / "m", model, None, [1], 1)
    heads = [load_with_new_score(tmp_path / "m", seeded(seed)).score.weight for seed in range(100)]
    with torch.no_grad():
        rewards = model.hidden_states(torch.arange(300).view(5, 60)) @ torch.cat(heads).T
    assert float(rewards.std()) == pytest.approx(1.0, abs=0.1)

"""A reward depends on its prompt and answer alone (R01 of the field's known faults), for us and in transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from danlu.inference.score import score_groups
from danlu.model.checkpoint import load_reward_model, save_model
from danlu.model.transformer import ScalarModel
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.chat import encode_conversation

TALK = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "the river"},
    {"role": "user", "content": "so"},
]


@pytest.fixture(scope="module")
def folder(
    tiny_scalar_model: Callable[..., ScalarModel],
    tiny_tokenizer: Tokenizer,
    tiny_tokenizer_folder: Path,
    tmp_path_factory: Any,
) -> Path:
    """A reward model as `danlu reward` saves it."""
    path: Path = tmp_path_factory.mktemp("reward") / "model"
    model = tiny_scalar_model(4, max_position_embeddings=128)
    save_model(path, model, tiny_tokenizer_folder, list(tiny_tokenizer.stop_ids), tiny_tokenizer.end_of_text_id)
    return path


@pytest.fixture(scope="module")
def prompt(tiny_tokenizer: Tokenizer) -> list[int]:
    """Two turns, so that ends stand inside the prompt too."""
    return encode_conversation(tiny_tokenizer, TALK, add_generation_prompt=True)[0]


@pytest.fixture(scope="module")
def answers(tiny_tokenizer: Tokenizer) -> list[list[int]]:
    """Of 3 and of 12 tokens, their end included."""
    ids = tiny_tokenizer.encode("it was cold and clear, so we walked along its bank until she said that it is 你好")
    return [[*ids[:2], tiny_tokenizer.im_end_id], [*ids[2:13], tiny_tokenizer.im_end_id]]


def scores_alone(model: ScalarModel, prompt: list[int], answers: list[list[int]]) -> list[float]:
    """At each answer's last token, in a pass of its own."""
    return [model(torch.tensor([prompt + answer]))[0, -1].item() for answer in answers]


def padded_rows(text: list[int], batch: int, side: str, padding: int, padding_id: int) -> tuple[Tensor, Tensor]:
    """`text` and up to two others of its length, filled up on one side; and which places are filled up."""
    rows = [text, text[::-1], [*text[9:], *text[:9]]][:batch]
    filler, unused = [padding_id] * padding, [True] * padding + [False] * len(text)
    if side == "left":
        return torch.tensor([filler + row for row in rows]), torch.tensor([unused] * batch)
    return torch.tensor([row + filler for row in rows]), torch.tensor([unused[::-1]] * batch)


PADDINGS = pytest.mark.parametrize(
    ("side", "padding"), [("right", 0), ("right", 7), ("right", 33), ("left", 7), ("left", 33)]
)


@PADDINGS
@pytest.mark.parametrize("batch", [1, 3])
def test_r01_a_reward_is_the_same_alone_and_in_any_batch(
    folder: Path,
    tiny_tokenizer: Tokenizer,
    prompt: list[int],
    answers: list[list[int]],
    batch: int,
    side: str,
    padding: int,
) -> None:
    """For ours the padding is the end token itself: places are counted, never found from ids."""
    model = load_reward_model(folder)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for answer, expected in zip(answers, scores_alone(model, prompt, answers), strict=True):
        text = prompt + answer
        ids, unused = padded_rows(text, batch, side, padding, tiny_tokenizer.im_end_id)
        places = (~unused).cumsum(-1).sub(1).clamp_min(0)
        last = len(text) - 1 + (padding if side == "left" else 0)
        ours = model(ids, position_ids=places, document_ids=unused.long())[0, last].item()
        assert ours == pytest.approx(expected, abs=1e-5), f"an answer of {len(answer)} tokens"
        # transformers takes the rightmost token that is not the padding of the folder's config.json.
        ids, unused = padded_rows(text, batch, side, padding, tiny_tokenizer.end_of_text_id)
        logits = theirs(ids, attention_mask=(~unused).long()).logits
        assert logits.shape == (batch, 1), "one label"
        assert logits[0, 0].item() == pytest.approx(expected, abs=1e-5), f"transformers, {len(answer)} tokens"


def test_r01_another_place_has_another_reward(
    folder: Path, tiny_tokenizer: Tokenizer, prompt: list[int], answers: list[list[int]]
) -> None:
    """Without this the tests here would not notice a reward taken at an end inside the prompt, or one place off."""
    model = load_reward_model(folder)
    ends = [place for place, token in enumerate(prompt) if token == tiny_tokenizer.im_end_id]
    assert len(ends) == 3
    for answer, expected in zip(answers, scores_alone(model, prompt, answers), strict=True):
        everywhere = model(torch.tensor([prompt + answer]))[0].tolist()
        others = [everywhere[place] for place in (*ends, len(prompt) - 1, len(everywhere) - 2)]
        assert min(abs(other - expected) for other in others) > 0.01


def test_answers_score_the_same_beside_any_others(folder: Path, prompt: list[int], answers: list[list[int]]) -> None:
    model = load_reward_model(folder)
    short, long = scores_alone(model, prompt, answers)
    groups = [
        (prompt, answers),
        (prompt, answers[:1]),
        (prompt[9:], answers),
        (prompt, [*answers[::-1], answers[0]] * 2),
    ]
    in_rows = score_groups(model, groups)
    assert in_rows[0] == pytest.approx([short, long], abs=1e-5)
    assert in_rows[1] == pytest.approx([short], abs=1e-5)
    assert in_rows[3] == pytest.approx([long, short, short] * 2, abs=1e-5), "answers that take two rows"


def test_an_answer_that_was_cut_is_scored_at_the_last_token_it_has(
    folder: Path, prompt: list[int], answers: list[list[int]]
) -> None:
    model = load_reward_model(folder)
    cut = [answer[:-1] for answer in answers]
    assert score_groups(model, [(prompt, cut)]) == [pytest.approx(scores_alone(model, prompt, cut), abs=1e-5)]

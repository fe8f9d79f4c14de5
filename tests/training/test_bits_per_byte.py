"""Bits per byte: every token once, its document's end included, over the bytes of the same text, in its own context."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.documents import Document
from danlu.tokenizer.shards import TokenShards, write_shards
from danlu.training.loss import IGNORE_INDEX
from danlu.training.validation import bits_per_byte, windows

MakeModel = Callable[..., Transformer]
DOCUMENTS = [
    Document("1", "the river was cold", "s", "en", 1.0),
    Document("2", "你好世界，今天天气。", "s", "zh", 1.0),
    Document("3", "", "s", "zh", 1.0),
    Document("4", "so we walked along its bank " * 12, "s", "en", 1.0),
    Document("5", "x", "s", "en", 1.0),
]


@pytest.fixture
def shards(tiny_tokenizer: Tokenizer, tmp_path: Path) -> TokenShards:
    write_shards(DOCUMENTS, tiny_tokenizer, tmp_path / "s")
    return TokenShards(tmp_path / "s")


@torch.no_grad()
def bits_by_hand(model: Transformer, tokenizer: Tokenizer, text: str) -> float:
    """Bits of a document that fits into the window, in float64."""
    ids = [tokenizer.end_of_text_id, *tokenizer.encode(text), tokenizer.end_of_text_id]
    logs = model(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
    return -sum(float(logs[at, token]) for at, token in enumerate(ids[1:])) / math.log(2)


def test_it_is_the_sum_over_documents_by_language(
    tiny_model: MakeModel, tiny_tokenizer: Tokenizer, shards: TokenShards
) -> None:
    model = tiny_model(max_position_embeddings=300)
    result = bits_per_byte(model, shards, tiny_tokenizer.end_of_text_id)
    bits = {document.id: bits_by_hand(model, tiny_tokenizer, document.text) for document in DOCUMENTS}
    size = {document.id: len(document.text.encode()) for document in DOCUMENTS}
    assert len(tiny_tokenizer.encode(DOCUMENTS[3].text)) > 50, "the long document should be long"
    for language, ids in (("en", "145"), ("zh", "23"), ("all", "12345")):
        expected = sum(bits[one] for one in ids) / sum(size[one] for one in ids)
        assert result[language] == pytest.approx(expected, rel=1e-5), language
    assert set(result) == {"all", "en", "zh"}


@torch.no_grad()
def bits_in_windows(model: Transformer, ids: list[int], length: int) -> float:
    """Bits of all but the first of `ids`, each as the first window that reaches it predicts it."""
    logs: dict[int, float] = {}
    for begin in range(0, len(ids), length // 2):
        rows = model(torch.tensor([ids[begin : begin + length]]))[0].double().log_softmax(-1)
        for at, row in enumerate(rows, start=begin + 1):
            if at < len(ids):
                logs.setdefault(at, float(row[ids[at]]))
    assert len(logs) == len(ids) - 1
    return -sum(logs.values()) / math.log(2)


def test_a_long_document_is_read_in_windows_each_token_once(
    tiny_model: MakeModel, tiny_tokenizer: Tokenizer, shards: TokenShards
) -> None:
    """Beyond the window each token still has half a window of context."""
    model = tiny_model(max_position_embeddings=16)
    start = tiny_tokenizer.end_of_text_id
    english = [index for index, document in enumerate(DOCUMENTS) if document.language == "en"]
    bits = sum(bits_in_windows(model, [start, *shards.document(index).tolist()], 16) for index in english)
    size = sum(len(DOCUMENTS[index].text.encode()) for index in english)
    assert bits_per_byte(model, shards, start)["en"] == pytest.approx(bits / size, rel=1e-5)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 16, 17, 18, 100])
def test_windows_predict_every_token_once_in_order(length: int) -> None:
    for size in (1, 2, 15, 16, 17, 50):
        document = np.arange(100, 100 + size)
        predicted: list[int] = []
        for inputs, labels in windows(document, 7, length):
            assert len(inputs) == len(labels) <= length
            known = labels != IGNORE_INDEX
            assert (labels[:-1][known[:-1]] == inputs[1:][known[:-1]]).all()
            context = int(np.flatnonzero(known)[0]) + 1
            assert context >= min(len(predicted) + 1, length // 2), "too little context"
            predicted += labels[known].tolist()
        assert predicted == document.tolist()


def test_the_number_of_documents_is_limited_in_each_language(
    tiny_model: MakeModel, tiny_tokenizer: Tokenizer, shards: TokenShards
) -> None:
    model = tiny_model(max_position_embeddings=300)
    result = bits_per_byte(model, shards, tiny_tokenizer.end_of_text_id, max_documents=1)
    first = {"en": DOCUMENTS[0].text, "zh": DOCUMENTS[1].text}
    for language, text in first.items():
        expected = bits_by_hand(model, tiny_tokenizer, text) / len(text.encode())
        assert result[language] == pytest.approx(expected, rel=1e-5)


def test_measuring_leaves_the_model_in_training_and_dropout_out(
    tiny_model: MakeModel, tiny_tokenizer: Tokenizer, shards: TokenShards
) -> None:
    model = tiny_model().train()
    model.set_dropout(0.5)
    first, second = (bits_per_byte(model, shards, tiny_tokenizer.end_of_text_id) for _ in range(2))
    assert first == second
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.usefixtures("bfloat16_even_in_software")
def test_bfloat16_is_close(tiny_model: MakeModel, tiny_tokenizer: Tokenizer, shards: TokenShards) -> None:
    wide, narrow = (
        bits_per_byte(tiny_model(), shards, tiny_tokenizer.end_of_text_id, bf16=bf16)["all"] for bf16 in (False, True)
    )
    assert wide != narrow
    assert narrow == pytest.approx(wide, rel=0.01)


def test_nothing_to_measure_on_is_an_error_never_a_zero(
    tiny_model: MakeModel, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for name, documents in (("none", []), ("empty", [Document("1", "", "s", "en", 1.0)])):
        write_shards(documents, tiny_tokenizer, tmp_path / name)
        with pytest.raises(UserError, match="no text to measure"):
            bits_per_byte(tiny_model(), TokenShards(tmp_path / name), tiny_tokenizer.end_of_text_id)

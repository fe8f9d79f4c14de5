"""Bits per byte: how many bits the model spends on each UTF-8 byte of held-out text.

The loss of every token, each document's end token included, in bits, over the bytes of the same cleaned documents.
Comparable between tokenizers, and with a byte-level n-gram model. Context never crosses documents: each starts after
an end-of-text token, as in training.
"""

import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch

from danlu.model.transformer import Transformer
from danlu.run.device import bfloat16_products
from danlu.run.errors import UserError
from danlu.tokenizer.shards import TokenShards
from danlu.training.loss import IGNORE_INDEX, cross_entropy_sum

ROWS_AT_ONCE = 16
"""Windows in one forward pass. Our choice: as many tokens as a training micro-batch of the demo."""


def windows(document: np.ndarray, start_id: int, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs and labels that predict every token of `document` once, each with at least half a window of context
    where the document has it. Windows hold at most `length` tokens and advance by half."""
    stream = np.concatenate(([start_id], document)).astype(np.int64)
    begin, predicted = 0, 0
    while predicted < len(document):
        inputs = stream[begin : begin + length]
        labels = stream[begin + 1 : begin + length + 1].copy()
        inputs = inputs[: len(labels)]
        labels[: predicted - begin] = IGNORE_INDEX
        yield inputs, labels
        predicted = begin + len(labels)
        begin += max(1, length // 2)


@torch.no_grad()
def bits_per_byte(
    model: Transformer,
    shards: TokenShards,
    start_id: int,
    *,
    bf16: bool = False,
    max_documents: int | None = None,
) -> dict[str, float]:
    """Bits per byte of each language, and of all under "all", over the first `max_documents` of every language.

    Raises UserError for shards without a byte of text, rather than reporting a zero.
    """
    if not shards.num_bytes.any():
        raise UserError("no text to measure bits per byte on", where=shards.folder, mend="Hold out more of the corpus")
    by_language: dict[str, list[int]] = defaultdict(list)
    for index, language in enumerate(shards.languages):
        by_language[str(language)].append(index)
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    bits, num_bytes = {}, {}
    for language, documents in sorted(by_language.items()):
        documents = documents[:max_documents]
        pairs = [
            pair
            for index in documents
            for pair in windows(shards.document(index), start_id, model.config.max_position_embeddings)
        ]
        pairs.sort(key=lambda pair: len(pair[0]))
        total = 0.0
        for at in range(0, len(pairs), ROWS_AT_ONCE):
            inputs, labels = (
                torch.from_numpy(_padded([pair[side] for pair in pairs[at : at + ROWS_AT_ONCE]], fill)).to(device)
                for side, fill in ((0, 0), (1, IGNORE_INDEX))
            )
            with bfloat16_products(device, bf16):
                loss, _ = cross_entropy_sum(model.hidden_states(inputs), model.lm_head.weight, labels)
            total += loss.item()
        bits[language] = total / math.log(2)
        num_bytes[language] = int(sum(int(shards.num_bytes[index]) for index in documents))
    model.train(was_training)
    # A language whose documents are all empty has no bytes to divide by; its bits still count under "all".
    result = {language: bits[language] / num_bytes[language] for language in bits if num_bytes[language]}
    return {"all": sum(bits.values()) / sum(num_bytes.values()), **result}


def _padded(rows: list[np.ndarray], fill: int) -> np.ndarray:
    """Rows of different lengths as one array, filled on the right."""
    padded = np.full((len(rows), max(len(row) for row in rows)), fill, np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded

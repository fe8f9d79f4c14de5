"""Cache = full forward: the logits do not depend on how a text was handed over."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from danlu.model.cache import KVCache
from danlu.model.transformer import Context, Transformer

LENGTH = 40


def text(seed: int, length: int = LENGTH) -> Tensor:
    return torch.randint(0, 300, (1, length), generator=torch.Generator().manual_seed(seed))  # (1, T)


def empty_cache(model: Transformer, rows: int) -> KVCache:
    config = model.config
    return KVCache(
        config.layer_windows,
        rows,
        config.num_key_value_heads,
        config.max_position_embeddings,
        config.head_size,
        next(model.parameters()).dtype,
        torch.device("cpu"),
    )


@torch.no_grad()
def in_pieces(model: Transformer, ids: Tensor, cuts: list[int], cache: KVCache, row: int) -> Tensor:
    """The logits (1, T, V) when the text comes in pieces that end at `cuts`."""
    parts, start = [], 0
    for end in cuts:
        context = Context(cache, torch.tensor([row]), torch.arange(start, end)[None], end)
        parts.append(model(ids[:, start:end], context=context))
        start = end
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("num_key_value_heads", [4, 2, 1])
@pytest.mark.parametrize(
    "cuts",
    [list(range(1, LENGTH + 1)), [LENGTH], [7, LENGTH], [3, 4, 20, LENGTH]],
    ids=["singly", "whole", "two", "four"],
)
def test_a_text_in_pieces_gives_the_logits_of_the_whole(
    tiny_model: Callable[..., Transformer], num_key_value_heads: int, cuts: list[int]
) -> None:
    model, ids = tiny_model(num_key_value_heads=num_key_value_heads), text(1)
    with torch.no_grad():
        whole = model(ids)
    torch.testing.assert_close(in_pieces(model, ids, cuts, empty_cache(model, 1), 0), whole, atol=1e-4, rtol=0)


def test_what_a_row_held_before_does_not_matter(tiny_model: Callable[..., Transformer]) -> None:
    model, cache = tiny_model(), empty_cache(tiny_model(), 2)
    in_pieces(model, text(2, 60), [60], cache, 1)
    in_pieces(model, text(3, 50), [50], cache, 0)
    ids = text(4, 12)
    with torch.no_grad():
        whole = model(ids)
    torch.testing.assert_close(in_pieces(model, ids, [5, *range(6, 13)], cache, 1), whole, atol=1e-4, rtol=0)

"""The nucleus of a vocabulary that is larger than the first look: the same set as by ordering everything."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from danlu.inference.sampling import FIRST_LOOK, draw, nucleus, token_probabilities

FLAT = 1024
"""Equal tokens, each of a probability that floats hold exactly."""


def ordered_whole(logits: Tensor, top_p: float, top_k: int) -> list[int]:
    """The nucleus of one row (V), by ordering the whole row: best first, of equal ones the first id first."""
    probabilities = logits.float().softmax(-1).double().numpy()
    order = np.argsort(-probabilities, kind="stable")
    before = np.concatenate(([0.0], np.cumsum(probabilities[order])[:-1]))
    count = max(1, int((before < top_p).sum()))
    return order[: min(count, top_k or count)].tolist()


def falling(size: int) -> Tensor:
    """Few tokens hold most."""
    return -0.05 * torch.arange(size)


def in_steps(size: int) -> Tensor:
    """Groups of 100 equal tokens: the third holds the last places of the first look."""
    return -0.3 * torch.div(torch.arange(size), 100, rounding_mode="floor").float()


def bell(size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size))


def rounded(size: int) -> Tensor:
    """As a model in bfloat16 gives them: many are equal."""
    return (0.5 * bell(size)).bfloat16().float()


KINDS: dict[str, Callable[[int], Tensor]] = {
    "flat": torch.zeros,
    "falling": falling,
    "in steps": in_steps,
    "bell": bell,
    "rounded": rounded,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("size", [FIRST_LOOK - 1, FIRST_LOOK, FIRST_LOOK + 1, 3 * FIRST_LOOK])
def test_the_nucleus_is_that_of_ordering_everything(kind: Callable[[int], Tensor], size: int) -> None:
    shuffled = kind(size)[torch.randperm(size, generator=torch.Generator().manual_seed(3))]
    for top_p in (0.0, 0.1237, 0.8641, 0.9973):
        for top_k in (0, 1, 100, FIRST_LOOK, FIRST_LOOK + 1, 300, 10_000):
            found = nucleus(shuffled[None], 1.0, top_p, top_k)
            expected = ordered_whole(shuffled, top_p, top_k)
            assert found.members(0).tolist() == expected, f"top_p {top_p}, top_k {top_k}"
            kept = shuffled.softmax(-1)[expected]
            torch.testing.assert_close(found.probabilities[0, : len(kept)], kept / kept.sum(), rtol=1e-5, atol=1e-8)
            assert not bool(found.probabilities[0, len(kept) :].any())


def test_a_flat_nucleus_larger_than_the_first_look_is_whole() -> None:
    for top_p, count in ((0.25, 256), (0.5, 512), (1.0, FLAT), (257 / FLAT, 257)):
        found = nucleus(torch.zeros(1, FLAT), 1.0, top_p, 0)
        assert found.members(0).tolist() == list(range(count)), f"top_p {top_p}"
        assert bool((found.probabilities[0, :count] == torch.tensor(1 / count)).all())


def test_of_equal_tokens_the_first_ids_are_kept_and_the_first_is_the_greedy_one() -> None:
    flat = torch.zeros(1, FLAT)
    assert nucleus(flat, 1.0, 0.1, 0).members(0).tolist() == list(range(103)), "0.1 of 1024 tokens"
    assert nucleus(flat, 1.0, 1.0, 100).members(0).tolist() == list(range(100))
    assert nucleus(flat, 1.0, 1.0, 300).members(0).tolist() == list(range(300)), "a top_k past the first look"
    assert draw(flat, 0.0, 1.0, 0, [torch.Generator()]).tokens.tolist() == [0]
    better = flat.clone()
    better[0, [700, 900]] = 1.0
    assert nucleus(better, 1.0, 1.0, 4).members(0).tolist() == [700, 900, 0, 1]


def test_a_row_has_the_same_nucleus_beside_one_that_needs_the_whole_vocabulary() -> None:
    peaked, flat = torch.stack([4 * bell(FLAT), 6 * bell(FLAT).flip(0)]), torch.zeros(1, FLAT)
    together = nucleus(torch.cat((peaked, flat)), 1.0, 0.9, 0)
    assert len(together.members(2)) > FIRST_LOOK
    for row in range(2):
        alone = nucleus(peaked[row][None], 1.0, 0.9, 0)
        count = len(alone.members(0))
        assert count < FIRST_LOOK
        assert together.members(row).equal(alone.members(0))
        assert together.probabilities[row, :count].equal(alone.probabilities[0, :count])


def test_token_probabilities_are_the_nucleus_in_the_order_of_ids() -> None:
    logits = torch.stack([bell(FLAT), torch.zeros(FLAT), 5 * bell(FLAT)])
    found, spread = nucleus(logits, 0.8, 0.9, 0), token_probabilities(logits, 0.8, 0.9, 0)
    for row in range(3):
        members = found.members(row)
        assert sorted(members.tolist()) == spread[row].nonzero()[:, 0].tolist()
        assert spread[row, members].equal(found.probabilities[row, : len(members)])
    torch.testing.assert_close(spread.sum(-1), torch.ones(3))


def test_a_flat_nucleus_is_drawn_evenly_to_its_last_token() -> None:
    draws = 10_000
    generator = torch.Generator().manual_seed(1)
    drawn = draw(torch.zeros(draws, 512), 1.0, 0.75, 0, [generator] * draws)
    counts = drawn.tokens.bincount(minlength=512).double()
    assert counts[384:].sum() == 0, "a token outside the nucleus was drawn"
    statistic = float(((counts[:384] - draws / 384) ** 2 / (draws / 384)).sum())
    assert statistic < 475, "chi square with 383 degrees of freedom exceeds 475 once in a thousand right samplers"
    assert drawn.logprobs().equal(torch.full((draws,), 1 / 384).log())

"""The loss over a large vocabulary, forward and backward: time and memory beside logits that are held whole.

    python benchmarks/cross_entropy.py
    python benchmarks/cross_entropy.py --tokens 2048 --hidden-size 2048 --json FILE

Hidden states and a projection of Qwen's 151,936 rows, products in BF16 autocast; the peer is PyTorch's own
`cross_entropy` of `linear`, in float32 as transformers takes it. Each side is a process, and they take turns.
Memory is the most that is held beyond states and projection. Of both sides the gradients are compared with float64's on
few tokens: told is the largest difference over the largest entry.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from side_by_side import Process, Side, forget_peak, is_side, peak_memory, report, settings_of, take_turns
from torch import Tensor

from danlu.run.device import keep_freed_memory
from danlu.training.loss import cross_entropy_sum, exponentiate_rows

VOCABULARY = 151_936

CHECKED_TOKENS = 64
"""Tokens whose gradients are compared."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """How much, and how often."""

    tokens: int = 4096
    """Tokens in a pass."""

    hidden_size: int = 896
    """Width of the states: Qwen2.5-0.5B's."""

    rounds: int = 4
    """Turns of each side."""

    json: Path | None = None
    """File for the results, beside standard output."""


LossOf = Callable[[Tensor, Tensor, Tensor], Tensor]
"""States (N, D), projection (V, D) and labels (N) to the sum of the losses."""


def ours() -> LossOf:
    # As the training stages do it.
    keep_freed_memory()
    exponentiate = torch.compile(exponentiate_rows, dynamic=True)
    # The compiler's own memory is not the loss's.
    for rows in (300, 400):
        exponentiate(torch.randn(rows, 1000, dtype=torch.bfloat16))
    return lambda hidden, weight, labels: cross_entropy_sum(hidden, weight, labels, exponentiate)[0]


def theirs() -> LossOf:
    return lambda hidden, weight, labels: F.cross_entropy(F.linear(hidden, weight).float(), labels, reduction="sum")


SIDES = {"danlu": ours, "pytorch": theirs}


def with_gradients(loss_of: LossOf, hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients for states and projection."""
    hidden.grad = weight.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(hidden, weight, labels)
    loss.backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return hidden.grad, weight.grad


def largest_difference(loss_of: LossOf, hidden: Tensor, weight: Tensor, labels: Tensor) -> float:
    """Of the gradients from float64's, as a share of the largest of these."""
    exact = [each.detach().double().requires_grad_() for each in (hidden, weight)]
    F.cross_entropy(exact[0] @ exact[1].T, labels, reduction="sum").backward()
    found = with_gradients(loss_of, hidden, weight, labels)
    shares = []
    for one, other in zip(found, exact, strict=True):
        assert other.grad is not None
        shares.append(((one - other.grad).abs().max() / other.grad.abs().max()).item())
    return max(shares)


def work() -> None:
    """One side, in a process of its own."""
    side = Side()
    job = side.job
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(job["tokens"], job["hidden_size"], generator=generator, requires_grad=True)
    weight = (torch.randn(VOCABULARY, job["hidden_size"], generator=generator) * 0.02).requires_grad_()
    labels = torch.randint(VOCABULARY, (job["tokens"],), generator=generator)
    loss_of = SIDES[job["side"]]()
    forget_peak()
    before = peak_memory()
    with_gradients(loss_of, hidden, weight, labels)
    taken = peak_memory() - before
    side.ready(torch.get_num_threads(), bytes=taken)
    while True:
        started = time.perf_counter()
        with_gradients(loss_of, hidden, weight, labels)
        seconds = time.perf_counter() - started
        side.step_done(seconds=seconds)


def main(config: Loss) -> None:
    """Measure and tell one JSON object."""
    job = {"steps": 1, **settings_of(config)}
    sides = [Process(side, sys.executable, Path(__file__), {**job, "side": side}) for side in SIDES]
    memory = {side.name: side.answer["bytes"] for side in sides}
    seconds = {
        side: [turn["steps"][0]["seconds"] for turn in turns]
        for side, turns in take_turns(sides, config.rounds).items()
    }
    generator = torch.Generator().manual_seed(1)
    few = torch.randn(CHECKED_TOKENS, config.hidden_size, generator=generator).requires_grad_()
    weight = (torch.randn(VOCABULARY, config.hidden_size, generator=generator) * 0.02).requires_grad_()
    labels = torch.randint(VOCABULARY, (CHECKED_TOKENS,), generator=generator)
    ratios = [other / mine for mine, other in zip(*seconds.values(), strict=True)]
    report({
        **settings_of(config),
        "threads": torch.get_num_threads(), "torch": torch.__version__,
        "seconds": {side: statistics.median(values) for side, values in seconds.items()},
        "ratio": statistics.median(ratios), "ratios": ratios,
        "peak_memory_mb": {side: taken / 2**20 for side, taken in memory.items()},
        "memory_share": memory["danlu"] / memory["pytorch"],
        "gradient_difference": {
            side: largest_difference(make(), few, weight, labels) for side, make in SIDES.items()
        },
    }, config.json)  # fmt: skip


if __name__ == "__main__":
    if is_side():
        work()
    else:
        main(tyro.cli(Loss, description=__doc__))

"""Reading a prompt and writing a reply with one model: tokens per second beside transformers' eager `generate`.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --dtype float32 --prompt-tokens 2048 --json FILE

A model of Qwen2.5-0.5B's shape with random weights; each side opens it in a process of its own, and they take turns.
A turn reads a prompt of `prompt_tokens` for one token (`prefill`), and continues one of 16 by `new_tokens` more
(`decode`, greedy, without what its first token takes). The limit of decoding is how fast memory gives the weights,
measured in the same run. Needs the `peers` extra.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from loading import SHAPE
from side_by_side import Process, Side, is_side, report, settings_of, spread, take_turns

from danlu.inference.config import SamplingConfig
from danlu.inference.engine import generate_batch
from danlu.model.checkpoint import load_model, save_model
from danlu.model.linear import pack
from danlu.model.transformer import Transformer

SHORT = 16
"""Tokens of the prompt that is continued."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """What is read and written, and how often."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of weights and cache."""

    prompt_tokens: int = 512
    """Tokens of the prompt that is read."""

    new_tokens: int = 32
    """Tokens written."""

    rounds: int = 8
    """Turns of each side."""

    json: Path | None = None
    """File for the results, beside standard output."""


Continue = Callable[[list[int], int], None]
"""Continues a prompt by so many tokens."""


def ours(folder: Path, dtype: torch.dtype) -> Continue:
    """As the verbs that answer open a model."""
    model = load_model(folder, dtype=dtype)
    pack(model)

    def go_on(prompt: list[int], count: int) -> None:
        (row,) = generate_batch(model, (), [prompt], SamplingConfig(temperature=0, max_new_tokens=count))
        assert len(row.output_ids) == count

    return go_on


def theirs(folder: Path, dtype: torch.dtype) -> Continue:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)

    def go_on(prompt: list[int], count: int) -> None:
        made = model.generate(torch.tensor([prompt]), max_new_tokens=count, min_new_tokens=count, do_sample=False)
        assert made.shape[1] == len(prompt) + count

    return go_on


SIDES = {"danlu": ours, "transformers": theirs}


def work() -> None:
    """One side, in a process of its own."""
    side = Side()
    job = side.job
    go_on = SIDES[job["side"]](Path(job["folder"]), getattr(torch, job["dtype"]))
    ids = torch.randint(SHAPE.vocab_size, (job["prompt_tokens"],), generator=torch.Generator().manual_seed(0)).tolist()

    def seconds(prompt: list[int], count: int) -> float:
        started = time.perf_counter()
        go_on(prompt, count)
        return time.perf_counter() - started

    seconds(ids, 2)
    side.ready(torch.get_num_threads())
    while True:
        first = seconds(ids[:SHORT], 1)
        side.step_done(
            prefill=len(ids) / seconds(ids, 1),
            decode=job["new_tokens"] / (seconds(ids[:SHORT], 1 + job["new_tokens"]) - first),
        )


def bytes_per_second() -> float:
    """How fast memory gives what lies in no cache: half a gigabyte summed up, the best of five."""
    block = torch.ones(1 << 26, dtype=torch.int64)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - started)
    return block.numel() * 8 / min(times)


def main(config: Decoding) -> None:
    """Measure and tell one JSON object."""
    with tempfile.TemporaryDirectory() as scratch:
        model = Transformer(SHAPE)
        model.initialise(torch.Generator().manual_seed(1))
        weights = sum(parameter.numel() for parameter in model.parameters()) * getattr(torch, config.dtype).itemsize
        save_model(Path(scratch, "model"), model.bfloat16(), None, [151_645], 151_643)
        del model
        job = {"folder": f"{scratch}/model", "steps": 1, **settings_of(config)}
        sides = [Process(side, sys.executable, Path(__file__), {**job, "side": side}) for side in SIDES]
        turns = take_turns(sides, config.rounds)
    rates = {
        side: {what: [turn["steps"][0][what] for turn in own] for what in ("prefill", "decode")}
        for side, own in turns.items()
    }
    limit = bytes_per_second() / weights
    report({
        **settings_of(config),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "weights_bytes": weights,
        "tokens_per_s": {side: {what: spread(values) for what, values in own.items()} for side, own in rates.items()},
        "ratio": {
            what: spread([mine / other for mine, other in zip(*(rates[side][what] for side in SIDES), strict=True)])
            for what in ("prefill", "decode")
        },
        "decode_limit_tokens_per_s": limit,
        "share_of_limit": statistics.median(rates["danlu"]["decode"]) / limit,
    }, config.json)  # fmt: skip


if __name__ == "__main__":
    if is_side():
        work()
    else:
        main(tyro.cli(Decoding, description=__doc__))

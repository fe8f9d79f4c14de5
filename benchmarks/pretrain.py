"""Tokens per second and peak memory of our training step beside transformers' `Qwen2ForCausalLM`, on the same shape and
data.

    python benchmarks/pretrain.py                               # a body of 6.4M, vocabulary 16k, length 512, CPU
    python benchmarks/pretrain.py --shape demo
    python benchmarks/pretrain.py --shape 50m --json FILE
    python benchmarks/pretrain.py --device cuda --shape qwen-1.8b --micro-batch-size 8 --peer-micro-batch-size 4

Both run forward, loss, backward, clipping and a fused AdamW step in BF16 autocast under `torch.compile`, over the same
token ids, each in a process of its own. On a CPU they take turns, on a GPU each has it to itself; the median of each
and of the ratio of a round's turns are told, with the GEMM peak measured in the same run. Needs the `peers` extra.
"""

import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from side_by_side import Process, Side, is_side, report, settings_of, take_turns

from danlu.model.config import ModelConfig
from danlu.model.hf_config import CAUSAL, hf_config
from danlu.model.transformer import Transformer
from danlu.run.device import gemm_peak_flops, keep_freed_memory
from danlu.training.optimizer import make_optimizers, set_learning_rate
from danlu.training.optimizer_config import OptimizerConfig
from danlu.training.step import Forward, LossFunction, MicroBatch, accumulate_gradients, clip_and_step

SHAPES = {
    # A body of 6.4M weights, the size at which the peer was first measured (2,850 tokens/s on two cores).
    "small": (ModelConfig(vocab_size=16_384, hidden_size=256, intermediate_size=688, num_hidden_layers=8,
                          num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512), 512, 4),
    "demo": (ModelConfig(vocab_size=4096, hidden_size=192, intermediate_size=512, num_hidden_layers=4,
                         num_attention_heads=3, num_key_value_heads=3, max_position_embeddings=256), 256, 16),
    "50m": (ModelConfig(vocab_size=16_384, hidden_size=512, intermediate_size=1408, num_hidden_layers=16,
                        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=512), 512, 4),
    "qwen-1.8b": (ModelConfig(vocab_size=151_936, hidden_size=2048, intermediate_size=5504, num_hidden_layers=24,
                              num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=2048), 2048, 8),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What to measure."""

    shape: Literal["small", "demo", "50m", "qwen-1.8b"] = "small"
    """Model, length and micro-batch."""

    device: str = "cpu"
    """`cpu` or `cuda`."""

    micro_batch_size: int | None = None
    """Rows in a step of ours; the shape's own when not given."""

    peer_micro_batch_size: int | None = None
    """Rows in a step of the peer's; as ours when not given. Each may use the size at which it is fastest."""

    rounds: int = 5
    """Turns of each side."""

    steps: int = 3
    """Steps timed in a turn."""

    json: Path | None = None
    """File for the results, beside standard output."""


def our_step(shape: ModelConfig, device: torch.device) -> Callable[[torch.Tensor], None]:
    """A step of Danlu's training on a batch of ids (B, T + 1)."""
    model = Transformer(shape).to(device)
    model.initialise(torch.Generator(device).manual_seed(0))
    config = OptimizerConfig()
    optimizers = make_optimizers(model, config)
    set_learning_rate(optimizers, config, 1e-4, 1.0)
    loss_function = LossFunction(model, Forward(model, compiled=True, bf16=True))

    keep_freed_memory()

    def step(ids: torch.Tensor) -> None:
        accumulate_gradients(loss_function, [MicroBatch(input_ids=ids[:, :-1], labels=ids[:, 1:])])
        clip_and_step(model.parameters(), optimizers, config.max_grad_norm)

    return step


def peer_step(shape: ModelConfig, device: torch.device) -> Callable[[torch.Tensor], None]:
    """A step of `Qwen2ForCausalLM` with its own loss, compiled whole."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    values = hf_config(shape, CAUSAL, torch.float32, [], None)
    model = Qwen2ForCausalLM(Qwen2Config(**{**values, "use_cache": False})).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True
    )
    compiled = torch.compile(model, dynamic=False)

    def step(ids: torch.Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            # The peer shifts the labels itself.
            loss = compiled(input_ids=ids[:, :-1], labels=ids[:, :-1]).loss
        loss.backward()
        loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


STEPS = {"ours": our_step, "peer": peer_step}

WARM_UP = 2
"""Steps before the first turn: kernels are built."""


def work() -> None:
    """One side, in a process of its own."""
    side = Side()
    job = side.job
    shape, length, _ = SHAPES[job["shape"]]
    device = torch.device(job["device"])
    ids = torch.randint(shape.vocab_size, (job["rows"], length + 1), generator=torch.Generator().manual_seed(0))
    ids, step = ids.to(device), STEPS[job["side"]](shape, device)
    for _ in range(WARM_UP):
        step(ids)
    side.ready(torch.get_num_threads())
    while True:
        step(ids)
        if device.type == "cuda":
            torch.cuda.synchronize()
        side.step_done(gpu_memory=torch.cuda.max_memory_allocated() if device.type == "cuda" else 0)


def main(config: Benchmark) -> None:
    """Measure and tell one JSON object."""
    shape, length, micro_batch = SHAPES[config.shape]
    device = torch.device(config.device)
    ours = config.micro_batch_size or micro_batch
    rows = {"ours": ours, "peer": config.peer_micro_batch_size or ours}
    jobs = {
        side: {"side": side, "shape": config.shape, "device": config.device, "rows": rows[side], "steps": config.steps}
        for side in STEPS
    }

    def started(side: str) -> Process:
        return Process(side, sys.executable, Path(__file__), jobs[side])

    if device.type == "cpu":
        turns = take_turns([started(side) for side in STEPS], config.rounds)
    else:
        # Two models of this size do not fit beside each other.
        turns = {side: take_turns([started(side)], config.rounds)[side] for side in STEPS}
    rates = {
        side: [rows[side] * length * config.steps / turn["seconds"] for turn in own] for side, own in turns.items()
    }
    ratios = [mine / other for mine, other in zip(rates["ours"], rates["peer"], strict=True)]
    peak, flops = gemm_peak_flops(device), shape.train_flops_per_token(length)
    medians = {side: statistics.median(values) for side, values in rates.items()}
    report({
        **settings_of(config),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(), "torch": torch.__version__,
        "body_parameters": shape.num_matmul_parameters - shape.vocab_size * shape.hidden_size,
        "tokens_per_s": medians, "ratio": statistics.median(ratios), "ratios": ratios,
        "gemm_peak_gflops": peak / 1e9, "mfu": {side: value * flops / peak for side, value in medians.items()},
        "peak_memory_mb": {side: most_memory(own) / 2**20 for side, own in turns.items()},
    }, config.json)  # fmt: skip


def most_memory(turns: list[dict[str, Any]]) -> float:
    """Bytes held at most: of the GPU where there is one, else of the process."""
    return max(max(step["gpu_memory"] for step in turn["steps"]) or turn["peak_memory"] for turn in turns)


if __name__ == "__main__":
    if is_side():
        work()
    else:
        main(tyro.cli(Benchmark))

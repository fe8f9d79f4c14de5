"""Tokens per second of our training step beside transformers' `Qwen2ForCausalLM`, on the same shape and data.

    python benchmarks/pretrain.py                               # a body of 6.4M, vocabulary 16k, length 512, CPU
    python benchmarks/pretrain.py --shape demo
    python benchmarks/pretrain.py --device cuda --shape qwen-1.8b --micro-batch-size 8 --peer-micro-batch-size 4

Both run forward, loss, backward, clipping and a fused AdamW step in BF16 autocast under `torch.compile`, over the same
token ids. On a CPU pairs are interleaved, on a GPU each side has it to itself; the median of each and of the pairwise
ratio are printed as JSON, with the GEMM peak measured in the same run. Needs the `peers` extra.
"""

import dataclasses
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import tyro

from danlu.model.config import ModelConfig
from danlu.model.transformer import Transformer
from danlu.run.device import gemm_peak_flops
from danlu.training.optimizer import make_optimizers, set_learning_rate
from danlu.training.optimizer_config import OptimizerConfig
from danlu.training.step import Forward, LossFunction, MicroBatch, accumulate_gradients, clip_and_step

SHAPES = {
    # A body of 6.4M weights, the size at which the peer was first measured (2,850 tokens/s on two cores).
    "small": (ModelConfig(vocab_size=16_384, hidden_size=256, intermediate_size=688, num_hidden_layers=8,
                          num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512), 512, 4),
    "demo": (ModelConfig(vocab_size=4096, hidden_size=192, intermediate_size=512, num_hidden_layers=4,
                         num_attention_heads=3, num_key_value_heads=3, max_position_embeddings=256), 256, 16),
    "qwen-1.8b": (ModelConfig(vocab_size=151_936, hidden_size=2048, intermediate_size=5504, num_hidden_layers=24,
                              num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=2048), 2048, 8),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What to measure."""

    shape: Literal["small", "demo", "qwen-1.8b"] = "small"
    """Model, length and micro-batch."""

    device: str = "cpu"
    """`cpu` or `cuda`."""

    micro_batch_size: int | None = None
    """Rows in a step of ours; the shape's own when not given."""

    peer_micro_batch_size: int | None = None
    """Rows in a step of the peer's; as ours when not given. Each may use the size at which it is fastest."""

    pairs: int = 5
    """Interleaved pairs."""

    steps: int = 3
    """Steps timed in one half of a pair."""


def our_step(shape: ModelConfig, device: torch.device) -> Callable[[torch.Tensor], None]:
    """A step of Danlu's training on a batch of ids (B, T + 1)."""
    model = Transformer(shape).to(device)
    model.initialise(torch.Generator(device).manual_seed(0))
    config = OptimizerConfig()
    optimizers = make_optimizers(model, config)
    set_learning_rate(optimizers, config, 1e-4, 1.0)
    loss_function = LossFunction(model, Forward(model, compiled=True, bf16=True))

    def step(ids: torch.Tensor) -> None:
        accumulate_gradients(loss_function, [MicroBatch(input_ids=ids[:, :-1], labels=ids[:, 1:])])
        clip_and_step(model.parameters(), optimizers, config.max_grad_norm)

    return step


def peer_step(shape: ModelConfig, device: torch.device) -> Callable[[torch.Tensor], None]:
    """A step of `Qwen2ForCausalLM` with its own loss, compiled whole."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    values = {
        key: value
        for key, value in dataclasses.asdict(shape).items()
        if key not in ("rope_theta", "family", "extension")
    }
    model = Qwen2ForCausalLM(Qwen2Config(**values, use_cache=False)).to(device)
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


def seconds_per_step(step: Callable[[torch.Tensor], None], ids: torch.Tensor, steps: int) -> float:
    """Mean time of `steps` steps."""
    if ids.device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        step(ids)
    if ids.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / steps


Step = Callable[[torch.Tensor], None]
Sides = dict[str, tuple[Callable[[ModelConfig, torch.device], Step], torch.Tensor]]
"""What makes a side's step, and the ids of its batch."""


def ready(name: str, make: Callable[[ModelConfig, torch.device], Step], shape: ModelConfig, ids: torch.Tensor) -> Step:
    """A side's step, compiled and warm."""
    print(f"compiling {name} …", file=sys.stderr)
    step = make(shape, ids.device)
    seconds_per_step(step, ids, 2)
    return step


def tokens_per_second(config: Benchmark, step: Step, ids: torch.Tensor) -> float:
    return (ids.numel() - len(ids)) / seconds_per_step(step, ids, config.steps)


def interleaved(config: Benchmark, shape: ModelConfig, sides: Sides) -> dict[str, list[float]]:
    """Ours, peer, ours, peer, …: what else the machine does meets both."""
    steps = {name: ready(name, make, shape, ids) for name, (make, ids) in sides.items()}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(config.pairs):
        for name, step in steps.items():
            rates[name].append(tokens_per_second(config, step, sides[name][1]))
    return rates


def one_after_the_other(config: Benchmark, shape: ModelConfig, sides: Sides) -> dict[str, list[float]]:
    """Each side with the whole card, which does nothing else: two models of this size do not fit at once."""
    rates = {}
    for name, (make, ids) in sides.items():
        step = ready(name, make, shape, ids)
        rates[name] = [tokens_per_second(config, step, ids) for _ in range(config.pairs)]
        del step
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
    return rates


def main(config: Benchmark) -> None:
    """Measure and print one JSON object."""
    shape, length, micro_batch = SHAPES[config.shape]
    device = torch.device(config.device)
    rows = config.micro_batch_size or micro_batch
    peer_rows = config.peer_micro_batch_size or rows
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, shape.vocab_size, (max(rows, peer_rows), length + 1), generator=generator).to(device)
    sides = {"ours": (our_step, ids[:rows]), "peer": (peer_step, ids[:peer_rows])}
    rates = (interleaved if device.type == "cpu" else one_after_the_other)(config, shape, sides)
    peak = gemm_peak_flops(device)
    ratios = [mine / other for mine, other in zip(rates["ours"], rates["peer"], strict=True)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    medians = {key: statistics.median(values) for key, values in rates.items()}
    flops = shape.train_flops_per_token(length)
    print(json.dumps({
        "shape": config.shape, "device": name, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "body_parameters": shape.num_matmul_parameters - shape.vocab_size * shape.hidden_size,
        "tokens_per_s": medians, "ratio": statistics.median(ratios), "ratios": ratios,
        "gemm_peak_gflops": peak / 1e9, "mfu": {key: value * flops / peak for key, value in medians.items()},
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

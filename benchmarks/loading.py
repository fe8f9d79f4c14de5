"""Opening a model of the shape of Qwen2.5-0.5B: time from the page cache and peak memory, beside transformers.

    python benchmarks/loading.py
    python benchmarks/loading.py --dtype float32 --repeats 5 --json FILE

Random weights in bfloat16, written once; each side opens them in processes of its own that take turns. Told are the
medians: seconds from the call to the model, and the most memory held beyond what the process had before the call, as
a multiple of the weights in the dtype asked for. Needs the `peers` extra.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from side_by_side import peak_memory, report

from danlu.model.checkpoint import load_model, save_model
from danlu.model.config import ModelConfig
from danlu.model.transformer import Transformer

SHAPE = ModelConfig(
    vocab_size=151_936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
    num_key_value_heads=2, max_position_embeddings=32_768, rope_theta=1_000_000.0, tie_word_embeddings=True,
)  # fmt: skip

SIDES = ("danlu", "transformers")


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What is opened, and how often."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """In which the weights are held afterwards."""

    repeats: int = 5
    """Processes of each side."""

    json: Path | None = None
    """File for the results, beside standard output."""

    side: tuple[str, str] | None = None
    """Set by the program for its own processes: the side, and the model's folder."""


def opened(side: str, folder: str, dtype: torch.dtype) -> dict[str, float]:
    """Seconds and bytes of one opening, in this process."""
    if side == "transformers":
        from transformers import AutoModelForCausalLM

        started, before = time.perf_counter(), peak_memory()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    else:
        started, before = time.perf_counter(), peak_memory()
        model = load_model(Path(folder), dtype=dtype)
    # Touch all of it: a model that lies in a mapped file has been read by nobody yet.
    float(sum(parameter.detach().view(-1)[::512].float().sum() for parameter in model.parameters()))
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "bytes": peak_memory() - before}


def main() -> None:
    config = tyro.cli(Loading, description=__doc__)
    if config.side:
        print(json.dumps(opened(*config.side, getattr(torch, config.dtype))))
        return
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        model = Transformer(SHAPE)
        model.initialise(torch.Generator().manual_seed(1))
        save_model(Path(scratch, "model"), model.bfloat16(), None, [151_645], 151_643)
        del model
        weights = Path(scratch, "model", "model.safetensors").stat().st_size * (2 if config.dtype == "float32" else 1)
        for _ in range(config.repeats):
            for side in SIDES:
                words = [sys.executable, __file__, "--dtype", config.dtype, "--side", side, f"{scratch}/model"]
                said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
                found[side].append(json.loads(said.strip().splitlines()[-1]))
    figures: dict[str, Any] = {"dtype": config.dtype, "weights_bytes": weights, "repeats": config.repeats}
    for side, runs in found.items():
        figures[side] = {
            "seconds": statistics.median(run["seconds"] for run in runs),
            "peak_over_weights": statistics.median(run["bytes"] for run in runs) / weights,
        }
    figures["ratio"] = figures["transformers"]["seconds"] / figures["danlu"]["seconds"]
    report(figures, config.json)


if __name__ == "__main__":
    main()

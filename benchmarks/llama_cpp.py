"""The GGUF files that Danlu writes, in llama.cpp: the same ids of a text, and the same greedy continuation.

    python benchmarks/llama_cpp.py --server PATH/llama-server
    python benchmarks/llama_cpp.py --server PATH/llama-server --models runs/demo/ppo/model --json FILE

Models of random weights of each architecture, and the folders or GGUF files named. A folder is written as f32, f16,
q8_0 and q4_0, a file taken as it is; both sides open it and continue the same prompts. Counted: prompts whose ids and
whose whole continuation are the same. llama.cpp multiplies quantised weights with activations that it rounds to eight
bits: there texts may part.
"""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import tyro
from made_up import SHAPES, write_language_model
from side_by_side import report

import danlu
from danlu.inference.config import SamplingConfig
from danlu.inference.engine import generate_batch
from danlu.model.config import ModelConfig
from danlu.model.convert import convert
from danlu.tokenizer.formats import GGUF_SUFFIX

PROMPTS = (
    "Once upon a time", "The capital of France", "def main(", "1 + 2 =", "In the year 1998", "It's hers, they don't",
    "今天天气", "中国的首都", "请问，在这个", "  two  blanks\n\nand lines",
)  # fmt: skip
KINDS = ("f32", "f16", "q8_0", "q4_0")

FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen2": {"num_key_value_heads": 1, "rope_theta": 1_000_000.0},
    "Qwen3": {"family": "Qwen3", "num_key_value_heads": 1, "head_dim": 128, "tie_word_embeddings": True},
    "Llama": {"family": "Llama", "num_key_value_heads": 1, "rms_norm_eps": 1e-5},
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Which llama.cpp, and which models beside those of random weights."""

    server: Path
    """The program `llama-server`."""

    models: tuple[Path, ...] = ()
    """Model folders and GGUF files."""

    num_tokens: int = 32
    """Tokens of a continuation."""

    port: int = 8123
    """Where the server listens meanwhile."""

    json: Path | None = None
    """File for the results, beside standard output."""


@contextmanager
def served(config: Comparison, model: Path) -> Iterator[httpx.Client]:
    """llama.cpp's server with a model, and a client that asks it."""
    words = [config.server, "-m", model, "--port", str(config.port), "--ctx-size", "512"]
    # Its cache holds half precision otherwise.
    words += ["--cache-type-k", "f32", "--cache-type-v", "f32"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{config.port}", timeout=300) as client:
            while True:
                if process.poll() is not None:
                    raise SystemExit(f"{model}: llama.cpp does not open it")
                try:
                    if client.get("/health").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield client
    finally:
        process.terminate()
        process.wait()


def compared(config: Comparison, path: Path) -> dict[str, int]:
    """On how many prompts both sides agree."""
    model, tokenizer = danlu.load(path, device="cpu")
    assert tokenizer is not None
    same_ids = same_continuation = 0
    sampling = SamplingConfig(max_new_tokens=config.num_tokens, temperature=0.0)
    with served(config, path) as client:
        for prompt in PROMPTS:
            ids = client.post("/tokenize", json={"content": prompt}).json()["tokens"]
            asked = {"prompt": prompt, "n_predict": config.num_tokens, "temperature": 0, "return_tokens": True}
            # Ids, not text: a model of random weights breaks off within characters.
            said = client.post("/completion", json=asked | {"cache_prompt": False}).json()["tokens"]
            same_ids += ids == tokenizer.encode(prompt)
            (row,) = generate_batch(model, tokenizer.stop_ids, [ids], sampling, vocab_size=tokenizer.vocab_size)
            same_continuation += said == row.response_ids
    return {"prompts": len(PROMPTS), "same_ids": same_ids, "same_continuation": same_continuation}


def main() -> None:
    config = tyro.cli(Comparison, description=__doc__)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        named = [(str(path), path) for path in config.models]
        for family, values in FAMILIES.items():
            # Weights that spread, so that the continuations are not one token for ever.
            shape: ModelConfig = replace(SHAPES["larger"], initializer_range=0.1, **values)
            write_language_model(Path(scratch, family), shape)
            named.append((f"{family}, random weights", Path(scratch, family, "model")))
        for name, path in named:
            if path.suffix == GGUF_SUFFIX:
                figures[name] = compared(config, path)
                continue
            for kind in KINDS:
                file = Path(scratch, f"{len(figures)}-{kind}{GGUF_SUFFIX}")
                convert(path, file, "gguf", kind)
                figures[f"{name}, {kind}"] = compared(config, file)
    report(figures, config.json)


if __name__ == "__main__":
    main()

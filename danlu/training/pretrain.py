"""Pretraining: token shards in, a model folder out (recipe section 5).

`figures.json`: `parameters`, `tokens`, `loss`, `bits_per_byte` (all languages), `bits_per_byte_by_language`,
`tokens_per_s` (median), `mfu` (median), `gemm_peak_gflops`, `compiled`.
"""

import dataclasses
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from danlu.model.checkpoint import check_savable, save_model
from danlu.model.transformer import Transformer
from danlu.run.device import can_compile, gemm_peak_flops, pick_device
from danlu.run.errors import UserError
from danlu.run.files import write_json
from danlu.run.metrics import read_jsonl
from danlu.run.seeds import derive_seed
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.shards import TokenShards
from danlu.training.config import PretrainConfig
from danlu.training.loader import Batches, StreamRows
from danlu.training.loop import Loop
from danlu.training.optimizer import cosine_factor, make_optimizers
from danlu.training.step import Forward, LossFunction
from danlu.training.validation import bits_per_byte

VOCABULARY_MULTIPLE = 128
"""Embedding rows are padded to a multiple of this, as the published 151,851 to 151,936 (recipe section 2)."""


def padded_vocabulary(size: int) -> int:
    """Embedding rows for a tokenizer of `size` ids."""
    return -(-size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def compile_or_say_why(wanted: bool, device: torch.device) -> bool:
    """Whether to compile; one line on standard error where it is wanted and cannot be had."""
    if wanted and not can_compile(device):
        print("No C++ compiler with Python's headers: training runs eager, about a sixth slower.", file=sys.stderr)
        return False
    return wanted


def check_shards(config: PretrainConfig, tokenizer: Tokenizer, train: TokenShards, validation: TokenShards) -> None:
    """Raise UserError before any training where the shards are not this tokenizer's, or hold nothing to validate on."""
    for shards in (train, validation):
        if (shards.vocab_size, shards.end_of_text_id) != (tokenizer.vocab_size, tokenizer.end_of_text_id):
            raise UserError(
                f"made with a vocabulary of {shards.vocab_size}, but {config.tokenizer} has {tokenizer.vocab_size}",
                where=shards.folder,
                mend="Name the tokenizer of these shards, or make the shards anew",
            )
    if not validation.num_bytes.any():
        raise UserError("no text to validate on", where=validation.folder, mend="Hold out more of the corpus")
    if 0 < config.model.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size {config.model.vocab_size} is less than the {tokenizer.vocab_size} ids of the tokenizer",
            where=config.tokenizer,
            mend="Leave it at 0 to follow the tokenizer",
        )


def pretrain(config: PretrainConfig) -> Path:
    """Train a new model; the path of its folder. Raises UserError for data that cannot be trained on."""
    # Setup
    device = pick_device(config.device)
    compiled = compile_or_say_why(config.step.compile, device)

    # Data
    tokenizer = Tokenizer.load(config.tokenizer)
    train, validation = TokenShards(config.data / "train"), TokenShards(config.data / "validation")
    check_shards(config, tokenizer, train, validation)
    step = config.step
    num_rows = step.max_steps * step.batch_size if step.max_steps else None
    rows = StreamRows(train, step.sequence_length, num_rows, step.epochs, step.seed)
    if rows.rows_per_epoch < step.batch_size:
        raise UserError(
            f"the corpus makes {rows.rows_per_epoch} rows of {step.sequence_length} tokens, fewer than one batch of "
            f"{step.batch_size}",
            where=train.folder,
            mend="Add text, or lower step.batch_size or step.sequence_length",
        )
    batches = Batches(rows, step.batch_size, step.micro_batch_size)

    # Model
    vocab_size = max(config.model.vocab_size, padded_vocabulary(tokenizer.vocab_size))
    shape = dataclasses.replace(config.model, vocab_size=vocab_size, max_position_embeddings=step.sequence_length)
    check_savable(shape)
    model = Transformer(shape)
    model.initialise(torch.Generator().manual_seed(derive_seed(step.seed, "weights")))
    model.to(device)

    # Optimiser
    optimizers = make_optimizers(model, config.optimizer)
    max_steps = batches.num_steps

    # Loop
    def validate(max_documents: int | None = config.validation_documents) -> dict[str, float]:
        return bits_per_byte(model, validation, tokenizer.end_of_text_id, bf16=step.bf16, max_documents=max_documents)

    peak = gemm_peak_flops(device)
    Loop(
        name="pretrain",
        out=config.out,
        model=model,
        loss_function=LossFunction(model, Forward(model, compiled, step.bf16, step.checkpoint_activations)),
        optimizers=optimizers,
        batches=batches,
        config=step,
        optimizer_config=config.optimizer,
        max_steps=max_steps,
        rate_factor=lambda update: cosine_factor(update, step.warmup_steps, max_steps, config.final_rate_share),
        validate=validate,
        validate_every=config.validate_every,
        flops_per_token=shape.train_flops_per_token(step.sequence_length),
        peak_flops=peak,
    ).run()

    # Product
    tokens = max_steps * step.batch_size * step.sequence_length
    figures = {"parameters": sum(p.numel() for p in model.parameters()), "tokens": tokens, "compiled": compiled}
    figures |= figures_of_training(config.out, validate(max_documents=None), peak)
    write_json(config.out / "figures.json", figures)
    save_model(config.out / "model", model, config.tokenizer, list(tokenizer.stop_ids), tokenizer.end_of_text_id)
    return config.out / "model"


def figures_of_training(out: Path, bits: dict[str, float], peak: float) -> dict[str, Any]:
    """What the run's metrics and its last validation (bits per byte by language and under "all") come to."""
    history = read_jsonl(out / "metrics.jsonl")
    return {
        "loss": statistics.fmean(record["loss"] for record in history[-50:]),
        "bits_per_byte": bits["all"],
        "bits_per_byte_by_language": {language: value for language, value in bits.items() if language != "all"},
        "tokens_per_s": statistics.median(record["tokens_per_s"] for record in history),
        "mfu": statistics.median(record["mfu"] for record in history),
        "gemm_peak_gflops": peak / 1e9,
    }

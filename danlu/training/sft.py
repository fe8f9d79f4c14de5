"""Supervised fine-tuning: a model and conversations in, a model folder out (recipe section 7).

`figures.json`: `conversations`, `dropped` (reason and count), `dropped_examples`, `rows`, `supervised_tokens` of an
epoch, `targets` learnt in all, `loss` (mean of the last 50 steps), `steps`.
"""

import statistics
from pathlib import Path

import numpy as np

from danlu.conversations.records import SkippedRecord, count_malformed, read_conversations
from danlu.inference.load import load_for_text
from danlu.model.checkpoint import leave_extension_out
from danlu.run.device import pick_device
from danlu.run.errors import UserError
from danlu.run.files import write_json
from danlu.run.left_out import LeftOut
from danlu.run.metrics import read_jsonl
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.chat import encode_conversation
from danlu.training.config import SftConfig
from danlu.training.learner import learner, save_learnt
from danlu.training.loader import Batches, ConversationRows
from danlu.training.loop import Loop
from danlu.training.optimizer import constant_factor, make_optimizers
from danlu.training.pretrain import compile_or_say_why
from danlu.training.step import Forward, LossFunction

Encoded = tuple[np.ndarray, np.ndarray]


def cut_to_length(ids: np.ndarray, mask: np.ndarray, limit: int) -> Encoded | None:
    """The conversation up to the last whole reply that fits into `limit` inputs; None when none does (K10).

    A reply is never cut in its middle: its end token would be missing from what is learnt.
    """
    ends = np.flatnonzero(mask & ~np.append(mask[1:], False))
    fitting = ends[ends <= limit]
    if not len(fitting):
        return None
    last = int(fitting[-1]) + 1
    return ids[:last], mask[:last]


def encode_for_training(path: Path, tokenizer: Tokenizer, limit: int) -> tuple[list[Encoded], LeftOut]:
    """Conversations of a file as (ids, loss mask), and what was left out."""
    encoded: list[Encoded] = []
    left_out = LeftOut()
    malformed: list[SkippedRecord] = []
    for number, conversation in enumerate(read_conversations(path, malformed), start=1):
        number += len(malformed)
        messages = [{"role": message.role, "content": message.content} for message in conversation.messages]
        ids, mask = (np.array(values) for values in encode_conversation(tokenizer, messages))
        if not mask.any():
            left_out.add("no assistant turn", f"{path}, conversation {number}")
        elif (cut := cut_to_length(ids.astype(np.int32), mask.astype(bool), limit)) is None:
            left_out.add(f"no reply ends within the limit of {limit} tokens", f"{path}, conversation {number}")
        else:
            encoded.append(cut)
    count_malformed(malformed, left_out)
    if not encoded:
        raise UserError(
            f"no conversation to learn from; {left_out.counts or 'the file is empty'}",
            where=path,
            mend="Raise sequence_length, or add assistant turns",
        )
    return encoded, left_out


def sft(config: SftConfig) -> Path:
    """Fine-tune a model; the path of its folder. Raises UserError for data that has nothing to learn."""
    # Setup
    device = pick_device(config.device)
    compiled = compile_or_say_why(config.step.compile, device)

    # Data
    model, tokenizer = load_for_text(config.model, str(device))
    leave_extension_out(model, config.model)
    step = config.step
    if step.sequence_length > model.config.max_position_embeddings:
        raise UserError(
            f"sequence_length is {step.sequence_length}, the model reads {model.config.max_position_embeddings} tokens",
            where=config.model,
            mend="Lower step.sequence_length",
        )
    encoded, left_out = encode_for_training(config.data, tokenizer, step.sequence_length)
    left_out.tell("sft")
    supervised = int(sum(mask.sum() for _, mask in encoded))
    num_rows = step.max_steps * step.batch_size if step.max_steps else None
    rows = ConversationRows(encoded, step.sequence_length, num_rows, step.epochs, config.packing, step.seed)
    batches = Batches(rows, step.batch_size, step.micro_batch_size)

    # Model
    model = learner(model, config.lora, step.seed)
    model.set_dropout(config.dropout)

    # Optimiser
    optimizers = make_optimizers(model, config.optimizer)
    max_steps = batches.num_steps

    # Loop
    loop = Loop(
        name="sft",
        out=config.out,
        model=model,
        loss_function=LossFunction(model, Forward(model, compiled, step.bf16, step.checkpoint_activations)),
        optimizers=optimizers,
        batches=batches,
        config=step,
        optimizer_config=config.optimizer,
        max_steps=max_steps,
        rate_factor=lambda update: constant_factor(update, step.warmup_steps, max_steps, config.decay_share),
    )
    loop.run()

    # Product
    history = read_jsonl(config.out / "metrics.jsonl")
    figures = {
        "conversations": len(encoded),
        "dropped": left_out.counts,
        "dropped_examples": left_out.examples,
        "rows": len(rows),
        "supervised_tokens": supervised,
        "targets": loop.targets,
        "loss": statistics.fmean(record["loss"] for record in history[-50:]),
        "steps": max_steps,
    }
    write_json(config.out / "figures.json", figures)
    return save_learnt(config, model, tokenizer)

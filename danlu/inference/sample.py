"""The stage `responses`: what a model says to prompts, several times each (recipe sections 8 and 9).

Out, JSON lines in the prompts' order: `{"messages": [the prompt], "responses": [{"text", "ended"}, …]}` with the
record's `skill`, `language`, `check`. `ended` is false for a response cut at max_new_tokens. With a reward model each
response has its `reward`, and the best comes first: best-of-n.

`figures.json`: `prompts`, `responses`, `ended` (share), `tokens` (mean of a response, end token included), `dropped`
(reason and count), `dropped_examples`, and with a reward model `reward` (mean) and `best_reward` (mean of the best).
"""

import json
import os
from pathlib import Path
from statistics import fmean
from typing import Any

from danlu.conversations.prompts import Prompt
from danlu.inference.config import SampleConfig
from danlu.inference.engine import generate_batch
from danlu.inference.load import check_same_tokenizer, load_for_text
from danlu.inference.room import prompts_with_room
from danlu.inference.score import score_groups
from danlu.model.checkpoint import load_reward_model
from danlu.model.transformer import ScalarModel, Transformer
from danlu.run.device import pick_device
from danlu.run.errors import UserError
from danlu.run.files import write_json
from danlu.run.metrics import read_jsonl
from danlu.run.progress import ProgressBar
from danlu.run.seeds import derive_seed
from danlu.tokenizer.bpe import Tokenizer


def sample_responses(config: SampleConfig) -> Path:
    """Answer every prompt; the path of the file. Raises UserError for prompts that cannot be answered at all."""
    model, tokenizer = load_for_text(config.model, config.device)
    reward_model = None
    if config.reward_model is not None:
        check_same_tokenizer(config.reward_model, config.model, tokenizer)
        reward_model = load_reward_model(config.reward_model, device=pick_device(config.device))
    limit = min(each.config.max_position_embeddings for each in (model, reward_model) if each is not None)
    prompts, left_out = prompts_with_room(
        config.data, tokenizer, config.sampling.max_new_tokens, limit, config.num_prompts or None
    )
    left_out.tell("responses")
    if not prompts:
        raise UserError(f"no prompt can be answered; {left_out.counts}", where=config.data, mend="Lower max_new_tokens")
    product, aside = config.out / "responses.jsonl", config.out / ".responses.partial.jsonl"
    records = _whole_pieces(aside, config.prompts_at_once)
    with (
        ProgressBar("responses", total=len(prompts), unit="prompts", done=len(records)) as bar,
        aside.open("a", encoding="utf-8") as stream,
    ):
        for start in range(len(records), len(prompts), config.prompts_at_once):
            piece = prompts[start : start + config.prompts_at_once]
            seed = derive_seed(config.sampling.seed or 0, "responses", start)
            for record in answer(model, reward_model, tokenizer, piece, config, seed):
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")
                records.append(record)
            stream.flush()
            bar.advance(len(piece))
    os.replace(aside, product)
    write_json(
        config.out / "figures.json",
        {**_figures(records), "dropped": left_out.counts, "dropped_examples": left_out.examples},
    )
    return product


def answer(
    model: Transformer,
    reward_model: ScalarModel | None,
    tokenizer: Tokenizer,
    prompts: list[tuple[Prompt, list[int]]],
    config: SampleConfig,
    seed: int,
) -> list[dict[str, Any]]:
    """The records of some prompts, which come with their ids, answered side by side."""
    ids = [own for _, own in prompts]
    sampling = config.sampling.seeded(seed)
    sequences = generate_batch(
        model,
        tokenizer.stop_ids,
        ids,
        sampling,
        max_rows=len(ids) * config.num_responses,
        vocab_size=tokenizer.vocab_size,
        copies=config.num_responses,
    )
    each = [sequences[at : at + config.num_responses] for at in range(0, len(sequences), config.num_responses)]
    rewards: list[list[float]] | None = None
    if reward_model is not None:
        groups = [(prompt, [sequence.response_ids for sequence in own]) for prompt, own in zip(ids, each, strict=True)]
        rewards = score_groups(reward_model, groups)
    records = []
    for number, ((prompt, _), own) in enumerate(zip(prompts, each, strict=True)):
        responses: list[dict[str, Any]] = [
            {
                "text": tokenizer.decode(sequence.output_ids),
                "ended": sequence.finish_reason == "stop",
                "tokens": len(sequence.response_ids),
            }
            for sequence in own
        ]
        if rewards is not None:
            for response, reward in zip(responses, rewards[number], strict=True):
                response["reward"] = reward
            responses.sort(key=lambda response: -response["reward"])
        records.append({"messages": prompt.turns, "responses": responses, **prompt.labels})
    return records


def _whole_pieces(path: Path, size: int) -> list[dict[str, Any]]:
    """The records of a stopped run up to its last whole piece; the file is cut there."""
    records = read_jsonl(path)
    records = records[: len(records) // size * size]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return records


def _figures(records: list[dict[str, Any]]) -> dict[str, Any]:
    responses = [response for record in records for response in record["responses"]]
    figures: dict[str, Any] = {
        "prompts": len(records),
        "responses": len(responses),
        "ended": fmean(response["ended"] for response in responses),
        "tokens": fmean(response["tokens"] for response in responses),
    }
    if "reward" in responses[0]:
        figures["reward"] = fmean(response["reward"] for response in responses)
        figures["best_reward"] = fmean(record["responses"][0]["reward"] for record in records)
    return figures

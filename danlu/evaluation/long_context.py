"""The stage `long-context`: how well a model reads more than it was trained on, by technique (recipe section 4).

In: a model, a text, lengths, and techniques of context extension. Out, in `results/`: `table.md`, perplexity by length
as in the report's Table 3, and where asked the share of pass keys found by length and depth. The same tokens are read
at every length, in windows of it, each from its beginning.

`figures.json`: `model`, `training_length`, `lengths`, `num_tokens`, `perplexity` and `passkeys` (of each technique: by
length; of pass keys: for each depth the share found). `measured.jsonl` keeps what is measured: a stopped run goes on.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch

from danlu.evaluation import passkey
from danlu.evaluation.config import LongContextConfig
from danlu.inference.config import SamplingConfig
from danlu.inference.engine import NotFinite, generate_batch
from danlu.inference.extend import extended
from danlu.inference.load import load_for_text
from danlu.model.config import ModelConfig
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.run.files import publish, write_json
from danlu.run.markdown import table
from danlu.run.metrics import read_jsonl
from danlu.run.progress import ProgressBar
from danlu.run.seeds import derive_seed
from danlu.tokenizer.bpe import Tokenizer
from danlu.training.loss import cross_entropy_sum

Record = dict[str, Any]

RESULTS = "results"

DEPTHS = tuple(place / 4 for place in range(5))
"""Where a pass key is hidden: from the text's beginning to its end."""


def long_context(config: LongContextConfig) -> Path:
    """Measure; the folder of results. Raises UserError for a text that is shorter than the longest length."""
    # Not as a verb that only answers: the loss is taken with the head's own weights.
    model, tokenizer = load_for_text(config.model, config.device, getattr(torch, config.dtype), config.extend)
    own = model.config
    # A model may be measured below its length, as if that were what it was trained on: `--extend training_length=…`.
    trained = own.training_length
    ids = _text(config, tokenizer)
    num_tokens = max(config.lengths) * config.num_texts
    if len(ids) < num_tokens:
        raise UserError(
            f"{len(ids)} tokens, {config.num_texts} texts of {max(config.lengths)} are asked for", where=config.text,
            mend="Give a longer text, or shorter lengths or fewer texts",
        )  # fmt: skip
    if config.num_passkeys:
        _check_room(config, tokenizer, ids)
    techniques = config.techniques or default_techniques(trained, max(config.lengths), own.num_hidden_layers)
    settings = {name: _configs(own, name, config.lengths) for name in techniques}
    config.out.mkdir(parents=True, exist_ok=True)
    measured = _Measured(config.out / "measured.jsonl")
    with ProgressBar("long context", total=len(techniques) * len(config.lengths), unit="lengths") as bar:
        for name, by_length in settings.items():
            for length, setting in by_length.items():
                model.extend(setting)
                measured.once(
                    ("perplexity", name, length),
                    lambda n=length: perplexity(model, ids[:num_tokens], n),  # type: ignore[misc]
                )
                for depth in DEPTHS if config.num_passkeys else ():
                    measured.once(
                        ("passkeys", name, length, depth),
                        lambda n=length, d=depth: found_share(model, tokenizer, ids, n, d, config),  # type: ignore[misc]
                    )
                bar.advance()
    figures: Record = {
        "model": str(config.model),
        "training_length": trained,
        "lengths": list(config.lengths),
        "num_tokens": num_tokens,
        "perplexity": {
            name: {str(length): measured[("perplexity", name, length)] for length in config.lengths}
            for name in techniques
        },
    }
    if config.num_passkeys:
        figures["passkeys"] = {
            name: {
                str(length): [measured[("passkeys", name, length, depth)] for depth in DEPTHS]
                for length in config.lengths
            }
            for name in techniques
        }
    with publish(config.out / RESULTS) as aside:
        aside.mkdir()
        (aside / "table.md").write_text("\n".join(table_lines(figures)) + "\n", encoding="utf-8")
    write_json(config.out / "figures.json", figures)
    return config.out / RESULTS


def default_techniques(training_length: int, longest: int, num_layers: int) -> tuple[str, ...]:
    """Plain, each technique alone, and the report's three rows; windows grow from the length of training in the lowest
    layer to the longest measured in the highest, as the report has short ones below."""
    factor = longest / training_length
    windows = f"windows={training_length},{longest}" if num_layers > 1 and factor > 1 else f"windows={training_length}"
    by_factor = (f"interpolation={factor:g}", f"yarn_factor={factor:g}", f"ntk_alpha={factor:g}")
    return (
        "none",
        *(by_factor if factor > 1 else ()),
        "logn",
        windows,
        "dynamic_ntk",
        "dynamic_ntk+logn",
        f"dynamic_ntk+logn+{windows}",
    )


def _configs(own: ModelConfig, technique: str, lengths: tuple[int, ...]) -> dict[int, ModelConfig]:
    """The model's configuration by a technique, for every length. Raises UserError for words that are none."""
    words = ("none", f"training_length={own.training_length}", *technique.split("+"))
    return {length: extended(own, (*words, f"length={length}")) for length in lengths}


def _text(config: LongContextConfig, tokenizer: Tokenizer) -> list[int]:
    try:
        return tokenizer.encode(config.text.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8: {error}", where=config.text) from error


class _Measured:
    """What has been measured, a line for each; a second run takes it from there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        records = list(read_jsonl(path)) if path.exists() else []
        self._values = {tuple(record["key"]): record["value"] for record in records}
        # Written again whole: a kill may have left half a line at the end.
        with publish(path) as aside:
            aside.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")

    def once(self, key: tuple[Any, ...], work: Callable[[], float]) -> None:
        if key not in self._values:
            self._values[key] = work()
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"key": key, "value": self._values[key]}) + "\n")

    def __getitem__(self, key: tuple[Any, ...]) -> float:
        return self._values[key]


@torch.no_grad()
def perplexity(model: Transformer, ids: list[int], length: int) -> float:
    """exp of the mean loss of every token of `ids` but each window's first, in windows of `length`."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for window in _windows(ids, length):
        tokens = torch.tensor([window], device=device)
        states = model.hidden_states(tokens)[0, :-1]
        loss, num_labels = cross_entropy_sum(states, model.lm_head.weight, tokens[0, 1:])
        total, count = total + float(loss), count + num_labels
    if not math.isfinite(total) or total / count > MOST_NATS:
        raise NotFinite([], states.dtype, model.first_not_finite(tokens))
    return math.exp(total / count)


def _windows(ids: list[int], length: int) -> Iterator[list[int]]:
    """All of `ids`, the last window as long as what is left."""
    for start in range(0, len(ids) - 1, length):
        yield ids[start : start + length]


MOST_NATS = 700.0
"""Mean loss beyond which a perplexity is no number."""

TOKENS_AT_ONCE = 4096
"""Of prompts that are read together: the mask of a pass grows with their number and with the square of their length."""


def _check_room(config: LongContextConfig, tokenizer: Tokenizer, ids: list[int]) -> None:
    """UserError, before anything is measured, where the shortest length has no room for the sentences alone."""
    try:
        passkey.hide(tokenizer, ids, min(config.lengths), 0.0, Random(1), config.chat)
    except ValueError as error:
        raise UserError(str(error), where="--num-passkeys", mend="Give longer lengths") from error


def found_share(
    model: Transformer, tokenizer: Tokenizer, filler: list[int], length: int, depth: float, config: LongContextConfig
) -> float:
    """Share of the pass keys that the model names when it goes on with the best tokens."""
    chance = Random(derive_seed(config.seed, "passkeys", f"{length} {depth}"))
    asked = [passkey.hide(tokenizer, filler, length, depth, chance, config.chat) for _ in range(config.num_passkeys)]
    rows = generate_batch(
        model,
        tokenizer.stop_ids,
        [each.ids for each in asked],
        SamplingConfig(max_new_tokens=passkey.REPLY_TOKENS, temperature=0.0),
        vocab_size=tokenizer.vocab_size,
        tokenizer=tokenizer,
        max_rows=max(1, TOKENS_AT_ONCE // length),
    )
    named = [passkey.names(row.text.text, each.key) for row, each in zip(rows, asked, strict=True) if row.text]
    return sum(named) / len(named)


def table_lines(figures: Record) -> list[str]:
    """Perplexity by length, and the share of pass keys found, as Markdown."""
    lengths = [str(length) for length in figures["lengths"]]
    lines = [
        f"Perplexity of the same {figures['num_tokens']} tokens by window; trained at {figures['training_length']}.",
        "",
        *table(
            ["technique", *lengths],
            (
                [shown(name), *(f"{by_length[length]:.2f}" for length in lengths)]
                for name, by_length in figures["perplexity"].items()
            ),
        ),
    ]
    if "passkeys" in figures:
        lines += ["", "Pass keys found, percent, by length and depth.", ""]
        lines += table(
            ["technique", *(f"{length} at {depth:.0%}" for length in lengths for depth in DEPTHS)],
            (
                [shown(name), *(f"{100 * share:.0f}" for length in lengths for share in by_length[length])]
                for name, by_length in figures["passkeys"].items()
            ),
        )
    return lines


def shown(technique: str) -> str:
    """A technique as tables name it."""
    return "plain" if technique == "none" else technique.replace("+", " + ")

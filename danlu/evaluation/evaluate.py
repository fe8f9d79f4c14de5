"""The stage `evaluate`: what pretraining and fine-tuning have taught (recipe sections 6 and 10, in small).

`figures.json`: `bits_per_byte` (objects `before` and `after` fine-tuning: `all` and each language),
`byte_5gram_bits_per_byte` (same documents; it does not count document ends, which the model must also predict),
`conversations` (how many the base model was asked, `before`, and the others, `after`), `accuracy`, `unseen_accuracy`
(objects `before` and `after`, a number for each skill), `refusal` (`harmful`, `harmless`, after fine-tuning),
`completions` of the base model, and `samples`.

With an aligned model, `aligned` holds its `bits_per_byte`, `accuracy`, `unseen_accuracy` and `refusal` (as above, of
this model alone), and how it does against the fine-tuned one: `prompts`, `win_rate`, `win_rate_by_split`,
`win_rate_by_skill`, `sampled_accuracy`, `kl` (see `win_rate.py`), and the `temperature` and `top_p` of these answers.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.conversations.records import Conversation, read_conversations
from danlu.evaluation.config import EvaluateConfig
from danlu.evaluation.kneser_ney import byte_ngram_bits_per_byte
from danlu.evaluation.skills import first_of_each_skill, greedy_replies, refusal_rate, samples, skill_accuracy
from danlu.evaluation.win_rate import win_rate
from danlu.inference.config import SamplingConfig
from danlu.inference.generate import generate
from danlu.inference.load import load_for_text
from danlu.run.files import write_json
from danlu.run.progress import ProgressBar
from danlu.tokenizer.documents import iter_documents
from danlu.tokenizer.shards import TokenShards
from danlu.tokenizer.text import normalize
from danlu.training.validation import bits_per_byte

BEGINNINGS = ("今天", "中国的", "The following", "def ")
"""What the base model continues in the report. Our choice: both languages and code."""

NGRAM_ORDER = 5
"""Order of the byte-level Kneser-Ney model that the model is held against; `byte_5gram_bits_per_byte` is named by it.
The study's figures are of this order too."""


def document_bytes(folder: Path) -> Iterator[bytes]:
    """The cleaned documents as the tokenizer saw them: NFC, UTF-8."""
    for document in iter_documents(folder):
        yield normalize(document.text).encode()


def _figures_of(
    model_folder: Path,
    shards: TokenShards,
    splits: dict[str, list[Conversation]],
    config: EvaluateConfig,
    bar: ProgressBar,
) -> dict[str, Any]:
    """Bits per byte, accuracies, refusals and samples of one model."""
    model, tokenizer = load_for_text(model_folder, config.device)
    figures: dict[str, Any] = {"bits_per_byte": bits_per_byte(model, shards, tokenizer.end_of_text_id)}
    bar.advance()
    for name, conversations in splits.items():
        replies = greedy_replies(model, tokenizer, conversations, config.max_new_tokens)
        figures[name] = skill_accuracy(conversations, replies)
        figures[f"{name}_samples"] = samples(conversations, replies, config.samples_per_skill)
        figures[f"{name}_refusal"] = {
            skill: refusal_rate(conversations, replies, skill) for skill in ("harmful", "harmless")
        }
        bar.advance()
    figures["completions"] = [
        {"prompt": text, "continuation": generate(model, tokenizer, text, max_new_tokens=40, temperature=0.7, seed=1)}
        for text in BEGINNINGS
    ]
    return figures


def _total(splits: dict[str, list[Conversation]]) -> int:
    return sum(map(len, splits.values()))


def _aligned_figures(
    config: EvaluateConfig,
    aligned: Path,
    shards: TokenShards,
    splits: dict[str, list[Conversation]],
    bar: ProgressBar,
) -> dict[str, Any]:
    """The aligned model by itself, and against the one it was made of."""
    alone = _figures_of(aligned, shards, splits, config, bar)
    before, tokenizer = load_for_text(config.model, config.device)
    after, _ = load_for_text(aligned, config.device)
    sampling = SamplingConfig(
        max_new_tokens=config.max_new_tokens, temperature=config.temperature, top_p=config.top_p, seed=config.seed
    )
    against = win_rate(before, after, tokenizer, splits, sampling)
    bar.advance()
    return {
        "bits_per_byte": alone["bits_per_byte"],
        "accuracy": alone["test"],
        "unseen_accuracy": alone["unseen"],
        "refusal": alone["test_refusal"],
        "temperature": config.temperature,
        "top_p": config.top_p,
        **against,
    }


def evaluate(config: EvaluateConfig) -> Path:
    """Measure the models; the path of the figures. Raises UserError for a folder that lacks a part."""
    shards = TokenShards(config.shards / "validation")
    splits = {name: list(read_conversations(config.conversations / f"{name}.jsonl")) for name in ("test", "unseen")}
    parts = 1 + len(splits)
    with ProgressBar("evaluate", total=1 + 2 * parts + (parts + 1 if config.aligned else 0), unit="parts") as bar:
        ngram = byte_ngram_bits_per_byte(
            document_bytes(config.documents / "train"),
            document_bytes(config.documents / "validation"),
            NGRAM_ORDER,
        )
        bar.advance()
        few = {
            name: first_of_each_skill(conversations, config.base_per_skill) for name, conversations in splits.items()
        }
        before = _figures_of(config.base, shards, few, config, bar)
        after = _figures_of(config.model, shards, splits, config, bar)
        aligned = _aligned_figures(config, config.aligned, shards, splits, bar) if config.aligned else None
    write_json(
        config.out / "figures.json",
        {
            "bits_per_byte": {"before": before["bits_per_byte"], "after": after["bits_per_byte"]},
            "byte_5gram_bits_per_byte": ngram[-1],
            "byte_ngram_bits_per_byte_by_order": ngram,
            "conversations": {"before": _total(few), "after": _total(splits)},
            "accuracy": {"before": before["test"], "after": after["test"]},
            "unseen_accuracy": {"before": before["unseen"], "after": after["unseen"]},
            "refusal": after["test_refusal"],
            "completions": before["completions"],
            "samples": after["test_samples"] + after["unseen_samples"],
            **({"aligned": aligned} if aligned else {}),
        },
    )
    return config.out / "figures.json"

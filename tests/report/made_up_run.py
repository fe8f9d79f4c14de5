"""A run folder with tiny made-up figures, and the page drawn from it as a browser would see it."""

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from danlu.recipe import STAGES, Recipe
from danlu.report.config import ReportConfig
from danlu.report.page import write_report
from danlu.run.folder import resolved

NAMES = [stage.name for stage in STAGES]
FROZEN_STEPS = 10
ATTACK = "<script>alert('x')</script><img src=http://evil.example/x.png>"
TURN = [{"role": "user", "content": ATTACK}]
PROMPT = f"<|im_start|>user\n{ATTACK}<|im_end|>\n<|im_start|>assistant\n"


def about(value: float) -> dict[str, float]:
    """A measurement with its interval."""
    return {"value": value, "low": value - 0.02, "high": value + 0.02}


def judged(value: float) -> dict[str, Any]:
    """Figures of a reward model on some pairs."""
    baselines = {"length_baseline_accuracy": about(0.55), "bag_of_words_accuracy": about(0.61)}
    return {"pairs": 100, "accuracy": about(value), **baselines}


def reward_figures(value: float, before: float | None) -> dict[str, Any]:
    bins = [{"predicted": 0.6, "observed": 0.7, "pairs": 40}, {"predicted": 0.9, "observed": 0.95, "pairs": 60}]
    test = {
        **judged(value),
        "by_source": {"sampled": judged(value - 0.1), ATTACK: judged(value)},
        "by_skill": {"copy_one": judged(value + 0.01)},
        "calibration": {"bins": bins, "error": 0.069},
        "before": before and about(before),
    }
    unseen = {**test, **judged(value - 0.05), "by_skill": {"copy_one_unseen": judged(value - 0.06)}}
    learnt: dict[str, Any] = {"comparisons": 4000, "prompts": 1000, "steps": 40, "loss": 0.4, "dropped": {ATTACK: 2}}
    learnt["held_out_dropped"] = {"test": {ATTACK: 5}, "unseen": {}}
    return {**learnt, "shared_prompts": 3, **test, "unseen": unseen}


FIGURES: dict[str, Any] = {
    "fetch": {"sources": {"novel": {"about": "A novel", "files": 3, "bytes": 4000}}},
    "perplexity": {"order": 3, "languages": {"zh": {"tokens": 9000, "held_out": 3, "median_perplexity": 120.0}}},
    "quality": {"classes": ["good"], "languages": {"zh": {"pieces": 90, "held_out": 9, "auc_good": 0.98}}},
    "safety": {"classes": ["hate"], "languages": {"zh": {"pieces": 90, "held_out": 9, "auc_hate": None}}},
    "corpus": {
        "documents_in": 10,
        "documents_kept": 7,
        "dropped": {"too_short": 2, ATTACK: 1},
        "steps": [{"step": "read", "documents": 10, "dropped": 0, "bytes": 900},
                  {"step": "quality", "documents": 7, "dropped": 3, "bytes": 800,
                   "sources": {"novel": {"documents": 7, "bytes": 800, "tokens": 200}}}],
        "sources": {"novel": {"kept": 7, "dropped": {"too_short": 2, ATTACK: 1}}},
        "train": {"documents": {"zh": 4, "en": 2}, "bytes": {"zh": 500, "en": 200}},
        "validation": {"documents": {"zh": 1}, "bytes": {"zh": 100}},
        "near_duplicates": {"clusters": 1, "largest": 2, "lowest_similarity": 0.9, "curve": [[0.8, 0.92]]},
        "histograms": {"quality": {"zh": [0, 3, 7]}, ATTACK: {ATTACK: [1, 2]}},
        "thresholds": {"quality": {"zh": 0.3}},
        "warnings": [f"all documents of `{ATTACK}` were dropped"],
    },
    "tokenizer": {"vocab_size": 300, "train_bytes": 700,
                  "validation": {"zh": {"documents": 1, "bytes": 100, "tokens": 40, "bytes_per_token": 2.5}}},
    "tokens": {"train": {"all": {"tokens": 280}, "zh": {"tokens": 200}},
               "sources": {ATTACK: {"documents": 7, "draws": 9, "epochs": 9 / 7, "tokens": 280, "share": 1.0}}},
    "pretrain": {"parameters": 12345, "tokens": 560, "loss": 3.0, "bits_per_byte": 2.2, "tokens_per_s": 100.0},
    "conversations": {
        "counts": {"train": {"copy_one": {"zh": 5, "en": 6}}, "alignment": {"copy_one": {"zh": 765}},
                   "test": {"copy_one": {"zh": 1}}},
        "words": {"en": {"seen": 5, "unseen": 2, "examples_seen": [ATTACK], "examples_unseen": ["mu"]}},
        "examples": {"copy_one": [{"messages": [*TURN, {"role": "assistant", "content": ATTACK}]}]},
    },
    "sft": {"conversations": 11, "loss": 0.5, "targets": 99, "dropped": {ATTACK: 2}},
    "responses": {"prompts": 1234, "responses": 4936, "ended": 0.99, "tokens": 6.5},
    "comparisons": {
        "counts": {"pmp": {"cut": {"zh": 30, "en": 10}}, "reward": {"sampled": {"en": 7}, ATTACK: {"zh": 3}},
                   "test": {"sampled": {"en": 2}}},
        "prompts": {"copy_one": 900, "addition": 87},
        "length_bias": {"pmp": {"all": {"pairs": 40, "longer": 0.95, "equal": 0.03, "shorter": 0.02, "chosen": 10.7,
                                        "rejected": 5.7}}},
        "turned_pairs": 4,
        "responses": {"copy_one": {"right": 70, "wrong": 20, "unfinished": 10}},
        "dropped": {"conversations_held_back": 52},
        "examples": {"sampled": [{"messages": TURN, "chosen": ATTACK, "rejected": "mo", "source": "sampled"}]},
    },
    "pmp": reward_figures(0.8, None),
    "reward": reward_figures(0.9, 0.81),
    "ppo": {
        "prompts": 31705, "steps": 40, "stopped": None, "policy_tokens": 5000.0, "pretrain_tokens": 9000.0,
        "dropped": {ATTACK: 2},
        "training": {"score": {"before": -2.05, "after": 0.93}, "kl": {"before": 0.0, "after": 3.9}},
    },
    "evaluate": {
        "bits_per_byte": {"before": {"all": 2.1, "zh": 2.2}, "after": {"all": 2.4, "zh": 2.5}},
        "byte_5gram_bits_per_byte": 2.5,
        "accuracy": {"before": {"copy_one": 0.0, "addition": 0.0}, "after": {"copy_one": 0.9, "addition": 0.1}},
        "unseen_accuracy": {"before": {"copy_one_unseen": 0.0}, "after": {"copy_one_unseen": 0.6}},
        "refusal": {"harmful": 0.97, "harmless": 0.02},
        "completions": [{"prompt": "今天", "continuation": ATTACK}],
        "samples": [{"skill": "copy_one", "messages": TURN, "reply": ATTACK, "expected": "a", "right": False},
                    {"skill": "copy_one", "messages": TURN, "reply": "mu", "expected": "mu", "right": True}],
        "aligned": {
            "bits_per_byte": {"all": 2.3, "zh": 2.35},
            "accuracy": {"copy_one": 0.95, "addition": 0.2},
            "unseen_accuracy": {"copy_one_unseen": 0.7},
            "refusal": {"harmful": 0.98, "harmless": 0.01},
            "prompts": 2400, "win_rate": about(0.561), "kl": 3.87,
            "win_rate_by_split": {"test": about(0.55), "unseen": about(0.6)},
            "win_rate_by_skill": {"copy_one": about(0.571), "copy_one_unseen": about(0.48)},
            "sampled_accuracy": {"before": 0.812, "after": 0.894},
        },
    },
    "benchmarks": {
        "model": ATTACK, "chat": True, "data": "files",
        "tasks": {
            "mmlu": {
                "title": "MMLU", "score": 0.4321, "stderr": 0.0123, "questions": 90, "num_shots": 5,
                "shots_used": {"5": 60, "2": 30}, "refused": 7, "invalid": 0.25,
            },
        },
        "published": {"source": ATTACK, "rows": {"Qwen-7B": {"mmlu": 58.2}, ATTACK: {"mmlu": None}}},
    },
}  # fmt: skip


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def make_run(run: Path, stages: list[str], figures: dict[str, Any] = FIGURES) -> Path:
    """A run folder in which `stages` are complete."""
    for index, stage in enumerate(stages):
        table = dataclasses.replace(getattr(Recipe(), stage), out=run / stage)
        if stage == "ppo":
            table = dataclasses.replace(table, frozen_steps=FROZEN_STEPS, max_steps=40)
        write(run / stage / "recipe.json", {"stage": stage, "fingerprint": "", "recipe": resolved(table)})
        write(run / stage / "stage.json", {"product": "x", "seconds": 10.0 + index, "peak_memory_mb": 100.0 + index})
        write(run / stage / "figures.json", figures[stage])
    if "corpus" in stages:
        example = {"id": "0", "source": "novel", "url": f"http://a.example/{ATTACK}", "excerpt": ATTACK}
        write(run / "corpus" / "examples.json", {"kept": {"zh": [example]}, "dropped": {"too_short": [example]}})
    for stage in {"pretrain", "sft", "pmp", "reward"} & set(stages):
        make_metrics(run / stage)
    if "ppo" in stages:
        make_ppo_records(run / "ppo")
    return run


def make_metrics(folder: Path) -> None:
    records = [
        {"step": step, "loss": 9 - step / 10, "learning_rate": 1e-3, "accuracy": 0.5 + step / 100}
        for step in range(1, 41)
    ]
    records[19] |= {"validation/all": 3.0, "validation/zh": 3.1}
    records[39] |= {"validation/all": 2.5, "validation/zh": 2.6, "loss": float("nan")}
    write_lines(folder / "metrics.jsonl", records)


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def make_ppo_records(folder: Path) -> None:
    """Steps of which the first ones know no policy, and samples of three of them."""
    names = ("objective/score", "objective/kl", "objective/entropy", "response/length", "response/ended",
             "value/clipfrac", "value/explained_variance", "value/loss")  # fmt: skip
    records = [{"step": step, **{name: step / 10 for name in names}} for step in range(1, 41)]
    records[0]["value/explained_variance"] = -900.0
    for record in records[FROZEN_STEPS:]:
        record |= {"policy/clipfrac": 0.02, "pretrain/loss": 4.0}
    write_lines(folder / "metrics.jsonl", records)
    sample = {"prompt": PROMPT, "ended": True, "kl": 0.25}
    write_lines(
        folder / "samples.jsonl",
        [
            {"step": step, "samples": [{**sample, "response": f"{ATTACK} of {step}", "score": step / 8}]}
            for step in (1, 11, 31)
        ],
    )


class Page(HTMLParser):
    """What a browser would make of the page: tags, attributes, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.blocks: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "pre":
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td", "dd", "small"):
            self.text += " "
        if tag == "pre":
            self.blocks.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.blocks:
            self.blocks[-1] += data


def draw(run: Path, stages: list[str] = NAMES) -> Page:
    path = write_report(run, stages, ReportConfig(run=run))
    assert path == run / "report.html"
    return Page(path.read_text(encoding="utf-8"))

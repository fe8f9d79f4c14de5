"""The chapters on learning: pretraining, fine-tuning, evaluation.

In: the run's folder (metrics, resolved recipes) and its summary. Out: plain values and plots for `templates/`.
"""

from pathlib import Path
from statistics import fmean
from typing import Any

from danlu.report.chapters import Figures, read_json, share
from danlu.report.formatting import is_number
from danlu.report.labels import LANGUAGES, SKILLS, in_order, label
from danlu.report.plot import Plot, Series, line_plot, points_of, smoothed
from danlu.run.metrics import read_jsonl

APART = ("addition",)
"""Skills that are not part of the average: it varies much between runs (issue 3)."""

VALIDATION = "validation/"

WHEN = ("before", "after", "aligned")
"""The models that are evaluated: before and after fine-tuning, and after PPO."""


def pretraining(run: Path, summary: Figures) -> Figures:
    """Loss, bits per byte against the byte 5-gram, speed."""
    figures = summary.get("pretrain", {})
    history = read_jsonl(run / "pretrain" / "metrics.jsonl")
    ngram = figures.get("byte_5gram_bits_per_byte")
    tokens = summary.get("tokens", {}).get("train", {}).get("all", {}).get("tokens")
    by_language = figures.get("bits_per_byte_by_language", {})
    return {
        "figures": figures,
        "recipe": recipe_of(run, "pretrain"),
        "epochs": share(figures.get("tokens"), tokens),
        "below": below(figures.get("bits_per_byte"), ngram),
        "by_language": [
            (name, label(LANGUAGES, name), by_language[name]) for name in in_order(LANGUAGES, {*by_language})
        ],
        "loss": loss_plot(history),
        "validation": validation_plot(history, ngram),
        "small": small_plots(history),
        "steps": history[-1].get("step") if history else None,
    }


def fine_tuning(run: Path, summary: Figures) -> Figures:
    """Loss of the replies, and what was learnt from."""
    history = read_jsonl(run / "sft" / "metrics.jsonl")
    return {
        "figures": summary.get("sft", {}),
        "recipe": recipe_of(run, "sft"),
        "loss": loss_plot(history),
        "steps": history[-1].get("step") if history else None,
    }


def recipe_of(run: Path, stage: str) -> Figures:
    """The resolved values that a stage was run with."""
    values: Figures = read_json(run / stage / "recipe.json").get("recipe", {})
    return values


def below(value: Any, reference: Any) -> float | None:
    """By which share `value` lies below `reference`."""
    ratio = share(value, reference)
    return None if ratio is None else 1 - ratio


def loss_plot(history: list[Figures]) -> Plot | None:
    """Loss of every step, and its running mean."""
    return curve(history, "loss", "loss")


def curve(history: list[Figures], key: str, name: str = "", **drawn: Any) -> Plot | None:
    """A value of every step, and its running mean where there are many; a `name` labels the end of the line."""
    points = points_of(history, key)
    if len(points) < 10:
        return line_plot([Series(points=points, name=name)], **drawn)
    mean = Series(points=smoothed(points), name="mean" if name else "")
    return line_plot([Series(points=points, faint=True), mean], **drawn)


def validation_plot(history: list[Figures], ngram: Any) -> Plot | None:
    """Bits per byte of each language over the run, with the byte 5-gram as a line to get under."""
    names = {key.removeprefix(VALIDATION) for record in history for key in record if key.startswith(VALIDATION)}
    series = [
        Series(points=points_of(history, VALIDATION + name), style=name, name=label(LANGUAGES, name)[0], dots=True)
        for name in in_order(LANGUAGES, names)
    ]
    return line_plot(series, guides=[(ngram, "byte 5-gram, all")])


def small_plots(history: list[Figures]) -> list[tuple[str, str, Plot]]:
    """Rate, gradient norm and speed over the run."""
    wanted = (
        ("learning_rate", "Learning rate", "学习率"),
        ("grad_norm", "Gradient norm", "梯度范数"),
        ("tokens_per_s", "Tokens per second", "每秒词元"),
    )
    plots = []
    for key, english, chinese in wanted:
        plot = line_plot([Series(points=points_of(history, key))], from_zero=True)
        if plot:
            plots.append((english, chinese, plot))
    return plots


def evaluation(run: Path, summary: Figures) -> Figures:
    """Accuracy of each skill before and after (and after PPO), refusals, samples, how the base model goes on."""
    figures = summary["evaluate"]
    aligned = figures.get("aligned") or {}
    accuracy, unseen, bits = (
        figures.get(name, {}) | {"aligned": aligned.get(name, {})}
        for name in ("accuracy", "unseen_accuracy", "bits_per_byte")
    )
    rows = paired(accuracy)
    samples: dict[str, list[Figures]] = {}
    for sample in figures.get("samples", []):
        samples.setdefault(sample.get("skill", ""), []).append(sample)
    return {
        "figures": figures,
        "aligned": aligned,
        "skills": [row for row in rows if row["name"] not in APART],
        "apart": [row for row in rows if row["name"] in APART],
        "unseen": paired(unseen),
        "average": {when: average(values) for when, values in accuracy.items()},
        "unseen_average": {when: average(values) for when, values in unseen.items()},
        "bits": [
            (label(LANGUAGES, name), *(bits.get(when, {}).get(name) for when in WHEN))
            for name in in_order(LANGUAGES, {name for when in WHEN for name in bits.get(when, {})})
        ],
        "ngram": list(enumerate(figures.get("byte_ngram_bits_per_byte_by_order", []), start=1)),
        "samples": [
            (label(SKILLS, name), name.endswith("_unseen"), samples[name]) for name in in_order(SKILLS, set(samples))
        ],
        "right": sum(bool(sample.get("right")) for sample in figures.get("samples", [])),
        "completions": figures.get("completions", []),
    }


def paired(accuracy: Figures) -> list[Figures]:
    """A row for each skill with its accuracy before and after fine-tuning, and after PPO."""
    return [
        {"name": name, "label": label(SKILLS, name), **{when: accuracy.get(when, {}).get(name) for when in WHEN}}
        for name in in_order(SKILLS, {name for when in WHEN for name in accuracy.get(when, {})})
    ]


def average(values: Figures) -> float | None:
    """Mean over the skills but those reported apart."""
    counted = [value for name, value in values.items() if name not in APART and is_number(value)]
    return fmean(counted) if counted else None

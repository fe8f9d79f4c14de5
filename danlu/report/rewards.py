"""The chapter on the reward model: how well it judges replies, after preference pretraining and after fine-tuning.

In: the run's folder (metrics) and its summary (stages `pmp` and `reward`). Out: plain values and plots for
`templates/reward.html.j2`. A model that is still learning shows its curves.
"""

from pathlib import Path

from danlu.report.chapters import Figures
from danlu.report.labels import SKILLS, SOURCES, STAGES, Label, in_order, label
from danlu.report.learning import curve, recipe_of
from danlu.report.plot import Plot, Series, line_plot
from danlu.run.metrics import read_jsonl

MODELS: dict[str, Label] = {
    "pmp": ("After preference pretraining", "偏好预训练后"),
    "reward": ("After fine-tuning", "微调后"),
}
"""The stages that make a reward model, in their order, and what their models are called in this chapter."""

STYLES = {"pmp": "before", "reward": "after"}

ROWS: dict[str, tuple[Label, str]] = {
    "length_baseline_accuracy": (("Length alone", "只看长度"), "plain"),
    "bag_of_words_accuracy": (("Words alone", "只看用词"), "plain"),
    "before": (("Before this stage", "本阶段之前"), "before"),
    "accuracy": (("Reward model", "奖励模型"), "after"),
}
"""The accuracies of a model's table: their names and the colours of their bars."""


def reward_models(run: Path, summary: Figures) -> Figures:
    """Accuracy beside the baselines, by source and skill, calibration, and curves of learning."""
    models = [model for stage in MODELS if (model := model_of(run, summary, stage))]
    judged = [model for model in models if model["test"].get("accuracy")]
    return {
        "models": models,
        "overall": [(model, accuracy_rows(model)) for model in judged],
        "pairs": {name: last(judged, name).get("pairs") for name in ("test", "unseen")},
        "by_source": breakdown(judged, "test", "by_source", SOURCES),
        "by_skill": breakdown(judged, "test", "by_skill", SKILLS),
        "unseen": breakdown(judged, "unseen", "by_source", SOURCES) + breakdown(judged, "unseen", "by_skill", SKILLS),
        "judged": judged,
        "calibration": calibration_plot(judged),
    }


def model_of(run: Path, summary: Figures, stage: str) -> Figures | None:
    """What a stage has to tell; None where it was not begun."""
    history = read_jsonl(run / stage / "metrics.jsonl")
    if not history and stage not in summary:
        return None
    figures = summary.get(stage, {})
    return {
        "name": stage,
        "stage": label(STAGES, stage) if stage == "pmp" else ("Fine-tuning", "微调"),
        "label": MODELS[stage],
        "style": STYLES[stage],
        "figures": figures,
        "recipe": recipe_of(run, stage),
        "test": figures,
        "unseen": figures.get("unseen") or {},
        "loss": curve(history, "loss", "loss"),
        "accuracy": curve(history, "accuracy", "accuracy"),
    }


def last(judged: list[Figures], test: str) -> Figures:
    """The test figures of the last model; empty without one."""
    figures: Figures = judged[-1][test] if judged else {}
    return figures


def accuracy_rows(model: Figures) -> list[Figures]:
    """The baselines, which learn from the same pairs, and the model before and after the stage."""
    return [
        {"label": name, "style": style, "test": model["test"].get(key), "unseen": model["unseen"].get(key)}
        for key, (name, style) in ROWS.items()
        if model["test"].get(key)
    ]


def breakdown(judged: list[Figures], test: str, kind: str, names: dict[str, Label]) -> list[Figures]:
    """A row for each source or skill: the accuracy of each model, and the last one's baselines."""
    parts = [(model["style"], model[test].get(kind, {})) for model in judged]
    rows = []
    for name in in_order(names, {name for _, part in parts for name in part}):
        newest: Figures = next((part[name] for _, part in reversed(parts) if name in part), {})
        rows.append(
            {
                "label": label(names, name),
                "pairs": newest.get("pairs"),
                "models": [(style, part.get(name, {}).get("accuracy")) for style, part in parts],
                "length": newest.get("length_baseline_accuracy"),
                "words": newest.get("bag_of_words_accuracy"),
            }
        )
    return rows


def calibration_plot(judged: list[Figures]) -> Plot | None:
    """How often each model is right against how sure it is; the diagonal is a model that is as right as it says."""
    lines = [
        Series(
            points=[(part["predicted"], part["observed"]) for part in bins],
            style=model["style"],
            name=model["name"],
            dots=True,
        )
        for model in judged
        if (bins := model["test"].get("calibration", {}).get("bins"))
    ]
    return line_plot([Series(points=[(0.5, 0.5), (1.0, 1.0)], style="ideal"), *lines]) if lines else None

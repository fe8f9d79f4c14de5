"""The chapter on PPO: its curves, what the model said on the way, and what was gained at what distance.

In: the run's folder (metrics, samples, resolved recipe) and its summary. Out: plain values and plots for
`templates/ppo.html.j2`. A run under way shows its curves and samples.
"""

import re
from pathlib import Path
from typing import Any

from danlu.report.chapters import Figures
from danlu.report.formatting import is_number
from danlu.report.labels import FILES, SKILLS, Label, in_order, label
from danlu.report.learning import average, curve, recipe_of
from danlu.report.plot import Plot
from danlu.run.metrics import read_jsonl

CURVES: dict[str, tuple[Label, bool]] = {
    "objective/entropy": (("Entropy, nats a token", "熵"), True),
    "response/length": (("Tokens of a response", "回答长度"), True),
    "response/ended": (("Responses that end", "正常结束"), False),
    "policy/clipfrac": (("Clipped, policy", "策略裁剪比例"), True),
    "value/clipfrac": (("Clipped, value", "价值裁剪比例"), True),
    "value/explained_variance": (("Explained variance", "解释方差"), False),
    "value/loss": (("Value loss", "价值损失"), True),
    "pretrain/loss": (("Pretraining loss", "预训练损失"), False),
}
"""The smaller curves: key of `metrics.jsonl`, name, and whether the axis begins at 0."""

LEAST_VARIANCE = -1.0
"""Explained variance is drawn from here on. Our choice: a value model that has learnt nothing yet may start far below,
and would flatten the rest."""

TRAINING: dict[str, Label] = {
    "score": ("Reward of a response", "奖励"),
    "kl": ("KL from the chat model, nats", "KL 散度"),
    "entropy": ("Entropy, nats a token", "熵"),
    "length": ("Tokens of a response", "回答长度"),
    "ended": ("Share that ends by itself", "正常结束"),
}

CHECKED: dict[str, tuple[Label, str]] = {
    "sampled": (("Sampled answers right", "采样正确率"), "all prompts, with chance"),
    "accuracy": (("Greedy answers right", "贪心正确率"), "mean over skills"),
    "unseen_accuracy": (("Greedy, words never seen", "未见过的词"), "mean over skills"),
    "harmful": (("Harmful declined", "拒绝有害"), ""),
    "harmless": (("Harmless declined", "误拒无害"), ""),
}
"""The shares before and after PPO: their names, and over what."""

TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>|\Z)", re.DOTALL)
"""A turn of a prompt as `samples.jsonl` holds it."""

LEAST_REACH = 0.05
"""Least distance from 50 percent that the bars of win rates can show. Our choice, so that noise does not fill them."""


def proximal_policy(run: Path, summary: Figures) -> Figures:
    """Curves over the steps, samples, win rates at their KL, and the model before and after."""
    figures, recipe = summary.get("ppo", {}), recipe_of(run, "ppo")
    history = read_jsonl(run / "ppo" / "metrics.jsonl")
    frozen = recipe.get("frozen_steps")
    training = figures.get("training", {})
    before = training.get("score", {}).get("before")
    return {
        "figures": figures,
        "recipe": recipe,
        "frozen": frozen,
        "steps": history[-1].get("step") if history else None,
        "reward": curve(history, "objective/score", "reward", guides=[(before, "before")], shade_until=frozen),
        "kl": curve(history, "objective/kl", "KL", from_zero=True, shade_until=frozen),
        "small": small_curves(history, frozen),
        "training": [(TRAINING[name], training[name]) for name in TRAINING if name in training],
        "samples": first_and_last(read_jsonl(run / "ppo" / "samples.jsonl")),
        "wins": win_rows(figures),
        "checked": before_and_after(figures, summary.get("evaluate", {})),
    }


def small_curves(history: list[Figures], frozen: int | None) -> list[tuple[Label, Plot]]:
    """Those of the smaller curves that there are values for."""
    variance = "value/explained_variance"
    drawn = [
        record | {variance: max(record[variance], LEAST_VARIANCE)} if is_number(record.get(variance)) else record
        for record in history
    ]
    plots = ((name, curve(drawn, key, from_zero=zero, shade_until=frozen)) for key, (name, zero) in CURVES.items())
    return [(name, plot) for name, plot in plots if plot]


def first_and_last(records: list[Figures]) -> list[Figures]:
    """The responses of the first and of the last interval, with the turns of their prompts."""
    chosen = records[:1] + records[1:][-1:]
    return [
        {
            "step": record.get("step"),
            "samples": [sample | {"turns": turns_of(sample.get("prompt"))} for sample in record.get("samples", [])],
        }
        for record in chosen
    ]


def turns_of(prompt: Any) -> list[Figures]:
    """The turns of a ChatML prompt, without the one that the response fills; all of it as the user's where there are
    none."""
    turns = [{"role": role, "content": content} for role, content in TURN.findall(str(prompt or ""))]
    if not turns:
        return [{"role": "user", "content": str(prompt or "")}]
    return turns[:-1] if turns[-1]["role"] == "assistant" and not turns[-1]["content"] else turns


def win_rows(figures: Figures) -> Figures:
    """Win rates of all prompts, of each split and of each skill, with bars around 50 percent as wide as the widest."""
    splits, skills = figures.get("win_rate_by_split", {}), figures.get("win_rate_by_skill", {})
    items = [figures.get("win_rate"), *splits.values(), *skills.values()]
    ends = [item.get(end) for item in items if item for end in ("value", "low", "high")]
    reach = max([abs(end - 0.5) for end in ends if is_number(end)] + [LEAST_REACH])

    def row(name: Label, item: Figures | None) -> Figures:
        return {"label": name, "item": item, "bar": around_half(item or {}, reach)}

    return {
        "reach": reach,
        "all": row(("All prompts", "全部提示"), figures["win_rate"]) if figures.get("win_rate") else None,
        "splits": [row(label(FILES, name), splits[name]) for name in in_order(FILES, set(splits))],
        "skills": [
            row(label(SKILLS, name), skills[name]) | {"unseen": name.endswith("_unseen")}
            for name in in_order(SKILLS, set(skills))
        ],
    }


def around_half(item: Figures, reach: float) -> Figures | None:
    """Where a bar from 50 percent to the win rate and its interval stand, in percent of a track that shows `reach`
    to either side."""
    if not all(is_number(item.get(end)) for end in ("value", "low", "high")):
        return None
    value, low, high = (50 + 50 * (item[end] - 0.5) / reach for end in ("value", "low", "high"))
    return {
        "left": min(value, 50.0),
        "width": abs(value - 50.0),
        "low": low,
        "span": high - low,
        "style": "gain" if value >= 50 else "loss",
    }


def before_and_after(figures: Figures, found: Figures) -> list[Figures]:
    """What the evaluation says of the chat model and of the aligned one: shares of right answers, and of refusals."""
    sampled = figures.get("sampled_accuracy", {})
    pairs: dict[str, tuple[Any, Any]] = {"sampled": (sampled.get("before"), sampled.get("after"))}
    for key in ("accuracy", "unseen_accuracy"):
        pairs[key] = average(found.get(key, {}).get("after", {})), average(figures.get(key, {}))
    for key in ("harmful", "harmless"):
        pairs[key] = found.get("refusal", {}).get(key), figures.get("refusal", {}).get(key)
    return [
        {"label": name, "note": note, "before": pairs[key][0], "after": pairs[key][1]}
        for key, (name, note) in CHECKED.items()
        if is_number(pairs[key][1])
    ]

"""How good a reward model is on held-out comparisons, beside what needs no model (recipe section 8)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from danlu.conversations.comparisons import Comparison
from danlu.conversations.preference_baselines import Rule, bag_of_words_baseline, length_baseline
from danlu.run.intervals import mean_with_interval

CALIBRATION_BINS = 5
"""Parts of the range from 0.5 to 1 of the model's certainty. Our choice: each keeps hundreds of the demo's pairs."""


def baselines(train: Sequence[Comparison]) -> dict[str, Rule]:
    """The simple rules that a reward model is measured beside, learnt from the same comparisons."""
    return {
        "length_baseline_accuracy": length_baseline(train),
        "bag_of_words_accuracy": bag_of_words_baseline(train),
    }


def accuracy(margins: Sequence[float], held_out: Sequence[Comparison]) -> dict[str, float]:
    """Share of the comparisons whose chosen reply scores higher, with its interval over prompts."""
    return mean_with_interval([float(margin > 0) for margin in margins], _prompts(held_out))


def _prompts(comparisons: Sequence[Comparison]) -> list[str]:
    return [repr(comparison.messages) for comparison in comparisons]


def held_out_figures(
    margins: Sequence[float], held_out: Sequence[Comparison], rules: Mapping[str, Rule]
) -> dict[str, Any]:
    """Figures of a model that scored each chosen reply higher than the rejected by `margins`.

    `pairs`; `accuracy`, and that of the `rules` by name (each `value`, `low`, `high`); `by_source` and `by_skill`, the
    same of each; `calibration`. Equal scores count as wrong; intervals are over prompts.
    """
    right = np.array([margin > 0 for margin in margins], dtype=np.float64)
    verdicts = {"accuracy": right, **{name: rule(held_out) for name, rule in rules.items()}}
    prompts = _prompts(held_out)

    def of(places: Sequence[int]) -> dict[str, Any]:
        parts = [prompts[place] for place in places]
        rows = {name: mean_with_interval(values[list(places)].tolist(), parts) for name, values in verdicts.items()}
        return {"pairs": len(places), **rows}

    return {
        **of(range(len(held_out))),
        "by_source": {name: of(places) for name, places in _places(held_out, "source").items()},
        "by_skill": {name: of(places) for name, places in _places(held_out, "skill").items()},
        "calibration": calibration(margins),
    }


def _places(comparisons: Sequence[Comparison], label: str) -> dict[str, list[int]]:
    """Numbers of the comparisons with each value of a label, where they have one."""
    places: dict[str, list[int]] = defaultdict(list)
    for number, comparison in enumerate(comparisons):
        if getattr(comparison, label):
            places[getattr(comparison, label)].append(number)
    return dict(sorted(places.items()))


def calibration(margins: Sequence[float]) -> dict[str, Any]:
    """How often the model is right when it says so with a certainty of sigmoid(|margin|).

    `bins`: `predicted` and `observed` share of right answers and `pairs` of each part of the range from 0.5 to 1;
    `error`: their mean distance weighted by pairs (expected calibration error).
    """
    margin = np.asarray(margins, dtype=np.float64)
    certainty, right = 1 / (1 + np.exp(-np.abs(margin))), margin > 0
    number = np.minimum(((certainty - 0.5) * 2 * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    bins = [
        {
            "predicted": float(certainty[number == index].mean()),
            "observed": float(right[number == index].mean()),
            "pairs": int((number == index).sum()),
        }
        for index in range(CALIBRATION_BINS)
        if (number == index).any()
    ]
    distance = sum(abs(part["predicted"] - part["observed"]) * part["pairs"] for part in bins)
    return {"bins": bins, "error": distance / len(margin)}

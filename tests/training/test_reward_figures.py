"""How good a reward model is: what counts as right, beside the baselines, and how well it knows its own certainty."""

import math
from typing import Any

import numpy as np
import pytest

from danlu.conversations.comparisons import Comparison
from danlu.conversations.preference_baselines import bag_of_words_baseline, length_baseline
from danlu.conversations.records import Message
from danlu.training.reward_figures import CALIBRATION_BINS, baselines, calibration, held_out_figures


def compare(prompt: str, chosen: str, rejected: str, source: str | None = None, skill: str | None = None) -> Comparison:
    return Comparison((Message("user", prompt),), chosen, rejected, source, skill)


TRAIN = [compare(f"t{number}", "yes please", "no") for number in range(20)]
HELD_OUT = [
    compare("a", "yes sir", "no", "cut", "say"),
    compare("a", "yes", "no sir", "cut", "say"),
    compare("b", "yes", "no it is", "equal", "sing"),
    compare("c", "no it is", "yes", "equal"),
    compare("d", "abc", "xyz"),
]
RULES = baselines(TRAIN)
MARGINS = [2.0, -1.0, 0.5, 3.0, 0.0]


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return held_out_figures(MARGINS, HELD_OUT, RULES)


def test_a_higher_score_is_right_and_an_equal_one_is_wrong(figures: dict[str, Any]) -> None:
    assert figures["pairs"] == 5
    assert figures["accuracy"]["value"] == pytest.approx(3 / 5)
    assert held_out_figures([0.0] * 5, HELD_OUT, RULES)["accuracy"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_the_baselines_stand_beside_it(figures: dict[str, Any]) -> None:
    assert length_baseline(TRAIN)(HELD_OUT).tolist() == [1, 0, 0, 1, 0.5]
    assert bag_of_words_baseline(TRAIN)(HELD_OUT).tolist() == [1, 1, 1, 0, 0.5]
    assert figures["length_baseline_accuracy"]["value"] == pytest.approx(2.5 / 5)
    assert figures["bag_of_words_accuracy"]["value"] == pytest.approx(3.5 / 5)


def test_sources_and_skills_are_told_apart_and_pairs_without_one_left_out(figures: dict[str, Any]) -> None:
    by_source, by_skill = figures["by_source"], figures["by_skill"]
    assert list(by_source) == ["cut", "equal"]
    assert list(by_skill) == ["say", "sing"]
    assert {name: (row["pairs"], row["accuracy"]["value"]) for name, row in by_source.items()} == {
        "cut": (2, 0.5),
        "equal": (2, 1.0),
    }
    assert {name: (row["pairs"], row["accuracy"]["value"]) for name, row in by_skill.items()} == {
        "say": (2, 0.5),
        "sing": (1, 1.0),
    }
    assert by_source["equal"]["bag_of_words_accuracy"]["value"] == 0.5
    assert by_source["equal"]["length_baseline_accuracy"]["value"] == 0.5


def test_the_intervals_are_over_prompts(figures: dict[str, Any]) -> None:
    one_prompt = figures["by_source"]["cut"]["accuracy"]
    assert (one_prompt["low"], one_prompt["high"]) == (0.5, 0.5), "both pairs of one prompt are drawn together"
    apart = figures["by_source"]["equal"]["length_baseline_accuracy"]
    assert (apart["low"], apart["high"]) == (0.0, 1.0)
    whole = figures["accuracy"]
    assert whole["low"] < whole["value"] < whole["high"]


def test_prompts_that_differ_in_the_speaker_alone_are_different_parts() -> None:
    pairs = [
        Comparison((Message("user", "a"), Message("assistant", "b"), Message("user", "c")), "yes", "no"),
        Comparison((Message("user", "a"), Message("assistant", "b"), Message("tool", "c")), "yes", "no"),
    ]
    found = held_out_figures([1.0, -1.0], pairs, RULES)["accuracy"]
    assert (found["low"], found["high"]) == (0.0, 1.0)


def certain_margins(count: int, sureness: float, seed: int) -> list[float]:
    """Margins that are right with probability sigmoid(|margin|), then told `sureness` times as large."""
    generator = np.random.default_rng(seed)
    sizes = generator.exponential(1.5, count)
    right = generator.random(count) < 1 / (1 + np.exp(-sizes))
    return (np.where(right, sizes, -sizes) * sureness).tolist()


def test_a_model_that_is_right_as_often_as_it_says_has_no_calibration_error() -> None:
    found = calibration(certain_margins(40_000, 1.0, seed=1))
    assert found["error"] < 0.01
    assert len(found["bins"]) == CALIBRATION_BINS
    assert sum(part["pairs"] for part in found["bins"]) == 40_000
    for part in found["bins"]:
        assert part["observed"] == pytest.approx(part["predicted"], abs=0.03)
        assert 0.5 <= part["predicted"] <= 1


@pytest.mark.parametrize(("sureness", "sign"), [(4.0, 1), (0.25, -1)], ids=["too sure", "too modest"])
def test_a_model_that_is_too_sure_or_too_modest_shows_it(sureness: float, sign: int) -> None:
    found = calibration(certain_margins(40_000, sureness, seed=2))
    assert found["error"] > 0.08
    distance = sum(part["pairs"] * (part["predicted"] - part["observed"]) for part in found["bins"])
    assert sign * distance > 0


def test_calibration_by_hand() -> None:
    # Certainties 0.5, 0.75, 0.75 and 0.95, in the first, third and last fifth of the range from 0.5 to 1.
    three_quarters, nearly = math.log(3), math.log(19)
    found = calibration([0.0, three_quarters, -three_quarters, nearly])
    assert [part["pairs"] for part in found["bins"]] == [1, 2, 1]
    assert [part["predicted"] for part in found["bins"]] == pytest.approx([0.5, 0.75, 0.95])
    assert [part["observed"] for part in found["bins"]] == [0.0, 0.5, 1.0]
    assert found["error"] == pytest.approx((0.5 + 2 * 0.25 + 0.05) / 4)


def test_extreme_margins_are_certain_and_finite() -> None:
    found = calibration([1e4, 1e4, -1e4, 700.0])
    assert found["bins"] == [{"predicted": 1.0, "observed": 0.75, "pairs": 4}]
    assert found["error"] == 0.25

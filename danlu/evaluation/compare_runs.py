"""Two runs of the same benchmarks, question by question.

In: the folders of two finished runs. Out: for each benchmark both scores, their difference with its 95 percent
interval, and the two-sided p of a paired permutation test; for scores that are right or wrong McNemar's exact test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb, sqrt
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from danlu.evaluation.results import read_results
from danlu.run.errors import UserError

NORMAL_95 = 1.959964
"""Standard errors of a 95 percent interval."""

PERMUTATIONS = 20_000
"""Of scores between 0 and 1 (several replies to a question): signs of the differences drawn so often."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Of one benchmark: questions that both runs have, the scores over these, and how sure the difference is."""

    task: str
    questions: int
    first: float
    second: float
    stderr: float
    """Of the difference, paired."""
    p_value: float
    num_better: int
    """Questions that the second run answers better."""
    num_worse: int
    left_out: int = 0
    """Questions that only one of the runs has."""

    @property
    def difference(self) -> float:
        return self.second - self.first

    @property
    def interval(self) -> tuple[float, float]:
        """95 percent, of the difference."""
        reach = NORMAL_95 * self.stderr
        return self.difference - reach, self.difference + reach


def compare_runs(first: Path, second: Path) -> list[Comparison]:
    """Each benchmark that both runs have, over the questions that both have. Raises UserError where there is none, and
    where a question has another answer in the other run: it is another question under the same name."""
    ours, theirs = read_results(first), read_results(second)
    found = []
    for task in ours.keys() & theirs.keys():
        shared = sorted(ours[task].keys() & theirs[task].keys())
        if other := [name for name in shared if ours[task][name]["gold"] != theirs[task][name]["gold"]]:
            raise UserError(
                f"{task} {other[0]} has another right answer than in {first}",
                where=second,
                mend="Run both with the same data",
            )
        if shared:
            pairs = [(ours[task][name]["score"], theirs[task][name]["score"]) for name in shared]
            left_out = len(ours[task].keys() ^ theirs[task].keys())
            found.append(replace(compare_scores(task, pairs), left_out=left_out))
    if not found:
        raise UserError(f"has no question in common with {first}", where=second, mend="Run the same benchmarks in both")
    return sorted(found, key=lambda comparison: comparison.task)


def compare_scores(task: str, pairs: Sequence[tuple[float, float]]) -> Comparison:
    """The comparison of paired scores (first run, second run)."""
    differences = [second - first for first, second in pairs]
    better, worse = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
    binary = all(score in (0.0, 1.0) for pair in pairs for score in pair)
    return Comparison(
        task=task,
        questions=len(pairs),
        first=fmean(first for first, _ in pairs),
        second=fmean(second for _, second in pairs),
        stderr=stdev(differences) / sqrt(len(pairs)) if len(pairs) > 1 else float("nan"),
        p_value=mcnemar(better, worse) if binary else permutation_p(differences),
        num_better=better,
        num_worse=worse,
    )


def mcnemar(better: int, worse: int) -> float:
    """Two-sided p of a fair coin giving so uneven counts (McNemar's exact test)."""
    total = better + worse
    tail = sum(comb(total, k) for k in range(min(better, worse) + 1)) / 2**total
    return min(1.0, 2 * tail)


def permutation_p(differences: Sequence[float], seed: int = 1) -> float:
    """Two-sided p of the mean difference when every sign is as likely as the other; the observed one counts too."""
    values = np.asarray([each for each in differences if each != 0.0])
    if not len(values):
        return 1.0
    draws = np.random.default_rng(seed)
    observed, as_far = abs(values.sum()), 1
    for _ in range(PERMUTATIONS):
        signs = draws.integers(0, 2, len(values)) * 2 - 1
        as_far += abs((signs * values).sum()) >= observed - 1e-12
    return float(as_far / (PERMUTATIONS + 1))


def comparison_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """A Markdown table, in percent."""
    lines = [
        "| benchmark | questions | first | second | difference (95 percent) | better / worse | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in comparisons:
        low, high = each.interval
        lines.append(
            f"| {each.task} | {each.questions} | {100 * each.first:.1f} | {100 * each.second:.1f} "
            f"| {100 * each.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) "
            f"| {each.num_better} / {each.num_worse} | {each.p_value:.3g} |"
        )
    notes = [
        f"- {each.task}: {each.left_out} questions that only one of the runs has are left out."
        for each in comparisons
        if each.left_out
    ]
    return [*lines, *([""] if notes else []), *notes]

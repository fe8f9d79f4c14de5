"""The chapter on the field's benchmarks: the model's scores beside published ones.

In: the run's folder and its summary. Out: plain values for `templates/benchmarks.html.j2`.
"""

from pathlib import Path

from danlu.report.chapters import Figures


def benchmarks(run: Path, summary: Figures) -> Figures:
    """Columns of benchmarks, the model's scores with their standard errors, and the rows of other models."""
    figures = summary.get("benchmarks", {})
    tasks = figures.get("tasks", {})
    published = figures.get("published", {})
    rows = [(name, [scores.get(task) for task in tasks]) for name, scores in published.get("rows", {}).items()]
    return {
        "figures": figures,
        "tasks": list(tasks.values()),
        "rows": [(name, scores) for name, scores in rows if any(score is not None for score in scores)],
        "source": published.get("source"),
        "notes": [task for task in tasks.values() if fewer(task) or task.get("refused")],
    }


def fewer(task: Figures) -> int:
    """Questions that were put with fewer examples than asked for, because the model reads no more."""
    wanted = str(task.get("num_shots"))
    return sum(count for shots, count in task.get("shots_used", {}).items() if shots != wanted)

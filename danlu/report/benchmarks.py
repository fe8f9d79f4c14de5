"""The chapter on the field's benchmarks: the model's scores beside published ones.

In: the run's folder and its summary. Out: plain values for `templates/benchmarks.html.j2`.
"""

from pathlib import Path

from danlu.evaluation.results import fewer_shots
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
        "notes": [task for task in tasks.values() if fewer_shots(task) or task.get("refused")],
    }

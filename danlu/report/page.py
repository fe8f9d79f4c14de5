"""The report of a run."""

from collections.abc import Sequence
from pathlib import Path

from danlu.report.config import ReportConfig
from danlu.report.summary import write_summary


def write_report(run: Path, stages: Sequence[str], config: ReportConfig) -> Path:
    """Write `summary.json` (and the page, drawn from it)."""
    write_summary(run, stages)
    return run / "summary.json"

"""The report of a run: one page that tells its story, in the order of the recipe.

In: the run's folder. Out: `summary.json` and `report.html`, one file that needs nothing else: no script, no font, no
picture from elsewhere. Text of pages and models is untrusted: every value is escaped, and a content policy in the page
forbids scripts besides.
"""

import datetime
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader

from danlu.report import alignment, benchmarks, chapters, comparisons, learning, reproduce, rewards
from danlu.report.config import ReportConfig
from danlu.report.formatting import FILTERS
from danlu.report.headline import headline
from danlu.report.labels import LANGUAGES, STAGES, label
from danlu.report.summary import write_summary
from danlu.run.errors import UserError
from danlu.run.files import publish

Figures = dict[str, Any]


@dataclass(frozen=True)
class Chapter:
    """A part of the page: the stage it tells of, and the function that gathers what the stage's template shows."""

    stage: str
    gather: Callable[[Path, Figures], Figures]
    while_running: bool = False
    """Whether there is something to show of a stage that is not complete yet."""
    also: tuple[str, ...] = ()
    """Stages before it that the chapter tells of too; it is there as soon as one of them is."""

    @property
    def stages(self) -> tuple[str, ...]:
        return (*self.also, self.stage)


CHAPTERS = (
    Chapter("fetch", chapters.raw_material),
    Chapter("corpus", chapters.corpus),
    Chapter("tokenizer", chapters.tokenizer),
    Chapter("pretrain", learning.pretraining, while_running=True),
    Chapter("conversations", chapters.conversations),
    Chapter("sft", learning.fine_tuning, while_running=True),
    Chapter("comparisons", comparisons.comparisons, also=("responses",)),
    Chapter("reward", rewards.reward_models, while_running=True, also=("pmp",)),
    Chapter("ppo", alignment.proximal_policy, while_running=True),
    Chapter("evaluate", learning.evaluation),
    Chapter("benchmarks", benchmarks.benchmarks),
)


OPTIONAL = {"perplexity", "quality", "safety", "benchmarks"}
"""Stages that a run need not have."""


def write_report(run: Path, stages: Sequence[str], config: ReportConfig) -> Path:
    """Write `summary.json` and `report.html` into `run`; the page's path. UserError for a run that is not there."""
    if not run.is_dir():
        raise UserError("no such run", where=run, mend="Name the folder of a run, for example --run runs/demo")
    summary = write_summary(run, stages)
    page = environment().get_template("report.html.j2").render(context(run, stages, summary, config))
    path = run / "report.html"
    with publish(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return path


def environment() -> Environment:
    """Templates with escaping always on; a missing value is shown as a dash by the filters, or as nothing."""
    made = Environment(
        loader=PackageLoader("danlu.report", "templates"),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(FILTERS)
    made.globals["language"] = lambda name: label(LANGUAGES, name)
    return made


def context(run: Path, stages: Sequence[str], summary: Figures, config: ReportConfig) -> Figures:
    """Everything the page shows."""
    begun = {stage for stage in stages if (run / stage / "recipe.json").exists()}
    return {
        "title": config.title,
        "run": run.name,
        "headline": headline(summary),
        "chapters": shown(run, summary, begun),
        "missing": [
            (label(STAGES, stage), stage in begun)
            for stage in stages
            if stage not in summary and (stage in begun or stage not in OPTIONAL)
        ],
        "cost": reproduce.cost(summary),
        "recipes": reproduce.recipes(run, stages),
        "chat": next((stage for stage in ("ppo", "sft") if (run / stage / "model").is_dir()), None),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "finished": finished(run, stages),
    }


def shown(run: Path, summary: Figures, begun: set[str]) -> list[Figures]:
    """The chapters that there is something to tell of."""
    return [
        {
            "stage": chapter.stage,
            "label": label(STAGES, chapter.stage),
            "running": bool(begun & set(chapter.stages) - summary.keys()),
            "template": f"{chapter.stage}.html.j2",
            "view": chapter.gather(run, summary),
        }
        for chapter in CHAPTERS
        if set(chapter.stages) & summary.keys() or (chapter.while_running and begun & set(chapter.stages))
    ]


def finished(run: Path, stages: Sequence[str]) -> str | None:
    """The day on which the newest stage was completed, so that a page drawn again stays the same."""
    times = [path.stat().st_mtime for stage in stages if (path := run / stage / "stage.json").exists()]
    return datetime.datetime.fromtimestamp(max(times)).date().isoformat() if times else None

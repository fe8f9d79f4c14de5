"""`danlu run`: all stages of a recipe in one folder, each skipped when complete, resumed when interrupted."""

from pathlib import Path

from danlu.recipe import STAGES, Recipe, Stage, lies_elsewhere, not_part, with_models, with_own_sources
from danlu.run.errors import UserError
from danlu.run.folder import is_complete, locked, run_stage, say


def run_recipe(recipe: Recipe, out: Path, only: tuple[str, ...] = ()) -> Path:
    """Do every stage (or those named in `only`) in `out`, then draw the report; the report's path."""
    from danlu.report.page import write_report

    stages = chosen(recipe, only)
    with locked(out):
        for number, stage in enumerate(stages, start=1):
            say(f"[{number}/{len(stages)}] {stage.name}")
            config = with_own_sources(with_models(stage.config(recipe, out)))
            run_stage(stage.name, config, stage.work(), again=lies_elsewhere(config))
        return write_report(out, [stage.name for stage in STAGES], recipe.report)


def plan(recipe: Recipe, out: Path, only: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """What a run would do: each stage with `complete` or `will run`. A stage after one that will run, will run."""
    result, pending = [], False
    for stage in chosen(recipe, only):
        config = stage.config(recipe, out)
        pending = pending or not is_complete(config)
        result.append((stage.name, "will run" if pending else "complete"))
    return result


def chosen(recipe: Recipe, only: tuple[str, ...]) -> list[Stage]:
    """The stages named; all that are part of the recipe's run when none is. UserError for an unknown name."""
    names = [stage.name for stage in STAGES]
    for name in only:
        if name not in names:
            raise UserError(f"unknown stage `{name}`", mend=f"The stages are {', '.join(names)}")
    left_out = not_part(recipe)
    return [stage for stage in STAGES if (stage.name in only if only else stage.name not in left_out)]

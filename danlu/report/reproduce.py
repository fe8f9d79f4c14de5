"""The chapters at the end: what each stage cost, and how to do the run again.

In: the run's folder and its summary. Out: rows of time and memory, and the recipe as TOML that `danlu run` reads.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.report.chapters import Figures, read_json, share
from danlu.report.formatting import is_number
from danlu.report.labels import STAGES, label

SET_BY_THE_RUN = ("out", "cache")
"""Fields that say where this machine keeps things; the paths of inputs are left out too."""


def cost(summary: Figures) -> list[Figures]:
    """Time and memory of each stage, with the bars' shares."""
    rows = [
        {"label": label(STAGES, name), "seconds": values.get("seconds"), "memory": values.get("peak_memory_mb")}
        for name, values in summary.items()
    ]
    longest = max((row["seconds"] for row in rows if is_number(row["seconds"])), default=0)
    largest = max((row["memory"] for row in rows if is_number(row["memory"])), default=0)
    return [
        row | {"time_share": share(row["seconds"], longest), "memory_share": share(row["memory"], largest)}
        for row in rows
    ]


def recipes(run: Path, stages: Sequence[str]) -> list[tuple[str, tuple[str, str], str]]:
    """Each stage that was begun, with its table as TOML."""
    found = []
    for stage in stages:
        record = read_json(run / stage / "recipe.json")
        if record.get("recipe"):
            found.append((stage, label(STAGES, stage), toml_table(stage, portable(record["recipe"]))))
    return found


def portable(recipe: Figures) -> Figures:
    """The values without the paths that a run sets itself."""
    inside = str(Path(recipe["out"]).parent) + "/" if "out" in recipe else None

    def is_set(name: str, value: Any) -> bool:
        return name in SET_BY_THE_RUN or bool(inside and isinstance(value, str) and value.startswith(inside))

    return {name: value for name, value in recipe.items() if not is_set(name, value)}


def toml_table(name: str, values: Figures) -> str:
    """A table and those inside it; a value of None, which TOML has not, becomes a comment."""
    lines, inner = [f"[{name}]"], []
    for key, value in values.items():
        key = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
        if isinstance(value, dict):
            inner.append(toml_table(f"{name}.{key}", value))
        elif value is None:
            lines.append(f"# {key}: none")
        else:
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    return "\n\n".join(["\n".join(lines), *inner])

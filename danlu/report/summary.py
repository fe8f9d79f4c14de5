"""`summary.json`: the figures of a run, one object per stage.

Each object holds what the stage wrote to its `figures.json` (documented there) and `seconds` and `peak_memory_mb`.
Figures that the stage `evaluate` finds out about an earlier stage stand with that stage too:
`pretrain.bits_per_byte` (over the whole validation split, float32), `pretrain.byte_5gram_bits_per_byte`,
`sft.accuracy`, `sft.unseen_accuracy`, `sft.bits_per_byte`, `sft.refusal`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.run.files import write_json
from danlu.run.folder import read_stage


def summarise(run: Path, stages: Sequence[str]) -> dict[str, Any]:
    """The figures of those of the `stages` that are complete, in their order."""
    summary: dict[str, Any] = {}
    for stage in stages:
        record, figures = read_stage(run / stage), run / stage / "figures.json"
        if record:
            values = json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else {}
            summary[stage] = {**values, "seconds": record["seconds"], "peak_memory_mb": record["peak_memory_mb"]}
    if "evaluate" in summary:
        found = summary["evaluate"]
        by_language = dict(found["bits_per_byte"]["before"])
        summary["pretrain"]["bits_per_byte"] = by_language.pop("all")
        summary["pretrain"]["bits_per_byte_by_language"] = by_language
        summary["pretrain"]["byte_5gram_bits_per_byte"] = found["byte_5gram_bits_per_byte"]
        summary["sft"].update({name: found[name] for name in ("accuracy", "unseen_accuracy", "refusal")})
        summary["sft"]["bits_per_byte"] = found["bits_per_byte"]["after"]["all"]
    return summary


def write_summary(run: Path, stages: Sequence[str]) -> dict[str, Any]:
    """Write `summary.json` into the run's folder; the summary."""
    summary = summarise(run, stages)
    write_json(run / "summary.json", summary)
    return summary

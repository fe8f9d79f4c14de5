"""`summary.json`: the figures of a run, one object per stage.

Each object holds what the stage wrote to its `figures.json` (documented there) and `seconds` and `peak_memory_mb`.
Figures that the stage `evaluate` finds out about an earlier stage stand with that stage too:
`pretrain.bits_per_byte` (over the whole validation split, float32), `pretrain.byte_5gram_bits_per_byte`,
`sft.accuracy`, `sft.unseen_accuracy`, `sft.bits_per_byte`, `sft.refusal`; `ppo.win_rate` over the fine-tuned model
(`value`, `low`, `high`), `ppo.win_rate_prompts`, `ppo.kl` from it (nats of a response), `ppo.bits_per_byte` (`before`
and `after` PPO), and the rest of what `evaluate` says of the aligned model.
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
            usage = {name: record.get(name) for name in ("seconds", "peak_memory_mb")}
            summary[stage] = {**values, **usage}
    if "evaluate" in summary:
        _share(summary["evaluate"], summary)
    return summary


def _share(found: dict[str, Any], summary: dict[str, Any]) -> None:
    """Put what the evaluation found out about the other stages with them, as far as both are there."""
    bits = found.get("bits_per_byte", {})
    if "pretrain" in summary and "before" in bits:
        by_language = dict(bits["before"])
        summary["pretrain"]["bits_per_byte"] = by_language.pop("all", None)
        summary["pretrain"]["bits_per_byte_by_language"] = by_language
    if "pretrain" in summary and "byte_5gram_bits_per_byte" in found:
        summary["pretrain"]["byte_5gram_bits_per_byte"] = found["byte_5gram_bits_per_byte"]
    if "sft" in summary:
        names = ("accuracy", "unseen_accuracy", "refusal")
        summary["sft"].update({name: found[name] for name in names if name in found})
        if "after" in bits:
            summary["sft"]["bits_per_byte"] = bits["after"].get("all")
    if "ppo" in summary and "aligned" in found:
        aligned = dict(found["aligned"])
        # PPO has prompts of its own: those that it learnt on.
        aligned["win_rate_prompts"] = aligned.pop("prompts", None)
        summary["ppo"].update({name: value for name, value in aligned.items() if name != "bits_per_byte"})
        sides = (("before", bits.get("after", {})), ("after", aligned.get("bits_per_byte", {})))
        summary["ppo"]["bits_per_byte"] = {when: values.get("all") for when, values in sides}


def write_summary(run: Path, stages: Sequence[str]) -> dict[str, Any]:
    """Write `summary.json` into the run's folder; the summary."""
    summary = summarise(run, stages)
    write_json(run / "summary.json", summary)
    return summary

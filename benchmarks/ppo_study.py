"""What PPO does on a finished demo run, three seeds each: top-p 0.9 against 1.0, the coefficient of the pretraining
gradient, and over-optimisation, for which one configuration runs without a KL penalty and at higher rates.

    python benchmarks/ppo_study.py --run runs/demo --out runs/ppo-study

Starts from the run's `sft` and `reward` models and its prompts, with the values of its `ppo` stage and fewer steps.
Writes `study.json`: `rows`, one for each configuration and seed, and `over_optimisation`: the reward that is trained on
and the checker's verdict, which is not, over the square root of KL; `over-optimisation.svg` draws these. Every run is
kept in `--out` and skipped when complete, so the study can be stopped and goes on.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from danlu.conversations.records import Conversation, read_conversations
from danlu.evaluation.skills import is_right, replies_of
from danlu.inference.generate import encode_prompt
from danlu.inference.load import load_for_text
from danlu.report.plot import nice_ticks, tick_text
from danlu.run.files import write_json
from danlu.run.folder import run_stage
from danlu.run.metrics import read_jsonl
from danlu.run.recipe_file import convert
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.shards import TokenShards
from danlu.training.experience import Experience
from danlu.training.ppo import Observe, ppo
from danlu.training.ppo_config import PpoConfig
from danlu.training.validation import bits_per_byte

SEEDS = (1, 2, 3)
COEFFICIENTS = (0.003, 0.014, 0.065, 0.3)
"""Two decades, in equal steps of their logarithm."""

WIDTH = 0.2
"""Of a part of the square root of KL."""

PLAIN = "top_p 0.9, coef 0"
UNBOUND, FASTER = "no KL penalty, rates x 5", 5.0
"""The configuration that leaves the reference, and by how much its rates are higher."""

LAST = 10
"""Steps that the figures at the end are the mean of."""


def configurations(base: PpoConfig) -> dict[str, PpoConfig]:
    """The base (top-p 0.9, no pretraining gradient), then one value changed at a time, and the unbound one."""
    plain = dataclasses.replace(base, pretrain_coef=0.0)
    whole = dataclasses.replace(plain, rollout=dataclasses.replace(plain.rollout, top_p=1.0))
    mixed = {f"coef {value:g}": dataclasses.replace(base, pretrain_coef=value) for value in COEFFICIENTS}
    unbound = dataclasses.replace(
        plain,
        kl_coef=0.0,
        policy_learning_rate=FASTER * plain.policy_learning_rate,
        gain_learning_rate=FASTER * plain.gain_rate,
    )
    return {PLAIN: plain, "top_p 1.0, coef 0": whole, **mixed, UNBOUND: unbound}


def judge(tokenizer: Tokenizer, conversations: list[Conversation]) -> Observe:
    """The checker's share of right answers in a step: the gold reward, which training never sees."""
    by_prompt = {
        tuple(encode_prompt(tokenizer, [{"role": turn.role, "content": turn.content} for turn in item.prompt])): item
        for item in conversations
    }

    def observe(prompts: list[list[int]], experience: Experience) -> dict[str, float]:
        each = len(experience.sequences) // len(prompts)
        replies = replies_of(tokenizer, experience.sequences)
        right = [is_right(by_prompt[tuple(prompts[place // each])], reply) for place, reply in enumerate(replies)]
        return {"gold/right": statistics.fmean(right)}

    return observe


def row_of(name: str, seed: int, folder: Path, shards: TokenShards) -> dict[str, Any]:
    """The figures of one run at its end."""
    history = read_jsonl(folder / "metrics.jsonl")[-LAST:]
    model, tokenizer = load_for_text(folder / "model")
    keys = {"reward": "objective/score", "kl": "objective/kl", "entropy": "objective/entropy", "right": "gold/right"}
    return {
        "configuration": name,
        "seed": seed,
        **{short: statistics.fmean(record[key] for record in history) for short, key in keys.items()},
        "bits_per_byte": bits_per_byte(model, shards, tokenizer.end_of_text_id, max_documents=60)["all"],
    }


def over_optimisation(folders: list[Path]) -> list[dict[str, float]]:
    """Trained reward and gold by the square root of KL, in parts of equal width, over the steps of all seeds."""
    parts: dict[int, list[dict[str, float]]] = {}
    for folder in folders:
        for record in read_jsonl(folder / "metrics.jsonl"):
            distance = max(0.0, record["objective/kl"]) ** 0.5
            parts.setdefault(int(distance / WIDTH), []).append(record)
    return [
        {
            "root_kl": (number + 0.5) * WIDTH,
            "steps": len(records),
            "reward": statistics.fmean(record["objective/score"] for record in records),
            "right": statistics.fmean(record["gold/right"] for record in records),
        }
        for number, records in sorted(parts.items())
    ]


def folder_name(name: str, seed: int) -> str:
    """Of a configuration's run with this seed."""
    return f"{name.replace(' ', '-').replace(',', '')}-seed-{seed}"


def drawing(curve: list[dict[str, float]]) -> str:
    """Both curves, one above the other, as SVG."""
    width, height, gap, left = 560, 180, 50, 60
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {2 * (height + gap)}" font-size="12"'
             ' font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>']  # fmt: skip
    names = (("reward", "reward that is trained on", "#1f5fa8"), ("right", "share right by the checker", "#a8321f"))
    furthest = max(part["root_kl"] for part in curve)
    for number, (key, title, colour) in enumerate(names):
        top = number * (height + gap) + 30
        values = [part[key] for part in curve]
        low, high = min(values), max(values)
        across = lambda x: left + (width - left - 20) * x / furthest  # noqa: E731
        down = lambda y, top=top, low=low, high=high: top + (height - 30) * (high - y) / ((high - low) or 1)  # noqa: E731
        points = " ".join(f"{across(part['root_kl']):.1f},{down(part[key]):.1f}" for part in curve)
        parts.append(f'<text x="{left}" y="{top - 12}" fill="{colour}">{title}</text>')
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for y in nice_ticks(low, high, 4):
            parts.append(f'<text x="{left - 8}" y="{down(y) + 4:.1f}" text-anchor="end">{tick_text(y)}</text>')
            parts.append(f'<path d="M{left} {down(y):.1f}H{width - 20}" stroke="#ddd"/>')
        for x in nice_ticks(0.0, furthest, 5):
            parts.append(
                f'<text x="{across(x):.1f}" y="{top + height - 12}" text-anchor="middle">{tick_text(x)}</text>'
            )
    parts.append(
        f'<text x="{width - 20}" y="{2 * (height + gap) - 6}" text-anchor="end">square root of KL</text></svg>'
    )
    return "\n".join(parts) + "\n"


def table(rows: list[dict[str, Any]]) -> str:
    """Mean over seeds and half the range, a line for each configuration."""
    names = list(dict.fromkeys(row["configuration"] for row in rows))
    keys = ("reward", "kl", "entropy", "right", "bits_per_byte")
    lines = ["| configuration | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for name in names:
        cells = []
        for key in keys:
            values = [row[key] for row in rows if row["configuration"] == name]
            cells.append(f"{statistics.fmean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="finished run of recipes/demo.toml")
    parser.add_argument("--out", type=Path, default=Path("runs/ppo-study"), help="folder of the study")
    parser.add_argument("--steps", type=int, default=60, help="steps of each run")
    parser.add_argument("--frozen-steps", type=int, default=20, help="of them for the value model alone")
    parser.add_argument("--queries", type=int, default=48, help="prompts in a step")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    arguments = parser.parse_args()
    stored = json.loads((arguments.run / "ppo" / "recipe.json").read_text(encoding="utf-8"))["recipe"]
    own = convert(stored, PpoConfig, arguments.run / "ppo" / "recipe.json")
    base = dataclasses.replace(
        own,
        model=arguments.run / "sft" / "model",
        reward_model=arguments.run / "reward" / "model",
        data=arguments.run / "comparisons" / "comparisons" / "prompts.jsonl",
        pretraining=arguments.run / "tokens" / "shards",
        max_steps=arguments.steps,
        frozen_steps=arguments.frozen_steps,
        rollout=dataclasses.replace(own.rollout, queries=arguments.queries),
    )
    shards = TokenShards(arguments.run / "tokens" / "shards" / "validation")
    observe = judge(Tokenizer.load(base.model), list(read_conversations(base.data)))
    work: Callable[[PpoConfig], Path] = lambda config: ppo(config, observe)  # noqa: E731
    rows = []
    for seed in arguments.seeds:
        for name, config in configurations(base).items():
            folder = arguments.out / folder_name(name, seed)
            run_stage("ppo", dataclasses.replace(config, seed=seed, out=folder), work)
            rows.append(row_of(name, seed, folder, shards))
            print(rows[-1], file=sys.stderr, flush=True)
            write_json(arguments.out / "study.json", {"rows": rows})
    curve = over_optimisation([arguments.out / folder_name(UNBOUND, seed) for seed in arguments.seeds])
    write_json(arguments.out / "study.json", {"rows": rows, "over_optimisation": curve})
    (arguments.out / "over-optimisation.svg").write_text(drawing(curve), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()

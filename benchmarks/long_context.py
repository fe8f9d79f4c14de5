"""Two small models read at longer lengths than they were trained on: perplexity of one, hidden pass keys in another.

    python benchmarks/long_context.py --run runs/demo --out runs/long-context-study
    python benchmarks/long_context.py --run runs/demo --out runs/long-context-study --max-steps 50    # a trial

Takes a finished run of recipes/demo.toml. Its base model, trained at 256 tokens on real text, is measured by perplexity
on the longest held-out documents. A chat model is fine-tuned from it on pieces of the corpus with a number hidden in
them and asked for (`danlu.evaluation.passkey`), and measured by what it finds. Both are what `danlu evaluate
--long-context` does; tables and pages lie in `OUT`.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import tyro

from danlu.evaluation import passkey
from danlu.evaluation.config import LongContextConfig
from danlu.evaluation.long_context import long_context
from danlu.recipe import Recipe
from danlu.report.long_context import write_long_context
from danlu.run.folder import run_stage
from danlu.run.recipe_file import read_recipe
from danlu.tokenizer.documents import iter_documents
from danlu.training.sft import sft

CHARACTERS = (60, 380)
"""Of the text around a number: 30 to 190 tokens of the demo's tokenizer, so that a conversation fits a row."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is trained and measured."""

    run: Path = Path("runs/demo")
    """A finished run of recipes/demo.toml."""

    out: Path = Path("runs/long-context-study")
    """Folder of the study; a second call goes on where the first was stopped."""

    max_steps: int = 900
    """Steps of fine-tuning."""

    num_examples: int = 40_000
    """Conversations about a number hidden in a text."""

    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    """What is read."""

    num_texts: int = 8
    """Texts of the longest length."""

    num_passkeys: int = 20
    """Numbers hidden at each length and depth."""


def write_conversations(study: Study) -> Path:
    """Conversations to fine-tune on, drawn once."""
    chance = Random(1)
    documents = iter_documents(study.run / "corpus" / "documents" / "train")
    prose = [document.text for document in documents if len(document.text) > 2 * CHARACTERS[1]]
    path = study.out / "conversations.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(study.num_examples):
            text, length = chance.choice(prose), chance.randint(*CHARACTERS)
            start = chance.randrange(len(text) - length)
            messages = passkey.example(text[start : start + length], chance.random(), chance)
            stream.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return path


def held_out_text(study: Study) -> Path:
    """The longest held-out documents in prose, one after the other."""
    documents = iter_documents(study.run / "corpus" / "documents" / "validation")
    prose = sorted((d.text for d in documents if d.language in ("en", "zh")), key=len, reverse=True)
    path = study.out / "text.txt"
    path.write_text("\n\n".join(prose), encoding="utf-8")
    return path


def measured(study: Study, name: str, model: Path, **values: Any) -> None:
    """Measure one model, print its table and draw its page."""
    config = LongContextConfig(
        model=model, text=held_out_text(study), lengths=study.lengths, out=study.out / name, **values
    )
    results = run_stage("long-context", config, long_context)
    print((results / "table.md").read_text(encoding="utf-8"))
    print(write_long_context(config.out), end="\n\n", flush=True)


def main() -> None:
    study = tyro.cli(Study, description=__doc__)
    recipe = read_recipe(Path(__file__).parents[1] / "recipes" / "demo.toml", Recipe)
    study.out.mkdir(parents=True, exist_ok=True)
    base = study.run / "pretrain" / "model"
    measured(study, "perplexity", base, num_texts=study.num_texts)
    step = replace(recipe.sft.step, max_steps=study.max_steps)
    training = replace(recipe.sft, model=base, data=write_conversations(study), step=step, out=study.out / "sft")
    model = run_stage("sft", training, sft)
    measured(study, "passkeys", model, num_texts=study.num_texts, num_passkeys=study.num_passkeys, chat=True)


if __name__ == "__main__":
    main()

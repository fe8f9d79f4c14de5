"""A small model trained at a short length on real text and on hidden pass keys, then read at longer and longer ones.

    python benchmarks/long_context.py --run runs/demo --out runs/long-context-study
    python benchmarks/long_context.py --run runs/demo --out runs/long-context-study --max-steps 100    # a trial

Takes the corpus and the tokenizer of a finished run of recipes/demo.toml. Half of the training documents are the corpus
as it is, half are pieces of it with a number hidden in them and asked for at their end (`danlu.evaluation.passkey`).
Then `danlu evaluate --long-context` on the longest held-out documents: its table and page are the result, in `OUT`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from danlu.evaluation import passkey
from danlu.evaluation.config import LongContextConfig
from danlu.evaluation.long_context import long_context
from danlu.recipe import Recipe
from danlu.report.long_context import write_long_context
from danlu.run.folder import run_stage
from danlu.run.recipe_file import read_recipe
from danlu.tokenizer.config import TokensConfig
from danlu.tokenizer.documents import COLUMNS, iter_documents
from danlu.tokenizer.shards import write_token_shards
from danlu.training.pretrain import pretrain

CHARACTERS = (60, 400)
"""Of the text around a number: 30 to 200 tokens of the demo's tokenizer, so that most examples fit a row."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is trained and measured."""

    run: Path = Path("runs/demo")
    """A finished run of recipes/demo.toml."""

    out: Path = Path("runs/long-context-study")
    """Folder of the study; a second call goes on where the first was stopped."""

    sequence_length: int = 256
    """Tokens of a training row."""

    max_steps: int = 2600
    """Steps of the demo's batch."""

    num_examples: int = 24_000
    """Texts with a number hidden in them."""

    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    """What is read afterwards."""

    num_texts: int = 8
    """Texts of the longest length."""

    num_passkeys: int = 20
    """Numbers hidden at each length and depth."""


def mixed(documents: list[dict[str, Any]], study: Study) -> Iterator[dict[str, Any]]:
    """The corpus, and pieces of it with a number in each, in an order drawn once."""
    chance = Random(1)
    prose = [document["text"] for document in documents if len(document["text"]) > 2 * CHARACTERS[1]]
    examples = []
    for number in range(study.num_examples):
        text, length = chance.choice(prose), chance.randint(*CHARACTERS)
        start = chance.randrange(len(text) - length)
        piece = passkey.example(text[start : start + length], chance.random(), chance)
        examples.append(
            {"id": f"passkey-{number}", "text": piece, "source": "passkey", "language": "en", "weight": 1.0}
        )
    together = [*documents, *examples]
    chance.shuffle(together)
    yield from together


def write_documents(study: Study) -> Path:
    """The training documents, in the layout of the corpus stage; the held-out ones are the run's own."""
    folder = study.out / "documents"
    for split in ("train", "validation"):
        own = [
            {name: getattr(document, name) for name in COLUMNS}
            for document in iter_documents(study.run / "corpus" / "documents" / split)
        ]
        (folder / split).mkdir(parents=True, exist_ok=True)
        rows = list(mixed(own, study)) if split == "train" else own
        pq.write_table(pa.Table.from_pylist(rows), folder / split / "part-00000.parquet")
    return folder


def held_out_text(study: Study) -> Path:
    """The longest held-out documents in prose, one after the other."""
    documents = iter_documents(study.run / "corpus" / "documents" / "validation")
    prose = sorted((d.text for d in documents if d.language in ("en", "zh")), key=len, reverse=True)
    path = study.out / "text.txt"
    path.write_text("\n\n".join(prose), encoding="utf-8")
    return path


def main() -> None:
    study = tyro.cli(Study, description=__doc__)
    recipe = read_recipe(Path(__file__).parents[1] / "recipes" / "demo.toml", Recipe)
    tokenizer = study.run / "tokenizer" / "tokenizer"
    study.out.mkdir(parents=True, exist_ok=True)
    tokens = TokensConfig(input=write_documents(study), tokenizer=tokenizer, out=study.out / "tokens")
    shards = run_stage("tokens", tokens, write_token_shards)
    step = replace(recipe.pretrain.step, sequence_length=study.sequence_length, max_steps=study.max_steps)
    training = replace(recipe.pretrain, data=shards, tokenizer=tokenizer, step=step, out=study.out / "pretrain")
    model = run_stage("pretrain", training, pretrain)
    measured = LongContextConfig(
        model=model, text=held_out_text(study), lengths=study.lengths, num_texts=study.num_texts,
        num_passkeys=study.num_passkeys, out=study.out / "long-context",
    )  # fmt: skip
    results = run_stage("long-context", measured, long_context)
    print((results / "table.md").read_text(encoding="utf-8"), end="")
    print(write_long_context(measured.out))


if __name__ == "__main__":
    main()

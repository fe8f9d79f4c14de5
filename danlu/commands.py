"""The verbs that are not stages: their values, and the functions that do them."""

import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from danlu.evaluation.config import BenchmarksConfig, LongContextConfig, LongContextOptions
from danlu.inference.config import OpenConfig, SamplingConfig
from danlu.recipe import Recipe, with_models
from danlu.report.config import ReportConfig
from danlu.run.errors import UserError
from danlu.run.recipe_file import read_recipe


@dataclass(frozen=True, kw_only=True)
class Run:
    """danlu run RECIPE.toml [options]; every value of the recipe can be set, for example --pretrain.step.seed 2."""

    out: Path = Path("runs/demo")
    """Folder of the run; by default runs/ and the recipe's name."""

    stage: tuple[str, ...] = ()
    """Only these stages; all when none is named."""

    plan: bool = False
    """Say what would run and what is complete, and stop."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)
    """The recipe's values."""

    @classmethod
    def from_file(cls, words: list[str]) -> tuple["Run", list[str]]:
        """Defaults from the recipe named first among the command-line words, and the words after it."""
        if not words or words[0] in ("-h", "--help"):
            return cls(), words or ["--help"]
        if words[0].startswith("-"):
            raise UserError(
                "the recipe's file comes first", where="danlu run", mend="For example: danlu run recipes/demo.toml"
            )
        path = Path(words[0])
        return cls(recipe=read_recipe(path, Recipe), out=Path("runs") / path.stem), words[1:]


def run(config: Run) -> None:
    """Do the recipe, then say how to talk to its model and where the report is."""
    from danlu.run_recipe import plan, run_recipe

    if config.plan:
        for name, state in plan(config.recipe, config.out, config.stage):
            print(f"{name:<14} {state}")
        return
    report = run_recipe(config.recipe, config.out, config.stage)
    print(f"\nThe report:        {report}")
    for stage in ("ppo", "sft"):
        model = config.out / stage / "model"
        if model.is_dir():
            print(f"Talk to the model: {sys.argv[0]} chat {model}")
            print(f"Serve it:          {sys.argv[0]} serve {model}")
            break


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a model by benchmarks or on long texts, or compare two runs of benchmarks."""

    model: tyro.conf.Positional[Path | None] = None
    """Model folder."""

    compare: tuple[Path, Path] | None = None
    """Folders of two finished runs (their --out) to hold against each other, question by question."""

    long_context: bool = False
    """Measure how well it reads more than it was trained on, by the next options, instead of benchmarks."""

    long: Annotated[LongContextOptions, tyro.conf.arg(name="")] = field(default_factory=LongContextOptions)
    """Which lengths, text and techniques."""

    benchmarks: Annotated[BenchmarksConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: BenchmarksConfig(model=None)
    )
    """Which benchmarks, and how."""


def evaluate(config: Evaluate) -> None:
    """Print the table of scores, or of differences."""
    if config.long_context:
        _evaluate_long_context(config)
        return
    if config.long != LongContextOptions():
        raise UserError("belongs to --long-context", where=f"--{changed(config.long)}", mend="Add --long-context")
    if config.compare:
        from danlu.evaluation.compare_runs import compare_runs, comparison_lines

        print("\n".join(comparison_lines(compare_runs(*config.compare))))
        return
    from danlu.evaluation.benchmark import benchmark
    from danlu.run.folder import run_stage

    wanted = config.benchmarks
    named = [each for each in (config.model, wanted.model, wanted.endpoint) if each is not None]
    if len(named) != 1:
        raise UserError(
            "needs a model folder or an endpoint, one of the two", where="danlu evaluate", mend="Name one, not both"
        )
    # Task names may be separated by commas, as the field writes them, as well as by blanks.
    tasks = tuple(name for word in wanted.tasks for name in word.split(",") if name)
    if not tasks:
        raise UserError("names no benchmark", where="--tasks", mend="For example: --tasks mmlu,gsm8k")
    wanted = with_models(replace(wanted, tasks=tasks, model=config.model or wanted.model))
    # Another model may answer at the same address.
    results = run_stage("benchmarks", wanted, benchmark, again=wanted.endpoint is not None)
    print((results / "table.md").read_text(encoding="utf-8"), end="")
    print(f"Every question with its reply: {results / 'items'}", file=sys.stderr)


def changed(values: Any, but: tuple[str, ...] = ()) -> str | None:
    """The flag of the first value of a table that is not its default."""
    names = (
        each.name for each in fields(values) if each.name not in but and getattr(values, each.name) != each.default
    )
    return next((name.replace("_", "-") for name in names), None)


LONG_CONTEXT_SHARES = ("model", "out", "device", "dtype", "extend", "seed", "chat")
"""Values of the benchmarks that `--long-context` takes too."""


def _evaluate_long_context(config: Evaluate) -> None:
    """Print perplexity by length and technique, and draw the page."""
    from danlu.evaluation.long_context import long_context
    from danlu.report.long_context import write_long_context
    from danlu.run.folder import run_stage

    model, how = config.model or config.benchmarks.model, config.benchmarks
    if flag := "compare" if config.compare else changed(how, LONG_CONTEXT_SHARES):
        raise UserError("does not go with --long-context", where=f"--{flag}", mend="Leave one of them out")
    if any(not word.startswith("training_length=") for word in how.extend):
        raise UserError("does not go with --long-context", where="--extend", mend="Name it in --techniques")
    if model is None or config.long.text is None:
        missing = "a model folder" if model is None else "a text"
        raise UserError(f"needs {missing}", where="danlu evaluate --long-context", mend="MODEL --text FILE")
    out = how.out if how.out != BenchmarksConfig.out else LongContextConfig.out
    shared = {name: getattr(how, name) for name in LONG_CONTEXT_SHARES} | {"model": model, "out": out}
    measured = with_models(LongContextConfig(**{**vars(config.long), **shared}))
    results = run_stage("long-context", measured, long_context)
    print((results / "table.md").read_text(encoding="utf-8"), end="")
    print(f"Drawn: {write_long_context(out)}", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Generate(OpenConfig):
    """Continue a text with a base model, or answer it with a chat model."""

    model: tyro.conf.Positional[Path]
    """Model folder."""

    prompt: str | None = None
    """Text to continue; read from standard input (line breaks included) where it is not given."""

    chat: bool = False
    """Put the prompt as a user's message in ChatML."""

    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = field(default_factory=SamplingConfig)
    """How tokens are chosen."""


def generate_text(config: Generate) -> None:
    """Write the continuation to standard output as it comes."""
    from danlu.inference.generate import stream_pieces
    from danlu.inference.load import open_model

    model, tokenizer = open_model(config.model, config)
    prompt = config.prompt if config.prompt is not None else standard_input()
    for piece in stream_pieces(
        model, tokenizer, [{"role": "user", "content": prompt}] if config.chat else prompt, config.sampling
    ):
        print(piece, end="", flush=True)
    print()


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A table of what models take; their weights are not read."""

    sources: tyro.conf.Positional[tuple[Path, ...]]
    """Recipes, model folders, GGUF files."""


def model_info(config: ModelInfo) -> None:
    """Print the table. Of a recipe at its sequence length, else at what the model reads."""
    from danlu.model.checkpoint import config_of
    from danlu.model.describe import describe, description_lines
    from danlu.model.place import found
    from danlu.training.pretrain import padded_vocabulary

    if not config.sources:
        raise UserError("names no model", where="danlu model info", mend="For example recipes/qwen-7b.toml")
    described = []
    for source in config.sources:
        if source.suffix == ".toml":
            recipe = read_recipe(source, Recipe)
            shape, length = recipe.pretrain.model, recipe.pretrain.step.sequence_length
            # Where the recipe leaves it open the vocabulary is the tokenizer's.
            vocab_size = padded_vocabulary(recipe.tokenizer.vocab_size)
            shape = shape if shape.vocab_size else replace(shape, vocab_size=vocab_size)
        else:
            shape = config_of(found(source))
            length = shape.max_position_embeddings
        described.append(describe(source.stem, shape, length))
    print("\n".join(description_lines(described)))


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a model in another layout, with the same weights and tokenizer."""

    source: tyro.conf.Positional[Path]
    """Model folder, GGUF file, or a name on the hub."""

    out: tyro.conf.Positional[Path]
    """Folder to make; for gguf a file, whose name ends in .gguf."""

    to: Literal["hf", "qwen-v1", "gguf"]
    """Hugging Face's layout (transformers, vLLM), that of the published Qwen v1's own code, or llama.cpp's."""

    quantize: str | None = None
    """How weights are held: float32, float16 or bfloat16 in a folder; f32, f16, bf16, q8_0, q4_0, q4_1, q5_0 or q5_1 in
    GGUF; None as they are."""

    extend: tuple[str, ...] = ()
    """Context extension that is written in place of the model's own, as the verbs that answer have it; `none` for a
    layout that cannot hold it."""


def convert_model(config: Convert) -> None:
    """Say what was written, and what otherwise than asked for."""
    from danlu.inference.extend import extended
    from danlu.model.convert import convert
    from danlu.model.place import found

    kept = convert(
        found(config.source), config.out, config.to, config.quantize, lambda own: extended(own, config.extend)
    )
    if kept:
        print(f"Kept as F16, because their rows hold no whole blocks: {', '.join(kept)}")
    print(config.out)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Draw the report of a run again, from what its stages have saved."""

    report: Annotated[ReportConfig, tyro.conf.arg(name="")] = field(default_factory=ReportConfig)
    """Which run, and the page's title."""


def report(config: Report) -> None:
    """Write `report.html` and `summary.json` into the run's folder."""
    from danlu.recipe import STAGES
    from danlu.report.page import write_report
    from danlu.run.folder import locked

    if not config.report.run.is_dir():
        raise UserError("no such run", where=config.report.run, mend="Name its folder with --run")
    with locked(config.report.run):
        print(write_report(config.report.run, [stage.name for stage in STAGES], config.report))


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Text on standard input to ids, separated by spaces."""

    tokenizer: tyro.conf.Positional[Path]
    """Tokenizer folder, rank file or tokenizer.json."""

    special: Literal["text", "control"] = "text"
    """What a written `<|im_end|>` becomes: ordinary text, or the control token."""


def encode(config: Encode) -> None:
    """Write the ids of standard input to standard output."""
    from danlu.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(config.tokenizer)
    print(*tokenizer.encode(standard_input(), allow_special=config.special == "control"))


@dataclass(frozen=True, kw_only=True)
class Decode:
    """Ids on standard input to text."""

    tokenizer: tyro.conf.Positional[Path]
    """Tokenizer folder, rank file or tokenizer.json."""


def decode(config: Decode) -> None:
    """Write the text of the ids on standard input to standard output."""
    from danlu.tokenizer import Tokenizer

    try:
        ids = [int(word) for word in standard_input().split()]
    except ValueError as error:
        raise UserError(f"not a list of ids: {error}", mend="Give numbers separated by spaces") from error
    tokenizer = Tokenizer.load(config.tokenizer)
    try:
        text = tokenizer.decode(ids)
    except ValueError as error:
        mend = f"Ids lie between 0 and {tokenizer.vocab_size - 1}"
        raise UserError(str(error), where="standard input", mend=mend) from error
    print(text, end="")


def standard_input() -> str:
    """All of standard input as text. Raises UserError where it is not UTF-8: no byte is guessed at."""
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}",
            where="standard input",
            mend="Convert it first, for example with iconv -f gb18030 -t utf-8",
        ) from error

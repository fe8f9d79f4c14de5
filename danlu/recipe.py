"""A whole run in one dataclass, one table per stage, and how the stages hand on to each other.

Imports the configurations alone, nothing heavy: `danlu --help` and the recipe check need no torch.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from danlu.conversations.config import ComparisonsConfig, ConversationsConfig
from danlu.corpus.config import CorpusConfig, FetchConfig
from danlu.corpus.train_config import TrainLmConfig, TrainQualityConfig, TrainSafetyConfig
from danlu.evaluation.config import BenchmarksConfig, EvaluateConfig
from danlu.inference.config import SampleConfig
from danlu.report.config import ReportConfig
from danlu.run.errors import UserError
from danlu.run.recipe_file import read_recipe
from danlu.tokenizer.config import TokenizerConfig, TokensConfig
from danlu.training.config import DpoConfig, PmpConfig, PretrainConfig, RewardConfig, SftConfig
from danlu.training.ppo_config import PpoConfig

C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run from raw pages to a model that chats. Paths inside the tables are set by the run."""

    fetch: FetchConfig = field(default_factory=FetchConfig)
    """Raw material."""
    perplexity: TrainLmConfig = field(default_factory=TrainLmConfig)
    """Language models that score documents; part of a run where `sources` names their reference text."""
    quality: TrainQualityConfig = field(default_factory=TrainQualityConfig)
    """Classifiers of good and bad text; part of a run where `good_sources` names the good."""
    safety: TrainSafetyConfig = field(default_factory=TrainSafetyConfig)
    """Classifiers of offensive text; part of a run where `examples` names a file that is there."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Pages to clean, deduplicated documents."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The vocabulary."""
    tokens: TokensConfig = field(default_factory=TokensConfig)
    """Documents to token shards."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """The base model."""
    conversations: ConversationsConfig = field(default_factory=ConversationsConfig)
    """What fine-tuning learns from."""
    sft: SftConfig = field(default_factory=SftConfig)
    """The chat model."""
    responses: SampleConfig = field(default_factory=SampleConfig)
    """What the chat model says, for the comparisons."""
    comparisons: ComparisonsConfig = field(default_factory=ComparisonsConfig)
    """What the reward model learns from."""
    pmp: PmpConfig = field(default_factory=PmpConfig)
    """Preference-model pretraining: the reward model on many noisy comparisons."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """The reward model, fine-tuned on fewer and better ones."""
    ppo: PpoConfig = field(default_factory=PpoConfig)
    """The aligned model."""
    dpo: DpoConfig = field(default_factory=DpoConfig)
    """An option beside PPO, not part of a run: `danlu dpo --recipe FILE`."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """What it has learnt."""
    benchmarks: BenchmarksConfig = field(default_factory=BenchmarksConfig)
    """The field's own benchmarks; part of a run where `data` names their files, or the stage is asked for by name."""
    report: ReportConfig = field(default_factory=ReportConfig)
    """The story of the run."""


def take_recipe(words: list[str]) -> tuple[Recipe, list[str]]:
    """The recipe named by `--recipe FILE` or `--recipe=FILE` among command-line words (the built-in values without
    it), and the rest. Raises UserError without a file, for two recipes, and for a recipe that is wrong."""
    places = [place for place, word in enumerate(words) if word == "--recipe" or word.startswith("--recipe=")]
    if not places:
        return Recipe(), words
    if len(places) > 1:
        raise UserError("given twice", where="--recipe", mend="A stage takes its values from one recipe")
    place = places[0]
    _, joined, file = words[place].partition("=")
    after = place + 1
    if not joined and after < len(words) and not words[after].startswith("-"):
        file, after = words[after], after + 1
    if not file:
        raise UserError("needs a file", where="--recipe", mend="For example --recipe recipes/demo.toml")
    return read_recipe(Path(file), Recipe), words[:place] + words[after:]


@dataclass(frozen=True)
class Stage:
    """One stage: its table's name, the function that does it, and its inputs by field, relative to the run's folder."""

    name: str
    function: str
    """`module:function`, imported when the stage runs."""
    inputs: dict[str, str]

    def config(self, recipe: Recipe, run: Path) -> Any:
        """The stage's table with its paths set for the run in folder `run`; an input that the recipe names stays."""
        table = getattr(recipe, self.name)
        default = type(table)()
        if table.out != default.out:
            raise UserError(f"`{self.name}.out` is set by the run", mend="Choose the run's folder with --out")
        absent = not_part(recipe)
        paths: dict[str, Any] = {}
        for key, place in self.inputs.items():
            if getattr(table, key) != getattr(default, key):
                continue
            if place.split("/")[0] not in absent:
                paths[key] = run / place
            elif place == "fetch/raw" and recipe.corpus.input != CorpusConfig().input:
                paths[key] = recipe.corpus.input
        if self.name == "corpus" and recipe.benchmarks.data is not None:
            # What a run is measured on must not be in what it learns from.
            paths["evaluation_sets"] = (*table.evaluation_sets, recipe.benchmarks.data)
        return dataclasses.replace(table, out=run / self.name, **paths)

    def work(self) -> Callable[[Any], Path]:
        """The function that does the stage."""
        module, function = self.function.split(":")
        work: Callable[[Any], Path] = getattr(import_module(module), function)
        return work


def has_own_sources(config: CorpusConfig) -> bool:
    """Whether every source says where it lies."""
    return bool(config.sources) and all(source.path for source in config.sources.values())


def with_own_sources(config: C) -> C:
    """The corpus's table without the folder of raw files that a run would fetch, where every source says where it
    lies."""
    if isinstance(config, CorpusConfig) and config.input == CorpusConfig().input and has_own_sources(config):
        return dataclasses.replace(config, input=None)
    return config


def lies_elsewhere(config: Any) -> bool:
    """Whether a stage reads what no fingerprint sees, such as an object store: it is then done again, which costs
    little where nothing is new."""
    return isinstance(config, CorpusConfig) and any(source.path for source in config.sources.values())


def with_models(config: C) -> C:
    """A stage's table whose models are here: one that it knows by its name on the hub (`Qwen/Qwen2.5-0.5B`) is fetched.
    Raises UserError where that cannot be."""
    from danlu.model.place import found, is_hub_name

    named = {name: getattr(config, name, None) for name in ("model", "reward_model", "base", "aligned")}
    absent = {name: path for name, path in named.items() if isinstance(path, Path) and is_hub_name(path)}
    return dataclasses.replace(config, **{name: found(path) for name, path in absent.items()})  # type: ignore[type-var]


def not_part(recipe: Recipe) -> set[str]:
    """Stages that a whole run of this recipe leaves out: no fetching where it names a folder of the user's own, and no
    stage whose own material it does not name."""
    is_named = {
        "fetch": recipe.corpus.input == CorpusConfig().input and not has_own_sources(recipe.corpus),
        "perplexity": bool(recipe.perplexity.sources) or recipe.perplexity.input != TrainLmConfig().input,
        "quality": bool(recipe.quality.good_sources) or recipe.quality.good != TrainQualityConfig().good,
        "safety": recipe.safety.examples != TrainSafetyConfig().examples,
        "benchmarks": recipe.benchmarks.data is not None,
    }
    return {name for name, is_there in is_named.items() if not is_there}


STAGES = (
    Stage("fetch", "danlu.corpus.fetch:fetch", {}),
    Stage("perplexity", "danlu.corpus.train:train_lm", {"input": "fetch/raw"}),
    Stage("quality", "danlu.corpus.train:train_quality", {"good": "fetch/raw", "bad": "fetch/raw"}),
    Stage("safety", "danlu.corpus.train:train_safety", {}),
    Stage(
        "corpus",
        "danlu.corpus.build:build",
        {
            "input": "fetch/raw",
            "perplexity_models": "perplexity/models",
            "quality_models": "quality/models",
            "safety_models": "safety/models",
        },
    ),
    Stage("tokenizer", "danlu.tokenizer.train:train_tokenizer", {"input": "corpus/documents"}),
    Stage(
        "tokens",
        "danlu.tokenizer.shards:write_token_shards",
        {"input": "corpus/documents", "tokenizer": "tokenizer/tokenizer"},
    ),
    Stage(
        "pretrain",
        "danlu.training.pretrain:pretrain",
        {"data": "tokens/shards", "tokenizer": "tokenizer/tokenizer"},
    ),
    Stage(
        "conversations",
        "danlu.conversations.generate:generate_conversations",
        {"input": "corpus/documents"},
    ),
    Stage(
        "sft",
        "danlu.training.sft:sft",
        {"model": "pretrain/model", "data": "conversations/conversations/train.jsonl"},
    ),
    Stage(
        "responses",
        "danlu.inference.sample:sample_responses",
        {"model": "sft/model", "data": "conversations/conversations/alignment.jsonl"},
    ),
    Stage(
        "comparisons",
        "danlu.conversations.compare:make_comparisons",
        {"conversations": "conversations/conversations", "responses": "responses/responses.jsonl"},
    ),
    Stage(
        "pmp",
        "danlu.training.reward:reward",
        {
            "model": "pretrain/model",
            "data": "comparisons/comparisons/pmp.jsonl",
            "test": "comparisons/comparisons/test.jsonl",
            "unseen": "comparisons/comparisons/unseen.jsonl",
        },
    ),
    Stage(
        "reward",
        "danlu.training.reward:reward",
        {
            "model": "pmp/model",
            "data": "comparisons/comparisons/reward.jsonl",
            "test": "comparisons/comparisons/test.jsonl",
            "unseen": "comparisons/comparisons/unseen.jsonl",
        },
    ),
    Stage(
        "ppo",
        "danlu.training.ppo:ppo",
        {
            "model": "sft/model",
            "reward_model": "reward/model",
            "data": "comparisons/comparisons/prompts.jsonl",
            "pretraining": "tokens/shards",
        },
    ),
    Stage(
        "evaluate",
        "danlu.evaluation.evaluate:evaluate",
        {
            "base": "pretrain/model",
            "model": "sft/model",
            "aligned": "ppo/model",
            "documents": "corpus/documents",
            "shards": "tokens/shards",
            "conversations": "conversations/conversations",
        },
    ),
    Stage("benchmarks", "danlu.evaluation.benchmark:benchmark", {"model": "ppo/model"}),
)
"""All stages in order. The report is not among them: it is drawn anew at the end of every run."""

"""The command `danlu`: one verb per stage, each a thin caller of a function that a notebook can call.

`danlu --help` imports nothing of the rooms; `danlu VERB --help` imports the verb's configuration alone.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn


@dataclass(frozen=True)
class Verb:
    """A verb's one-line help, its configuration class, and the function that does it (`module:name` both)."""

    help: str
    config: str
    function: str
    table: str | None = None
    """The recipe's table that `--recipe FILE` takes this stage's values from."""


VERBS = {
    "run": Verb(
        "run a whole recipe: raw pages in, a chat model and a report out", "danlu.commands:Run", "danlu.commands:run"
    ),
    "corpus fetch": Verb(
        "fetch the demo's raw material", "danlu.corpus.config:FetchConfig", "danlu.corpus.fetch:fetch", "fetch"
    ),
    "corpus build": Verb(
        "raw pages to clean, deduplicated documents",
        "danlu.corpus.config:CorpusConfig",
        "danlu.corpus.build:build",
        "corpus",
    ),
    "corpus train-lm": Verb(
        "train the language models that score documents",
        "danlu.corpus.train_config:TrainLmConfig",
        "danlu.corpus.train:train_lm",
        "perplexity",
    ),
    "corpus train-quality": Verb(
        "train the classifier of good and bad text",
        "danlu.corpus.train_config:TrainQualityConfig",
        "danlu.corpus.train:train_quality",
        "quality",
    ),
    "corpus train-safety": Verb(
        "train the classifier of offensive text",
        "danlu.corpus.train_config:TrainSafetyConfig",
        "danlu.corpus.train:train_safety",
        "safety",
    ),
    "tokenizer train": Verb(
        "train a byte-level BPE vocabulary on a corpus",
        "danlu.tokenizer.config:TokenizerConfig",
        "danlu.tokenizer.train:train_tokenizer",
        "tokenizer",
    ),
    "tokenizer shards": Verb(
        "encode a corpus into token shards",
        "danlu.tokenizer.config:TokensConfig",
        "danlu.tokenizer.shards:write_token_shards",
        "tokens",
    ),
    "tokenizer encode": Verb("text to ids", "danlu.commands:Encode", "danlu.commands:encode"),
    "tokenizer decode": Verb("ids to text", "danlu.commands:Decode", "danlu.commands:decode"),
    "pretrain": Verb(
        "train a base model on token shards",
        "danlu.training.config:PretrainConfig",
        "danlu.training.pretrain:pretrain",
        "pretrain",
    ),
    "conversations": Verb(
        "generate the demo's conversations",
        "danlu.conversations.config:ConversationsConfig",
        "danlu.conversations.generate:generate_conversations",
        "conversations",
    ),
    "sft": Verb(
        "fine-tune a model on conversations", "danlu.training.config:SftConfig", "danlu.training.sft:sft", "sft"
    ),
    "sample": Verb(
        "responses of a model to prompts; best-of-n with a reward model",
        "danlu.inference.config:SampleConfig",
        "danlu.inference.sample:sample_responses",
        "responses",
    ),
    "comparisons": Verb(
        "make the demo's comparisons for the reward model",
        "danlu.conversations.config:ComparisonsConfig",
        "danlu.conversations.compare:make_comparisons",
        "comparisons",
    ),
    "reward": Verb(
        "train a reward model on comparisons",
        "danlu.training.config:RewardConfig",
        "danlu.training.reward:reward",
        "reward",
    ),
    "ppo": Verb(
        "align a chat model by a reward model", "danlu.training.ppo_config:PpoConfig", "danlu.training.ppo:ppo", "ppo"
    ),
    "dpo": Verb(
        "align a chat model by comparisons alone", "danlu.training.config:DpoConfig", "danlu.training.dpo:dpo", "dpo"
    ),
    "skills": Verb(
        "bits per byte and checked skills, before and after fine-tuning and alignment",
        "danlu.evaluation.config:EvaluateConfig",
        "danlu.evaluation.evaluate:evaluate",
        "evaluate",
    ),
    "evaluate": Verb(
        "benchmarks: MMLU, C-Eval, GSM8K, MATH, HumanEval, MBPP, BBH, safety; or compare two such runs",
        "danlu.commands:Evaluate",
        "danlu.commands:evaluate",
    ),
    "model info": Verb(
        "parameters, memory and arithmetic of a recipe's model or a folder's",
        "danlu.commands:ModelInfo",
        "danlu.commands:model_info",
    ),
    "convert": Verb(
        "write a model in another layout: Hugging Face, Qwen v1, GGUF",
        "danlu.commands:Convert",
        "danlu.commands:convert_model",
    ),
    "generate": Verb("continue a text, or answer it", "danlu.commands:Generate", "danlu.commands:generate_text"),
    "chat": Verb("talk with a model in the terminal", "danlu.serving.config:ChatConfig", "danlu.serving.terminal:chat"),
    "serve": Verb(
        "answer over HTTP, as OpenAI's API does", "danlu.serving.config:ServeConfig", "danlu.serving.server:serve"
    ),
    "report": Verb("draw the report of a run again", "danlu.commands:Report", "danlu.commands:report"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 the user's mistake or a full disk, 2 usage, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("danlu"))
        return 0
    name, rest = split_verb(words)
    if name is None:
        known = [verb for verb in VERBS if verb.startswith(f"{words[0]} ")]
        wanted = f"`danlu {words[0]}` needs one of: {', '.join(known)}" if known else f"unknown verb `{words[0]}`"
        print(f"danlu: {wanted}. See `danlu --help`", file=sys.stderr)
        return 2
    return guarded(lambda: call(name, rest), is_whole_process=arguments is None)


def usage() -> str:
    """The text of `danlu --help`."""
    width = max(len(name) for name in VERBS)
    lines = [f"  {name:<{width}}  {verb.help}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: danlu VERB [options]",
            "",
            "Raw web pages in, an aligned bilingual language model out.",
            "",
            *lines,
            "",
            "`danlu VERB --help` shows every value of a verb with its default and meaning.",
        ]
    )


def split_verb(words: list[str]) -> tuple[str | None, list[str]]:
    """The verb (of one or two words) at the beginning, and what follows it."""
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in VERBS:
            return name, words[length:]
    return None, words


def call(name: str, rest: list[str]) -> None:
    """Read the verb's values and do it; a stage keeps its folder's record and lock."""
    verb = VERBS[name]
    config = read_config(name, verb, rest)
    work = _named(verb.function)
    if verb.table is None:
        work(config)
        return
    from danlu.corpus.config import CorpusConfig
    from danlu.recipe import lies_elsewhere, with_models, with_own_sources
    from danlu.run.folder import run_stage

    config = with_own_sources(with_models(config))
    if isinstance(config, CorpusConfig) and config.dry_run:
        _named("danlu.corpus.build:print_plan")(config)
        return
    print(run_stage(verb.table, config, work, again=lies_elsewhere(config)))


def read_config(name: str, verb: Verb, rest: list[str]) -> Any:
    """The verb's values from the command line. `danlu run FILE` takes its defaults from the recipe FILE, a stage from
    `--recipe FILE`."""
    kind, default, described = _named(verb.config), None, verb.help
    if name == "run":
        default, rest = kind.from_file(rest)
    elif verb.table:
        from danlu.recipe import take_recipe

        recipe, rest = take_recipe(rest)
        default = getattr(recipe, verb.table)
        described += f". --recipe FILE takes the values of a recipe's table [{verb.table}]; options win over it."
    from danlu.arguments import parse

    return parse(kind, rest, f"danlu {name}", default, described)


def guarded(work: Callable[[], None], *, is_whole_process: bool = False) -> int:
    """Do the work; turn what a user can mend into one line and an exit status.

    Where the command is the whole process, Ctrl-C after Daft was used ends that process here.
    """
    from danlu.run.errors import UserError

    try:
        work()
    except UserError as error:
        print(f"danlu: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("danlu: stopped; the same command goes on where this one was", file=sys.stderr)
        if is_whole_process and "daft" in sys.modules:
            leave(130)
        return 130
    except BrokenPipeError:
        # The reader of our output (`head`, say) has gone; keep the interpreter from complaining about it at exit.
        sys.stdout = None  # type: ignore[assignment]
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        mend = " Free some space and run the same command again; finished work stays." if error.errno == 28 else ""
        print(f"danlu: {where}{error.strerror or error}.{mend}", file=sys.stderr)
        return 1
    return 0


def leave(status: int) -> NoReturn:
    """End this process and its children now: Daft, interrupted, leaves threads with which the interpreter's own way
    out hangs or aborts."""
    import os
    import signal

    import psutil

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for _ in range(5):
        # More than once: one of Daft's threads may be about to start another worker.
        children = psutil.Process().children(recursive=True)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        if not psutil.wait_procs(children, timeout=1)[0]:
            break
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)


def _named(reference: str) -> Any:
    module, name = reference.split(":")
    return getattr(import_module(module), name)


if __name__ == "__main__":
    sys.exit(main())

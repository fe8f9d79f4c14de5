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
    "evaluate": Verb(
        "bits per byte and checked skills, before and after fine-tuning",
        "danlu.evaluation.config:EvaluateConfig",
        "danlu.evaluation.evaluate:evaluate",
        "evaluate",
    ),
    "generate": Verb("continue a text, or answer it", "danlu.commands:Generate", "danlu.commands:generate_text"),
    "chat": Verb("talk with a model in the terminal", "danlu.serving.config:ChatConfig", "danlu.serving.terminal:chat"),
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
    from danlu.run.folder import run_stage

    print(run_stage(verb.table, config, work))


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
    return _parse(kind, rest, f"danlu {name}", default, described)


def _parse(kind: Any, words: list[str], prog: str, default: Any, description: str) -> Any:
    """The values from the words. tyro prints a mistake as a framed box: it becomes one line, and status 2."""
    import contextlib
    import io
    import os

    import tyro

    def parse() -> Any:
        return tyro.cli(kind, args=words, prog=prog, default=default, description=description)

    if {"-h", "--help"} & set(words):
        return parse()
    columns, errors = os.environ.get("COLUMNS"), io.StringIO()
    os.environ["COLUMNS"] = "10000"  # a box so wide that no value is cut in two
    try:
        with contextlib.redirect_stderr(errors):
            return parse()
    except SystemExit as end:
        if end.code:
            print(f"danlu: {usage_mistake(errors.getvalue(), kind)}. See `{prog} --help`", file=sys.stderr)
        raise
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns


def usage_mistake(box: str, kind: Any) -> str:
    """What tyro's box says, as `--flag: what`; a value refused by its table names the flag where it can."""
    import re

    lines = [line.strip().strip("│").strip() for line in box.strip().splitlines()[1:]]
    if lines and not lines[0].strip("-"):
        del lines[0]  # where output is not UTF-8 the frame is a rule below the title
    rule = next((place for place, line in enumerate(lines) if line and not line.strip("─-╰╯")), len(lines))
    said = " ".join(lines[:rule]).rstrip(".")
    if found := re.match(r"Error parsing (\S+): (.*)", said):
        place, what = found.groups()
        what = re.sub(r"invalid literal for int\(\) with base 10:", "expected an integer, got", what)
        what = re.sub(r"could not convert string to float:", "expected a number, got", what)
        if place.startswith("-"):
            return f"{place}: {what}"
        return _refused("" if place == kind.__name__ else place, what, kind)
    if found := re.match(r"Unrecognized options: ([^,\s]+)", said):
        near = next((line.split(",")[0].split()[0] for line in lines[rule:] if re.match("--[a-z]", line)), None)
        return f"{found[1]}: unknown option" + (f". Did you mean {near}" if near else "")
    if found := re.match(r"invalid choice (.+) for argument '(\S+)'\. Expected one of \((.*?),?\)", said):
        return f"{found[2]}: expected one of {found[3]}, got {found[1]}"
    if found := re.match(r"Missing value for argument '(\S+)'", said):
        return f"{found[1]}: needs a value"
    if found := re.match(r"Missing from .*?: (\S+)", said):
        return f"{found[1]}: missing"
    return said


def _refused(table: str, what: str, kind: Any) -> str:
    """A value that its table (`step`; empty for the whole) refused, with the flag where `what` begins with its name."""
    import dataclasses
    import typing

    shown = []
    for name in filter(None, table.replace("-", "_").split(".")):
        hint = typing.get_type_hints(kind, include_extras=True).get(name)
        kind = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
        # A table annotated with an empty name (`recipe` of `danlu run`) is no part of the flags.
        if not any(getattr(mark, "name", None) == "" for mark in getattr(hint, "__metadata__", ())):
            shown.append(name)
    first = what.split()[0]
    if dataclasses.is_dataclass(kind) and first in {field.name for field in dataclasses.fields(kind)}:
        return f"--{'.'.join([*shown, first]).replace('_', '-')}: {what}"
    return f"{'.'.join(shown)}: {what}" if shown else what


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

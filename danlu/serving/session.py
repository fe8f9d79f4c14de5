"""A chat without a terminal: one message or command in, pieces of a reply and lines of advice out.

The replies go to `write`, everything that is not the model's to `say`, one line at a time.
"""

import re
import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from danlu.inference.config import SamplingConfig
from danlu.inference.engine import Engine
from danlu.inference.generate import stream_row
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.run.interrupt import StopRequest, graceful_stop
from danlu.serving.conversation import Conversation
from danlu.tokenizer.bpe import Tokenizer

FENCE = '"""'
"""Lines between two of these are one message, for terminals that do not mark what is pasted, and for pipes."""

HELP = f"""\
/reset             forget the conversation; the system message stays
/system TEXT       set the system message; /system shows it, /system "" removes it
/set NAME VALUE    change how tokens are chosen; /set shows the values
/quit              end; Ctrl-D too
/help              this text
Pasted lines are one message; so are lines between {FENCE} and {FENCE}.
Ctrl-C stops a reply, which stays in the conversation as far as it came."""

STOPPED = "(stopped; what was written stays in the conversation)"

# What `surrogateescape` makes of bytes that are not UTF-8, unless it is half of a real pair.
_BAD_BYTES = re.compile("(?<![\ud800-\udbff])[\udc80-\udcff]")
_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)


def is_open(text: str) -> bool:
    """Whether `text` begins a message of several lines that has not been closed yet."""
    first, rest, last = text.partition("\n")[0], *text.rpartition("\n")[1:]
    return first.strip() == FENCE and not (rest and last.strip() == FENCE)


def unfenced(text: str) -> str:
    """The message between the fences; any other text unchanged."""
    lines = text.split("\n")
    fenced = len(lines) > 1 and lines[0].strip() == lines[-1].strip() == FENCE
    return "\n".join(lines[1:-1]) if fenced else text


def changed(sampling: SamplingConfig, name: str, word: str) -> SamplingConfig:
    """`sampling` with one value read from a word. Raises ValueError for an unknown name or an impossible value."""
    values: dict[str, Any] = asdict(sampling)
    if name not in values:
        raise ValueError(f"no value is called {name}; there are {', '.join(values)}")
    if name == "seed" and word.lower() == "none":
        return replace(sampling, seed=None)
    if name == "stop":
        return replace(sampling, stop=() if word.lower() == "none" else (word.replace("\\n", "\n"),))
    kind = float if isinstance(asdict(SamplingConfig())[name], float) else int
    try:
        values[name] = kind(word)
    except ValueError:
        raise ValueError(f"{name} is a {'number' if kind is float else 'whole number'}, not {word!r}") from None
    return SamplingConfig(**values)


@dataclass(kw_only=True)
class ChatSession:
    """The state of a chat. `handle` takes what the user entered and says whether the chat goes on."""

    model: Transformer
    tokenizer: Tokenizer
    sampling: SamplingConfig
    write: Callable[[str], None]
    say: Callable[[str], None]
    conversation: Conversation = field(default_factory=Conversation)

    def __post_init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        """A new engine, so that the draws of a fixed seed begin anew."""
        self.engine = Engine.for_text(self.model, self.tokenizer, self.sampling)

    def handle(self, text: str) -> bool:
        """Answer a message or do a command; False when the chat is over."""
        if _BAD_BYTES.search(text):
            self.say("These bytes are not UTF-8 text; nothing was sent.")
            return True
        command = _COMMAND.fullmatch(text)
        if command:
            return self._obey(command[1], (command[2] or "").strip())
        message = unfenced(text)
        if message.strip():
            self.answer(message)
        return True

    def _obey(self, name: str, argument: str) -> bool:
        actions: dict[str, Callable[[str], None]] = {"system": self._system, "set": self._set}
        plain: dict[str, Callable[[], None]] = {"reset": self._reset, "help": lambda: self.say(HELP)}
        if name in actions:
            actions[name](argument)
        elif name not in plain and name != "quit":
            self.say(f"There is no command /{name}; /help shows all. Begin with a space to send it as a message.")
        elif argument:
            self.say(f"/{name} stands alone. Begin with a space to send it as a message.")
        elif name == "quit":
            return False
        else:
            plain[name]()
        return True

    def _reset(self) -> None:
        self.conversation.reset()
        self._renew()
        self.say("The conversation begins anew.")

    def _system(self, text: str) -> None:
        if text:
            self.conversation.system = None if text == '""' else unfenced(text)
            self.say("The system message is set." if self.conversation.system else "The system message is removed.")
        elif self.conversation.system is None:
            self.say("There is no system message.")
        else:
            self.say(self.conversation.system)

    def _set(self, argument: str) -> None:
        words = argument.replace("=", " ").split()
        if len(words) not in (0, 2):
            self.say("Say it like this: /set temperature 0.5")
            return
        if words:
            try:
                self.sampling = changed(self.sampling, words[0].replace("-", "_"), words[1])
            except ValueError as error:
                self.say(f"{error}")
                return
            self._renew()
        shown = asdict(self.sampling) | {"stop": " ".join(map(repr, self.sampling.stop)) or "none"}
        self.say(", ".join(f"{name} {value}" for name, value in shown.items()))

    def answer(self, message: str) -> None:
        """Stream the reply and note both. Ctrl-C cuts it short: the conversation then holds what was written.

        Where the message cannot be answered (too long, logits that are not finite) it says so and notes nothing.
        """
        before = self.conversation.left_out
        try:
            prompt_ids = self.conversation.prompt(
                self.tokenizer, message, self.engine.limit, self.sampling.max_new_tokens
            )
        except UserError as error:
            self.say(f"{error}")
            return
        if self.conversation.left_out > before:
            num_turns = self.conversation.left_out // 2
            self.say(f"(the model reads {self.engine.limit} tokens: the oldest {num_turns} turns are left out)")
        self._reply(message, prompt_ids)

    def _reply(self, message: str, prompt_ids: list[int]) -> None:
        written: list[str] = []
        request = StopRequest()
        try:
            with graceful_stop() as request:
                advice = self._stream(prompt_ids, written, request)
        except KeyboardInterrupt:  # A second Ctrl-C, while one token took long.
            advice = STOPPED
        except UserError as error:
            advice = f"{error}"
            if not written:
                self.say(advice)
                return
        self.conversation.add(message, "".join(written))
        self.write("\n")
        if advice:
            self.say(advice)
        if request.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)

    def _stream(self, prompt_ids: list[int], written: list[str], request: StopRequest) -> str:
        """Write the pieces as they come, noting each in `written`; a line of advice when the reply was cut, or ""."""
        engine = self.engine
        for row in list(engine.rows):  # Left there by a second Ctrl-C, if at all.
            engine.remove(row)
        row = engine.admit(prompt_ids)
        sequence = engine.rows[row]
        with closing(stream_row(engine, row)) as pieces:
            for piece in pieces:
                written.append(piece)
                self.write(piece)
                if request.signal:
                    return STOPPED
        if sequence.finish_reason == "stop":
            return ""
        if len(sequence.output_ids) >= self.sampling.max_new_tokens:
            return f"(cut after {self.sampling.max_new_tokens} tokens; /set max_new_tokens NUMBER changes that)"
        return f"(cut: the model reads {engine.limit} tokens with its reply)"

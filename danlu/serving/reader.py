"""What the user enters, one message or command at a time.

On a terminal prompt_toolkit edits whole characters whatever the terminal's own settings are, and takes what is pasted
as one text. Elsewhere lines are read as bytes. Bytes that are not UTF-8 come through as lone surrogates
(`surrogateescape`), so that the session can say so instead of ending.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Protocol

from danlu.serving.session import FENCE, is_open

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings

PROMPT = "> "


class Reader(Protocol):
    """Where messages come from; `is_terminal` says whether a person sits there."""

    is_terminal: bool

    def read(self) -> str:
        """The next message. Raises EOFError at the end, KeyboardInterrupt for Ctrl-C."""
        ...


def open_reader() -> Reader:
    """The best way to read that standard input, output and the installed packages allow."""
    on_terminal = sys.stdin.isatty() and (sys.stdout.isatty() or sys.stderr.isatty())
    if on_terminal:
        try:
            return EditingReader()
        except ImportError:
            print("(prompt_toolkit is not installed: plain line input)", file=sys.stderr)
    return LineReader(sys.stdin.buffer, is_terminal=sys.stdin.isatty())


class LineReader:
    """Lines of bytes; the terminal's own line editing where there is one."""

    def __init__(self, stream: BinaryIO, is_terminal: bool = False) -> None:
        self.stream, self.is_terminal = stream, is_terminal

    def read(self) -> str:
        """A line, or the lines of a fenced message, without the last line break."""
        lines = [self._line()]
        if lines[0].strip() == FENCE:
            while len(lines) == 1 or lines[-1].strip() != FENCE:
                lines.append(self._line())
        return "\n".join(lines)

    def _line(self) -> str:
        if self.is_terminal:
            print(PROMPT, end="", file=sys.stderr, flush=True)
        line = self.stream.readline()
        if not line:
            raise EOFError
        return line.decode("utf-8", "surrogateescape").removeprefix("\ufeff").rstrip("\r\n")


class EditingReader:
    """A terminal with line editing, history and pastes of several lines. Raises ImportError without prompt_toolkit."""

    is_terminal = True

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output import create_output
        from prompt_toolkit.output.vt100 import Vt100_Output

        output = create_output(always_prefer_tty=True)
        if isinstance(output, Vt100_Output):
            # Terminals that do not answer where the cursor is would be complained about, after two seconds.
            output.enable_cpr = False
        self.session: PromptSession[str] = PromptSession(
            PROMPT, multiline=True, key_bindings=_keys(), prompt_continuation="  ", output=output
        )

    def read(self) -> str:
        """What was entered or pasted before Enter."""
        return self.session.prompt()


def _keys() -> "KeyBindings":
    """Enter sends, unless a fence is open; Alt-Enter begins a new line."""
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        if is_open(event.current_buffer.text):
            event.current_buffer.insert_text("\n")
        else:
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _break_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


IUTF8 = 0x4000
"""The input flag that makes a terminal erase whole characters, on Linux and macOS; `termios` does not name it."""


@contextmanager
def keep_terminal() -> Iterator[None]:
    """Whole characters are erased while inside, and the settings are what they were when it is left."""
    try:
        import termios
    except ImportError:  # Windows: the console keeps no such settings.
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    during = [before[0] | IUTF8, *before[1:]]
    termios.tcsetattr(number, termios.TCSADRAIN, during)
    try:
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)

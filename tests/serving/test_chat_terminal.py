"""`danlu chat` on a real pseudo-terminal (known fault S11), and in a pipe."""

import json
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import pytest

from danlu.serving.reader import IUTF8
from danlu.tokenizer.bpe import Tokenizer

if TYPE_CHECKING:
    from danlu.model.transformer import Transformer

pty = pytest.importorskip("pty")

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("echo_model.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
PASTE_ON = "\x1b[?2004h"
"""What the line editor sends when it waits for a message."""


class Terminal:
    """`danlu chat` with the echo model on a pseudo-terminal that erases bytes, not characters."""

    def __init__(self, tokenizer_folder: Path, *options: str) -> None:
        self.main, self.side = pty.openpty()
        settings = termios.tcgetattr(self.side)
        settings[0] &= ~IUTF8
        termios.tcsetattr(self.side, termios.TCSANOW, settings)
        termios.tcsetwinsize(self.side, (24, 80))
        self.before = termios.tcgetattr(self.side)
        self.waits_with = "> " if "--plain" in options else PASTE_ON
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, tokenizer_folder, *options],
            stdin=self.side, stdout=self.side, stderr=self.side, env=ENVIRONMENT, start_new_session=True,
        )  # fmt: skip
        self.seen = b""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.main)
        os.close(self.side)

    def wait(self, text: str, seconds: float = 60) -> str:
        """What came until `text`, which is taken too."""
        end = time.monotonic() + seconds
        while (wanted := text.encode()) not in self.seen:
            ready = select.select([self.main], [], [], max(0.0, end - time.monotonic()))[0]
            assert ready, f"{text!r} did not come; there was {self.seen.decode('utf-8', 'replace')!r}"
            self.seen += os.read(self.main, 65536)
        came, self.seen = self.seen.split(wanted, 1)
        return came.decode("utf-8", "replace")

    def ready(self) -> str:
        """What came until the next prompt."""
        return self.wait(self.waits_with)

    def send(self, data: bytes) -> None:
        os.write(self.main, data)

    def ask(self, data: bytes) -> str:
        """Send a message and Enter; the reply between its marks, with the terminal's line breaks undone."""
        self.send(data + b"\r")
        self.wait("<<")
        reply = self.wait(">>").replace("\r\n", "\n")
        self.ready()
        return reply

    def show(self) -> list[str]:
        """The contents of the prompt's messages, as the model saw them."""
        self.send(b"show\r")
        self.wait("[{")
        text = "[{" + self.wait("}]") + "}]"
        self.ready()
        return [message["content"] for message in json.loads(text)]

    def end(self) -> int:
        """The exit status; the terminal must be as it was."""
        status = self.process.wait(timeout=30)
        assert termios.tcgetattr(self.side) == self.before, "the terminal's settings were not restored"
        return status


@pytest.fixture(scope="module")
def terminal(tiny_tokenizer_folder: Path) -> Iterator[Terminal]:
    """One chat for the tests below, one after the other; the last ends it."""
    with Terminal(tiny_tokenizer_folder) as terminal:
        banner = terminal.ready()
        assert "/quit" in banner
        yield terminal
        terminal.send(b"\x04")
        assert terminal.end() == 0


def test_one_delete_takes_a_whole_character(terminal: Terminal) -> None:
    assert terminal.ask("能".encode() + b"\x7f" + "好".encode()) == "好"
    assert terminal.ask("a能".encode() + b"\x08" + "好".encode()) == "a好"


def test_bad_bytes_give_one_line_and_a_new_prompt(terminal: Terminal) -> None:
    terminal.send(b"\xe8\x83\r")
    terminal.wait("not UTF-8")
    terminal.ready()
    assert terminal.ask("好".encode()) == "好"


@pytest.mark.parametrize("break_", [b"\r", b"\n", b"\r\n"])
def test_three_pasted_lines_are_one_message(terminal: Terminal, break_: bytes) -> None:
    pasted = break_.join(line.encode() for line in ("一 one", "", "  三"))
    assert terminal.ask(b"\x1b[200~" + pasted + b"\x1b[201~") == "一 one\n\n  三"


def test_fenced_lines_are_one_message(terminal: Terminal) -> None:
    assert terminal.ask(b'"""\rone\rtwo\r"""') == "one\ntwo"


def test_alt_enter_breaks_the_line(terminal: Terminal) -> None:
    assert terminal.ask(b"one\x1b\rtwo") == "one\ntwo"


def test_a_pasted_lone_surrogate_does_not_end_the_chat(terminal: Terminal) -> None:
    terminal.send(b"\x1b[200~a\xed\xa0\xbd\x1b[201~\r")
    terminal.ready()
    assert terminal.ask(b"still here") == "still here"


def test_ctrl_c_at_the_prompt_clears_the_line(terminal: Terminal) -> None:
    terminal.send(b"never sent\x03")
    terminal.ready()
    assert terminal.ask(b"sent") == "sent"
    assert "never sent" not in "".join(terminal.show())


def test_ctrl_c_during_a_reply_keeps_the_conversation_and_the_partial_reply(terminal: Terminal) -> None:
    terminal.send(b"/reset\r")
    terminal.ready()
    terminal.ask("你好".encode())
    terminal.send(b"count\r")
    terminal.wait("0 1 2 3")
    terminal.send(b"\x03")
    terminal.wait("(stopped")
    terminal.ready()
    *turns, partial, last = terminal.show()
    assert (turns, last) == (["你好", "<<你好>>", "count"], "show")
    assert partial.startswith("0 1 2 3")
    assert len(partial) < 1500, "the reply went on after Ctrl-C"


def test_the_terminal_is_restored_after_termination(tiny_tokenizer_folder: Path) -> None:
    with Terminal(tiny_tokenizer_folder) as terminal:
        terminal.ready()
        assert termios.tcgetattr(terminal.side) != terminal.before
        terminal.process.terminate()
        assert terminal.end() == 128 + signal.SIGTERM


def test_without_prompt_toolkit_and_readline_the_same_holds(tiny_tokenizer_folder: Path) -> None:
    with Terminal(tiny_tokenizer_folder, "--plain") as terminal:
        terminal.ready()
        assert terminal.ask("能".encode() + b"\x7f" + "好".encode()) == "好"
        terminal.send(b"\xe8\x83\r")
        terminal.wait("not UTF-8")
        terminal.ready()
        terminal.send(b"never sent\x03")
        terminal.ready()
        assert terminal.ask(b"sent") == "sent"
        terminal.send(b"\x04")
        assert terminal.end() == 0


def test_what_is_typed_while_the_model_loads_is_edited_by_characters_too(tiny_tokenizer_folder: Path) -> None:
    with Terminal(tiny_tokenizer_folder, "--slow") as terminal:
        terminal.wait("(loading)")
        assert terminal.ask("能".encode() + b"\x7f" + "好".encode()) == "好"
        terminal.send(b"/quit\r")
        assert terminal.end() == 0


def test_in_a_pipe_only_the_replies_are_on_standard_output(
    tiny_model: "Callable[..., Transformer]", tiny_tokenizer: Tokenizer, tiny_tokenizer_folder: Path, tmp_path: Path
) -> None:
    from danlu.inference.generate import generate
    from danlu.model.checkpoint import save_model

    model = tiny_model()
    save_model(tmp_path / "model", model, tiny_tokenizer_folder, list(tiny_tokenizer.stop_ids), None)
    wanted = generate(model, tiny_tokenizer, [{"role": "user", "content": "你好"}], temperature=0, max_new_tokens=12)
    command = ["-m", "danlu.cli", "chat", "model", "--temperature", "0", "--max-new-tokens", "12"]
    done = subprocess.run(
        [sys.executable, *command], input="你好\n/quit\n".encode(), capture_output=True, env=ENVIRONMENT, cwd=tmp_path,
        timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout.decode()) == (0, f"{wanted}\n"), done.stderr.decode()
    assert b"/quit" in done.stderr

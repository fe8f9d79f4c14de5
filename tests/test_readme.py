"""Every command of the READMEs is one that the program takes, and the two languages show the same."""

import re
import shlex
from pathlib import Path

import pytest

from danlu.cli import VERBS, read_config, split_verb

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"^    (?:\.venv/bin/)?danlu (.+?)(?:\s{2,}#.*)?$", re.MULTILINE)


def commands(name: str) -> list[str]:
    return COMMAND.findall((ROOT / name).read_text(encoding="utf-8"))


def test_both_languages_show_the_same_commands() -> None:
    english, chinese = commands("README.md"), commands("README.zh.md")
    assert len(english) > 10
    assert english == chinese


@pytest.mark.parametrize("command", commands("README.md"))
def test_a_command_of_the_readme_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    name, rest = split_verb(shlex.split(command))
    assert name is not None, command
    read_config(name, VERBS[name], rest)

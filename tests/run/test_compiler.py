"""Whether kernels can be built is found out before training, and a machine without a compiler trains eager."""

import shutil
import sysconfig
from pathlib import Path

import pytest
import torch

from danlu.run.device import can_compile
from danlu.training.pretrain import compile_or_say_why

CPU = torch.device("cpu")


def test_without_a_compiler_training_is_eager_and_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert compile_or_say_why(True, CPU) is False
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "eager" in said


def test_a_compiler_without_pythons_headers_is_not_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert not can_compile(CPU)
    (tmp_path / "Python.h").touch()
    assert can_compile(CPU)


def test_eager_by_choice_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert compile_or_say_why(False, CPU) is False
    assert capsys.readouterr().err == ""

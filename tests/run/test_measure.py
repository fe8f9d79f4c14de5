"""Time and memory of a stage count interruptions and children."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from danlu.run.measure import SECONDS_BETWEEN_SAMPLES, measured


def test_time_and_memory_are_measured(tmp_path: Path) -> None:
    with measured(tmp_path / "usage.json") as usage:
        time.sleep(0.1)
    assert 0.1 <= usage()["seconds"] < 5
    assert usage()["peak_memory_mb"] > 5


def test_an_interrupted_block_adds_up_with_the_one_that_goes_on(tmp_path: Path) -> None:
    def interrupted() -> None:
        with measured(tmp_path / "usage.json"):
            time.sleep(0.3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    before = json.loads((tmp_path / "usage.json").read_text())
    assert before["seconds"] >= 0.3
    with measured(tmp_path / "usage.json") as usage:
        time.sleep(0.2)
    assert usage()["seconds"] >= before["seconds"] + 0.2
    assert usage()["peak_memory_mb"] >= before["peak_memory_mb"]


def test_the_memory_of_a_child_counts(tmp_path: Path) -> None:
    program = "import time; data = bytearray(b'x') * 200_000_000; print('held', flush=True); time.sleep(60)"
    with measured(tmp_path / "usage.json") as usage:
        before = usage()["peak_memory_mb"]
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(3 * SECONDS_BETWEEN_SAMPLES)
        child.kill()
        child.communicate()
    assert usage()["peak_memory_mb"] > before + 150


def test_an_earlier_peak_is_not_forgotten(tmp_path: Path) -> None:
    (tmp_path / "usage.json").write_text('{"seconds": 100.0, "peak_memory_mb": 99999.0}')
    with measured(tmp_path / "usage.json") as usage:
        pass
    assert usage()["peak_memory_mb"] == 99999.0
    assert usage()["seconds"] >= 100


def test_a_folder_that_goes_away_does_not_hide_the_stages_own_error(tmp_path: Path) -> None:
    def fails() -> None:
        with measured(tmp_path / "stage" / "usage.json"):
            (tmp_path / "stage").rmdir()
            (tmp_path / "stage").write_text("a file stands in the way")
            raise ValueError("its own")

    (tmp_path / "stage").mkdir()
    with pytest.raises(ValueError, match="its own"):
        fails()

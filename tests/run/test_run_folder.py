"""A stage is skipped when complete, done again when its recipe or its input changed, and guards its folder."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from danlu.run.errors import UserError
from danlu.run.folder import is_complete, locked, run_stage


@dataclass(frozen=True, kw_only=True)
class Config:
    """A stage's table."""

    data: Path
    out: Path
    cache: Path = Path("nowhere")
    number: int = 1


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("one")
    return Config(data=tmp_path / "data", out=tmp_path / "run" / "stage")


class Work:
    """Writes a product and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, config: Config) -> Path:
        self.calls += 1
        (config.out / "product").write_text(f"{config.number} {(config.data / 'a.txt').read_text()}")
        return config.out / "product"


def test_a_complete_stage_is_skipped(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    work = Work()
    assert not is_complete(config)
    assert run_stage("try", config, work) == run_stage("try", config, work) == config.out / "product"
    assert work.calls == 1
    assert is_complete(config)
    assert "try: complete, skipped" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["a value", "an input's content", "an input's name", "the product is gone"])
def test_a_stage_is_done_again_when_something_changed(config: Config, change: str) -> None:
    work = Work()
    run_stage("try", config, work)
    (config.out / "left over").write_text("x")
    if change == "a value":
        config = dataclasses.replace(config, number=2)
    elif change == "an input's content":
        (config.data / "a.txt").write_text("two")
    elif change == "an input's name":
        (config.data / "b.txt").write_text("")
    else:
        (config.out / "product").unlink()
    assert not is_complete(config)
    run_stage("try", config, work)
    assert work.calls == 2
    assert is_complete(config)
    assert not (config.out / "left over").exists(), "a new start must not find the old one's files"


def test_moving_a_run_or_its_downloads_does_not_make_it_stale(config: Config, tmp_path: Path) -> None:
    work = Work()
    run_stage("try", config, work)
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "data").rename(tmp_path / "data2")
    moved = Config(data=tmp_path / "data2", out=tmp_path / "moved" / "stage", cache=Path("elsewhere"))
    assert run_stage("try", moved, work) == tmp_path / "moved" / "stage" / "product"
    assert work.calls == 1


def test_an_interrupted_stage_keeps_what_it_has(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    def stops(config: Config) -> Path:
        (config.out / "half").write_text("x")
        raise KeyboardInterrupt

    def goes_on(config: Config) -> Path:
        assert (config.out / "half").exists()
        return Work()(config)

    with pytest.raises(KeyboardInterrupt):
        run_stage("try", config, stops)
    assert not is_complete(config)
    run_stage("try", config, goes_on)
    assert "try: going on where it was interrupted" in capsys.readouterr().err


def test_an_interrupted_stage_with_another_recipe_begins_afresh(config: Config) -> None:
    def stops(config: Config) -> Path:
        (config.out / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage("try", config, stops)
    run_stage("try", dataclasses.replace(config, number=2), Work())
    assert not (config.out / "half").exists()


def test_a_folder_of_other_files_is_refused_and_left_alone(config: Config) -> None:
    config.out.mkdir(parents=True)
    (config.out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files") as error:
        run_stage("try", config, Work())
    assert str(config.out) in str(error.value)
    assert (config.out / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("record", ["{}", "[]", "not json", '{"name": "soup"}'])
def test_a_recipe_that_is_not_ours_does_not_make_the_folder_ours(config: Config, record: str) -> None:
    config.out.mkdir(parents=True)
    (config.out / "recipe.json").write_text(record)
    with pytest.raises(UserError, match="holds other files"):
        run_stage("try", config, Work())
    assert (config.out / "recipe.json").read_text() == record


def test_the_folder_of_another_stage_is_refused_and_its_work_stays(config: Config) -> None:
    run_stage("one", config, Work())
    with pytest.raises(UserError, match="holds other files than those of the stage `two`"):
        run_stage("two", dataclasses.replace(config, number=2), Work())
    assert (config.out / "product").exists()
    assert is_complete(config)


def test_a_kill_before_the_record_of_the_start_was_whole_does_not_block_the_folder(config: Config) -> None:
    config.out.mkdir(parents=True)
    (config.out / ".lock").write_text("")
    (config.out / ".recipe.json.partial").write_text("{")
    run_stage("try", config, Work())
    assert is_complete(config)


def test_a_missing_input_is_named_before_any_work(config: Config, tmp_path: Path) -> None:
    work = Work()
    with pytest.raises(UserError, match="no such file or folder") as error:
        run_stage("try", dataclasses.replace(config, data=tmp_path / "absent"), work)
    assert str(tmp_path / "absent") in str(error.value)
    assert work.calls == 0
    assert not config.out.exists()


def test_the_record_tells_recipe_time_and_memory(config: Config) -> None:
    run_stage("try", config, Work())
    recipe = json.loads((config.out / "recipe.json").read_text())
    assert recipe["stage"] == "try"
    assert recipe["recipe"]["number"] == 1
    stage = json.loads((config.out / "stage.json").read_text())
    assert stage["product"] == "product"
    assert stage["seconds"] >= 0
    assert stage["peak_memory_mb"] > 5


HOLD = """
import sys
from pathlib import Path
from danlu.run.folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_two_programs_in_one_folder_get_one_clear_line(tmp_path: Path) -> None:
    process = hold(tmp_path / "run")
    try:
        with (
            pytest.raises(UserError, match=rf"another danlu \(process {process.pid}\) is working here") as error,
            locked(tmp_path / "run"),
        ):
            raise AssertionError("both hold the folder")
        assert str(tmp_path / "run") in str(error.value)
        assert "\n" not in str(error.value)
    finally:
        process.kill()
        process.communicate()
    with locked(tmp_path / "run"):
        pass  # a killed program leaves no lock behind

"""The command: quick help, one clear line for whatever a user can mend, and exit statuses that scripts can rely on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from danlu import cli
from danlu.run.errors import UserError

ROOT = Path(__file__).parents[2]


def danlu(*words: str, **names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "danlu.cli", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **names},
    )


def one_line(result: subprocess.CompletedProcess[str], status: int = 1) -> str:
    assert result.returncode == status, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("danlu: ")
    assert result.stdout == ""
    return lines[0]


# --- help ---


def test_help_is_quick() -> None:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        result = danlu("--help")
        times.append(time.perf_counter() - started)
        assert result.returncode == 0
    # The best of five: a busy machine is not the command's fault.
    assert min(times) < 0.5, f"danlu --help took {min(times):.2f} s at best"


@pytest.mark.parametrize(
    "words", [["--help"], ["pretrain", "--help"], ["run", "--help"], ["sft", "--help"]], ids=" ".join
)
def test_help_does_not_import_torch(words: list[str]) -> None:
    program = (
        "import sys; from danlu import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'daft', 'transformers', 'grain'} & sys.modules.keys()\n"
        "print(heavy or 'light', file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True)
    assert result.stderr.strip() == "light"
    assert "danlu" in result.stdout


def test_the_help_of_a_verb_lists_every_value_with_default_and_meaning() -> None:
    text = danlu("pretrain", "--help", COLUMNS="200").stdout
    for part in (
        "--step.learning-rate",
        "0.0003",
        "Peak rate of AdamW",
        "--optimizer.beta2",
        "0.95",
        "--model.hidden-size",
    ):
        assert part in text, part


def test_help_lists_every_verb() -> None:
    text = danlu("--help").stdout
    for verb in ("run", "corpus build", "tokenizer train", "pretrain", "sft", "evaluate", "generate", "chat", "report"):
        assert f"  {verb} " in text, verb


def test_importing_the_training_room_prints_nothing() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import danlu.training.pretrain, danlu.training.sft"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# --- mistakes ---


def test_an_unknown_verb_is_named() -> None:
    assert "unknown verb `pretrian`" in one_line(danlu("pretrian"), status=2)
    assert "corpus fetch, corpus build" in one_line(danlu("corpus"), status=2)


def test_a_missing_recipe_and_a_wrong_one_are_one_line(tmp_path: Path) -> None:
    assert "no such recipe" in one_line(danlu("run", str(tmp_path / "absent.toml")))
    recipe = tmp_path / "my.toml"
    recipe.write_text("[pretrain.step]\nlearning_rat = 1e-3\n")
    line = one_line(danlu("run", str(recipe)))
    assert all(part in line for part in (str(recipe), "`pretrain.step.learning_rat`", "Did you mean `learning_rate`?"))
    assert line == one_line(danlu("sft", "--recipe", str(recipe))), "both ways in read the recipe alike"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("pretrain --step.batch-size x", "--step.batch-size: expected an integer, got 'x'"),
        ("pretrain --step.learning-rate fast", "--step.learning-rate: expected a number, got 'fast'"),
        ("pretrain --step.batch-size -3", "--step.batch-size: batch_size must be at least 1, not -3"),
        ("sft --dropout 1.5", "--dropout: dropout must lie in [0, 1), not 1.5"),
        ("tokenizer train --vocab-size 3", "--vocab-size: vocab_size must be at least 464"),
        ("tokenizer train --vocab-siz 3", "--vocab-siz: unknown option. Did you mean --vocab-size"),
        ("tokenizer encode x --special y", "--special: expected one of 'text', 'control', got 'y'"),
        ("pretrain --step.batch-size", "--step.batch-size: needs a value"),
        ("generate", "PATH: missing"),
        ("run recipes/demo.toml --pretrain.step.seed x", "--pretrain.step.seed: expected an integer, got 'x'"),
        ("evaluate x --limit -1", "--limit: limit must be at least 0, not -1"),
        ("generate x --max-new-tokens 0", "--max-new-tokens: max_new_tokens must be at least 1, not 0"),
        ("run recipes/demo.toml --sft.dropout 1.5", "--sft.dropout: dropout must lie in [0, 1), not 1.5"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_flag(
    words: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        cli.main(words.split())
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"danlu: {said}"), printed.err
    assert printed.err.count("\n") == 1
    assert "--help`" in printed.err
    assert printed.out == ""


def test_a_recipe_can_be_joined_by_an_equals_sign_and_is_in_the_help(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = tmp_path / "my.toml"
    recipe.write_text("[sft]\ndropout = 0.25\n")
    verb = cli.VERBS["sft"]
    for words in ([f"--recipe={recipe}"], ["--recipe", str(recipe)], ["--device", "cpu", f"--recipe={recipe}"]):
        assert cli.read_config("sft", verb, words).dropout == 0.25
    for words in (["--recipe"], ["--recipe="], ["--recipe", "--device"]):
        with pytest.raises(UserError, match="--recipe: needs a file"):
            cli.read_config("sft", verb, words)
    with pytest.raises(UserError, match="given twice"):
        cli.read_config("sft", verb, [f"--recipe={recipe}", f"--recipe={recipe}"])
    with pytest.raises(SystemExit):
        cli.main(["sft", "--help"])
    assert "--recipe FILE" in capsys.readouterr().out


def test_an_id_that_does_not_exist_is_one_line(tiny_tokenizer_folder: Path) -> None:
    for wrong in ("999999", "-5"):
        line = one_line(piped(wrong.encode(), "tokenizer", "decode", str(tiny_tokenizer_folder)))
        assert f"no token has the id {wrong}" in line


def test_standard_input_that_is_not_utf8_is_refused(tiny_tokenizer_folder: Path) -> None:
    line = one_line(piped("你好".encode("gb18030"), "tokenizer", "encode", str(tiny_tokenizer_folder)))
    assert "standard input: not UTF-8: byte 0xc4 at offset 0" in line
    assert "iconv" in line


def piped(content: bytes, *words: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([sys.executable, "-m", "danlu.cli", *words], cwd=ROOT, capture_output=True, input=content)
    return subprocess.CompletedProcess(words, result.returncode, result.stdout.decode(), result.stderr.decode())


def test_a_missing_input_is_one_line_and_makes_nothing(tmp_path: Path) -> None:
    line = one_line(danlu("pretrain", "--data", str(tmp_path / "absent"), "--out", str(tmp_path / "out")))
    assert "no such file or folder" in line
    assert not [path for path in tmp_path.rglob("*") if path.name != ".lock" and path.is_file()]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("too small", where="x.txt", mend="Add text"), 1, "danlu: x.txt: too small. Add text"),
        (KeyboardInterrupt(), 130, "danlu: stopped; the same command goes on where this one was"),
        (
            OSError(28, "No space left on device", "/full/x"),
            1,
            "danlu: /full/x: No space left on device. Free some space",
        ),
        (PermissionError(13, "Permission denied", "/here/x"), 1, "danlu: /here/x: Permission denied"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_what_ends_a_command_becomes_one_line_and_a_status(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # a broken pipe takes it away

    def work() -> None:
        raise error

    assert cli.guarded(work) == status
    printed = capsys.readouterr().err
    assert printed.startswith(said)
    assert printed.count("\n") == (1 if said else 0)


def test_an_error_of_ours_is_not_hidden() -> None:
    def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.guarded(work)


def test_control_c_ends_with_130(tmp_path: Path) -> None:
    # A shell starts what it puts into the background with Ctrl-C switched off; the test must not depend on it.
    program = (
        "import signal, sys, time; from danlu import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "print('on', flush=True)\n"
        "sys.exit(cli.guarded(lambda: time.sleep(60)))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "danlu: stopped; the same command goes on where this one was\n"


# --- a full disk ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 600 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "danlu-test", str(folder)]).returncode
    ):
        pytest.skip("a small disk can only be made by root, where mounting is allowed")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_is_one_line_and_finished_work_stays(
    small_disk: Path, tiny_shards: Path, tiny_tokenizer_folder: Path
) -> None:
    """A few checkpoints fill it up; what is there is whole, and with more space the run goes on."""
    words = [
        *("pretrain", "--data", str(tiny_shards), "--tokenizer", str(tiny_tokenizer_folder)),
        *("--out", str(small_disk / "run"), "--device", "cpu", "--model.hidden-size", "32"),
        *("--model.intermediate-size", "48", "--model.num-hidden-layers", "2", "--model.num-attention-heads", "4"),
        *("--model.num-key-value-heads", "4", "--step.no-compile", "--step.no-bf16", "--step.sequence-length", "32"),
        *("--step.batch-size", "2", "--step.micro-batch-size", "2", "--step.max-steps", "10"),
        *("--step.checkpoint-every", "1"),
    ]
    result = danlu(*words)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith(f"danlu: {small_disk}"), line
    assert "No space left on device. Free some space" in line
    whole = [path for path in (small_disk / "run" / "checkpoints").glob("step-*")]
    assert whole, "the checkpoints written before must stay"
    assert all((path / "state.json").exists() for path in whole)
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    result = danlu(*words)
    assert result.returncode == 0, result.stderr
    assert "going on where it was interrupted" in result.stderr

"""Two sides of a benchmark, each a process of its own, that take turns at the same work.

The program starts both sides (`Process`) and lets them go in turn; a side (`Side`) works through its steps and stops
after every turn until it is let go again. Each peer has an environment of its own beside this file (`peer_python`).
Standard library only: peers' environments hold nothing of ours.
"""

import contextlib
import importlib.metadata
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PEERS = Path(__file__).resolve().parent / ".peers"
"""Where the peers' environments are kept unless told otherwise, and the logs of the last run; git ignores it."""

PEER_TRAINER: dict[str, Any] = {
    "use_cpu": True, "gradient_checkpointing": False, "lr_scheduler_type": "constant", "optim": "adamw_torch_fused",
    "adam_beta1": 0.9, "adam_beta2": 0.95, "adam_epsilon": 1e-8, "weight_decay": 0.1,
    "save_strategy": "no", "report_to": "none", "logging_steps": 1, "disable_tqdm": True, "seed": 1,
}  # fmt: skip
"""What the peer's trainers have in common: our optimiser, and nothing done beside the steps."""


def peer_python(requirements: Path, folder: Path) -> Path:
    """The Python of an environment in `folder` with what `requirements` pins; made where there is none or another."""
    folder, wanted = folder / requirements.stem, requirements.read_text(encoding="utf-8")
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if installed.is_file() and installed.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing {requirements.name} into {folder}, once, in some minutes …", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", requirements], check=True, stdout=sys.stderr)
    installed.write_text(wanted, encoding="utf-8")
    return python


def peak_memory() -> int:
    """Most bytes of memory that this process has held."""
    # Linux's ru_maxrss begins at what the parent held when it started this process; VmHWM is the program's own.
    with contextlib.suppress(FileNotFoundError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Let `peak_memory` begin anew at what is held now, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def versions() -> dict[str, str]:
    """What is installed here of the packages that matter."""
    found = {}
    for name in ("torch", "transformers", "trl", "accelerate", "datasets"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def is_side() -> bool:
    """Whether this process was started as a side, with a job, and not by a person."""
    return len(sys.argv) == 2 and sys.argv[1].endswith(".json")


class Side:
    """The end of the line in the process that works; its file is started with the path of a JSON file, the job."""

    def __init__(self) -> None:
        # What libraries print goes to the log: this line is for answers alone.
        self.line = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self.job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        self.records: list[dict[str, float]] = []
        self.started = self.cpu_started = 0.0

    def ready(self, threads: int, **answer: Any) -> None:
        """Everything is set up; the next step is the first. All of it goes to the program."""
        self._answer({"threads": threads, "versions": versions(), **answer})

    def step_done(self, **figures: float) -> None:
        """Note a step's figures; at the end of a turn answer with them and wait."""
        self.records.append(figures)
        if len(self.records) == self.job["steps"]:
            self._answer({
                "seconds": time.perf_counter() - self.started,
                "cpu_seconds": time.process_time() - self.cpu_started,
                "peak_memory": peak_memory(),
                "steps": self.records,
            })  # fmt: skip

    def _answer(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=self.line, flush=True)
        if not sys.stdin.readline():
            # The program has seen enough.
            os._exit(0)
        self.records, self.started, self.cpu_started = [], time.perf_counter(), time.process_time()


class Process:
    """The end of the line in the program: a side, set up and waiting. `answer` is what it said when it was ready."""

    def __init__(self, name: str, python: Path | str, file: Path, job: dict[str, Any]) -> None:
        folder = PEERS / "jobs"
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        path, self.log = folder / f"{file.stem}-{name}.json", folder / f"{file.stem}-{name}.log"
        path.write_text(json.dumps(job), encoding="utf-8")
        print(f"starting {file.name} for {name} …", file=sys.stderr)
        environment = dict(os.environ)
        if python != sys.executable:
            # A peer sees the packages of its own environment and no others.
            environment.pop("PYTHONPATH", None)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, file, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                encoding="utf-8", env=environment,
            )  # fmt: skip
        self.answer = self._read()

    def turn(self) -> dict[str, Any]:
        """Let the side go for one turn; its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._read()

    def end(self) -> None:
        """Let the side end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            last = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            raise SystemExit("\n".join([*last, f"{self.name} has ended early; all it said is in {self.log}"]))
        answer: dict[str, Any] = json.loads(line)
        return answer


def take_turns(sides: Sequence[Process], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """The answers of each side, by name, to `rounds` turns, one side's after the other's."""
    answers: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for number in range(1, rounds + 1):
        for side in sides:
            answer = side.turn()
            answers[side.name].append(answer)
            print(f"round {number} of {rounds}: {side.name} {answer['seconds']:.2f} s", file=sys.stderr)
    for side in sides:
        side.end()
    return answers


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def settings_of(config: Any) -> dict[str, Any]:
    """The values of a benchmark's dataclass but its paths."""
    return {name: value for name, value in vars(config).items() if not isinstance(value, Path | None)}


def mean_cpu_seconds(turns: Mapping[str, Sequence[Mapping[str, Any]]], warm_up: int) -> dict[str, float]:
    """CPU seconds of a turn on average, by side, those to warm up left out."""
    return {name: statistics.fmean(answer["cpu_seconds"] for answer in own[warm_up:]) for name, own in turns.items()}


def report(figures: Mapping[str, Any], path: Path | None) -> None:
    """The figures as JSON, printed and where asked written."""
    text = json.dumps(figures, indent=2)
    print(text)
    if path:
        path.write_text(text + "\n", encoding="utf-8")

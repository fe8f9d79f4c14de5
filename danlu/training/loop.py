"""The loop that every training stage drives: steps, metrics, checkpoints, resuming, stopping; and the job of most of
them, which is to follow the gradient of a loss over batches."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from danlu.run.device import keep_freed_memory
from danlu.run.errors import UserError
from danlu.run.interrupt import graceful_stop
from danlu.run.metrics import MetricsLog
from danlu.run.progress import ProgressBar
from danlu.run.seeds import derive_seed
from danlu.training.checkpoint import load_checkpoint, save_checkpoint
from danlu.training.config import StepConfig
from danlu.training.loader import Prefetched
from danlu.training.optimizer import set_learning_rate
from danlu.training.optimizer_config import OptimizerConfig
from danlu.training.step import LossOf, accumulate_gradients, clip_and_step

MAX_SKIPPED = 10
"""Steps in a row with a gradient that is not finite before the run gives up. Our choice: a spike passes, a broken run
does not."""


class Job(Protocol):
    """What `drive` does step by step. The weights and the optimisers' state are saved by `drive`, the rest is
    `state()`."""

    steps: int
    """Steps done."""
    max_steps: int

    def step(self) -> dict[str, float]:
        """Do one step; its record for the metrics."""
        ...

    def is_done(self) -> bool: ...
    def state(self) -> dict[str, Any]:
        """All that a resumed run needs beside weights and optimisers, as JSON values."""
        ...

    def restore(self, saved: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


def drive(
    job: Job,
    name: str,
    out: Path,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    checkpoint_every: int,
    shown: tuple[str, ...],
) -> None:
    """Step `job` to its end, from the newest checkpoint in `out` if any; `shown` are the figures beside the bar.

    Raises KeyboardInterrupt after a requested stop, when all is saved.
    """
    keep_freed_memory()
    saved = load_checkpoint(out / "checkpoints", model, optimizers)
    if saved:
        job.restore(saved)
    metrics = MetricsLog(out / "metrics.jsonl", resume_step=job.steps)
    try:
        with ProgressBar(name, job.max_steps, "steps", done=job.steps) as bar, graceful_stop() as stop:
            while not job.is_done():
                record = job.step()
                metrics.write(record)
                bar.advance(1, **{key: record[key] for key in shown})
                if stop.signal or job.steps % checkpoint_every == 0 or job.is_done():
                    save_checkpoint(out / "checkpoints", job.steps, model, optimizers, job.state())
                if stop.signal:
                    raise KeyboardInterrupt
    finally:
        metrics.close()
        job.close()


@dataclass(kw_only=True)
class Loop:
    """What one training run consists of. `updates` counts optimiser updates, which the schedule follows; `steps` counts
    batches, which the data follows; they differ by the steps skipped for a gradient that was not finite."""

    name: str
    out: Path
    model: nn.Module
    loss_function: LossOf
    optimizers: list[torch.optim.Optimizer]
    batches: Prefetched
    config: StepConfig
    optimizer_config: OptimizerConfig
    max_steps: int
    rate_factor: Callable[[int], float]
    """Share of the peak rate at an update."""
    validate: Callable[[], dict[str, float]] | None = None
    """Figures logged every `validate_every` steps and at the end."""
    validate_every: int = 1
    more_figures: Callable[[], dict[str, float]] | None = None
    """What the loss function has seen in the step just done, logged with it."""
    flops_per_token: float = 0.0
    peak_flops: float = math.inf
    steps: int = 0
    updates: int = 0
    skipped: int = 0
    targets: int = 0

    def run(self) -> None:
        """Train to `max_steps`, from the newest checkpoint if any. KeyboardInterrupt after a requested stop."""
        shown = ("loss", "tokens_per_s")
        drive(self, self.name, self.out, self.model, self.optimizers, self.config.checkpoint_every, shown)

    def is_done(self) -> bool:
        return self.steps >= self.max_steps

    def state(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in ("updates", "skipped", "targets")}
        return {**counts, "batches": self.batches.state()}

    def restore(self, saved: dict[str, Any]) -> None:
        self.steps = saved["step"]
        self.updates, self.skipped, self.targets = saved["updates"], saved["skipped"], saved["targets"]
        self.batches.restore(saved["batches"])

    def close(self) -> None:
        self.batches.close()

    def step(self) -> dict[str, float]:
        record = self._update(next(self.batches))
        if self.validate and (self.steps % self.validate_every == 0 or self.is_done()):
            record.update({f"validation/{key}": value for key, value in self.validate().items()})
        return record

    def _update(self, micro_batches: list[Any]) -> dict[str, float]:
        """One optimiser step and its record for the metrics."""
        started = time.perf_counter()
        device = next(self.model.parameters()).device
        factor = self.rate_factor(self.updates)
        set_learning_rate(self.optimizers, self.optimizer_config, self.config.learning_rate, factor)
        self.model.train()
        loss, num_targets = accumulate_gradients(
            self.loss_function,
            [batch.to(device) for batch in micro_batches],
            # The state of the random generator is never saved: each micro-batch has a seed of its own.
            before_each=lambda index: _seed(derive_seed(self.config.seed, "dropout", self.steps, index)),
        )
        norm = clip_and_step(self.model.parameters(), self.optimizers, self.optimizer_config.max_grad_norm)
        self.steps += 1
        self.targets += num_targets
        self.skipped = count_skipped(self.skipped, norm, self.steps, self.out)
        self.updates += not self.skipped
        seconds = time.perf_counter() - started
        tokens = sum(batch.input_ids.numel() for batch in micro_batches)
        return {
            "step": self.steps,
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": self.config.learning_rate * factor,
            "targets": num_targets,
            "tokens_per_s": tokens / seconds,
            "targets_per_s": num_targets / seconds,
            "mfu": self.flops_per_token * tokens / seconds / self.peak_flops,
            **(self.more_figures() if self.more_figures else {}),
        }


def count_skipped(skipped: int, norm: float, step: int, out: Path) -> int:
    """Steps in a row, `step` the last, whose gradient's norm was not finite, `skipped` of them before it. UserError for
    too many."""
    if math.isfinite(norm):
        return 0
    if skipped + 1 >= MAX_SKIPPED:
        raise UserError(
            f"the gradient was not finite in {skipped + 1} steps in a row, up to step {step}",
            where=out,
            mend="Lower learning_rate, or look at the data of these steps",
        )
    return skipped + 1


def _seed(seed: int) -> None:
    torch.manual_seed(seed)

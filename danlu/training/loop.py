"""The loop that every training stage drives: steps, metrics, validation, checkpoints, resuming, stopping."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.model.transformer import Transformer
from danlu.run.device import keep_freed_memory
from danlu.run.errors import UserError
from danlu.run.interrupt import graceful_stop
from danlu.run.metrics import MetricsLog
from danlu.run.progress import ProgressBar
from danlu.run.seeds import derive_seed
from danlu.training.checkpoint import load_checkpoint, save_checkpoint
from danlu.training.config import StepConfig
from danlu.training.loader import Batches
from danlu.training.optimizer import set_learning_rate
from danlu.training.optimizer_config import OptimizerConfig
from danlu.training.step import LossFunction, accumulate_gradients, clip_and_step

MAX_SKIPPED = 10
"""Steps in a row with a gradient that is not finite before the run gives up. Our choice: a spike passes, a broken run
does not."""


@dataclass(kw_only=True)
class Loop:
    """What one training run consists of. `updates` counts optimiser updates, which the schedule follows; `steps` counts
    batches, which the data follows; they differ by the steps skipped for a gradient that was not finite."""

    name: str
    out: Path
    model: Transformer
    loss_function: LossFunction
    optimizers: list[torch.optim.Optimizer]
    batches: Batches
    config: StepConfig
    optimizer_config: OptimizerConfig
    max_steps: int
    rate_factor: Callable[[int], float]
    """Share of the peak rate at an update."""
    validate: Callable[[], dict[str, float]] | None = None
    """Figures logged every `validate_every` steps and at the end."""
    validate_every: int = 1
    flops_per_token: float = 0.0
    peak_flops: float = math.inf
    steps: int = 0
    updates: int = 0
    skipped: int = 0
    targets: int = 0

    def run(self) -> None:
        """Train to `max_steps`, from the newest checkpoint if any. KeyboardInterrupt after a requested stop."""
        keep_freed_memory()
        saved = load_checkpoint(self.out / "checkpoints", self.model, self.optimizers)
        if saved:
            self.steps, self.updates, self.targets = saved["step"], saved["updates"], saved["targets"]
            self.skipped = saved["skipped"]
            self.batches.restore(saved["batches"])
        metrics = MetricsLog(self.out / "metrics.jsonl", resume_step=self.steps)
        try:
            with (
                ProgressBar(self.name, self.max_steps, "steps", done=self.steps) as bar,
                graceful_stop() as stop,
            ):
                steps = iter(self.batches)
                while self.steps < self.max_steps:
                    record = self._step(next(steps))
                    if self.validate and (self.steps % self.validate_every == 0 or self.steps == self.max_steps):
                        record.update({f"validation/{key}": value for key, value in self.validate().items()})
                    metrics.write(record)
                    bar.advance(1, loss=record["loss"], tokens_per_s=round(record["tokens_per_s"]))
                    if stop.signal or self.steps % self.config.checkpoint_every == 0 or self.steps == self.max_steps:
                        self._save()
                    if stop.signal:
                        raise KeyboardInterrupt
        finally:
            metrics.close()
            self.batches.close()

    def _step(self, micro_batches: list[Any]) -> dict[str, float]:
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
        self._count(norm)
        seconds = time.perf_counter() - started
        tokens = sum(batch.input_ids.numel() for batch in micro_batches)
        return {
            "step": self.steps,
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": self.config.learning_rate * factor,
            "targets": num_targets,
            "tokens_per_s": tokens / seconds,
            "mfu": self.flops_per_token * tokens / seconds / self.peak_flops,
        }

    def _count(self, norm: float) -> None:
        if math.isfinite(norm):
            self.updates, self.skipped = self.updates + 1, 0
            return
        self.skipped += 1
        if self.skipped >= MAX_SKIPPED:
            raise UserError(
                f"the gradient was not finite in {self.skipped} steps in a row, up to step {self.steps}",
                where=self.out,
                mend="Lower learning_rate, or look at the data of these steps",
            )

    def _save(self) -> None:
        state = {
            "updates": self.updates,
            "skipped": self.skipped,
            "targets": self.targets,
            "batches": self.batches.state(),
        }
        save_checkpoint(self.out / "checkpoints", self.steps, self.model, self.optimizers, state)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)

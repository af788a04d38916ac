"""Progress of training and testing: one bar on a terminal, one line for each epoch in a file."""

from __future__ import annotations

import logging
import math
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.progress import Progress, TaskID

from maskvos.text import progress_bar

log = logging.getLogger(__name__)


class ProgressLine(ProgressBar):
    """Bars with steps of all steps for training, frames of all frames for validation and test, and the time left.

    Where the output is not a terminal, each epoch logs one line instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown = True
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._begin = 0.0

    def disable(self) -> None:
        """Show nothing, as in all processes but the first."""
        self._shown = False

    def enable(self) -> None:
        """Show progress again."""
        self._shown = True

    # ---------------------------------------------------------------- training

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the bar over all steps; a resumed training starts where it was."""
        self._start("train", "training", trainer.estimated_stepping_batches, "steps", trainer.global_step)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time."""
        self._begin = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance, and show the loss and the last score."""
        if self._bar is not None and not self._bar.disable:
            about = f"{_epoch(trainer)}{_numbers(trainer)}"
            self._bar.update(self._tasks["train"], completed=trainer.global_step, description=about)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch where there is no bar."""
        if self._shown and (self._bar is None or self._bar.disable):
            took = timedelta(seconds=round(time.monotonic() - self._begin))
            log.info("%s, step %d, %s%s", _epoch(trainer), trainer.global_step, took, _numbers(trainer))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the bar."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End the bar."""
        self._stop()

    # ---------------------------------------------------------------- validation and test

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a bar below that of the training."""
        if not trainer.sanity_checking:
            self._start("val", "validating", _frames(trainer.val_dataloaders, trainer.num_val_batches), "frames")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the frames of a batch."""
        self._advance("val", len(batch["video"]) * trainer.world_size)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar."""
        if self._bar is not None and "val" in self._tasks:
            self._bar.remove_task(self._tasks.pop("val"))

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the bar."""
        self._start("test", "testing", _frames(trainer.test_dataloaders, trainer.num_test_batches), "frames")

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the frames of a batch; the bar ends with the last, before the scores are printed."""
        self._advance("test", len(batch["video"]) * trainer.world_size)
        if batch_idx + 1 == trainer.num_test_batches[dataloader_idx]:
            self._stop()

    def _start(self, name: str, about: str, total: float, unit: str, done: int = 0) -> None:
        if self._bar is None:
            self._bar = progress_bar(shown=self._shown)
            self._bar.start()
        known = total if math.isfinite(total) and total > 0 else None
        self._tasks[name] = self._bar.add_task(about, total=known, completed=done, unit=unit)

    def _advance(self, name: str, count: int) -> None:
        if self._bar is not None and name in self._tasks:
            self._bar.advance(self._tasks[name], count)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar, self._tasks = None, {}


def _epoch(trainer: pl.Trainer) -> str:
    of = f"/{trainer.max_epochs}" if trainer.max_epochs not in (None, -1) else ""
    return f"epoch {trainer.current_epoch + 1}{of}"


def _numbers(trainer: pl.Trainer) -> str:
    """Loss and last validation score, as far as there are any."""
    shown = {"train/loss": "loss", "val/jf": "J&F"}
    metrics = trainer.progress_bar_metrics
    return "".join(f", {title} {float(metrics[name]):.3f}" for name, title in shown.items() if name in metrics)


def _frames(loaders: Any, batches: Any) -> float:
    """Number of frames in a limited number of batches of a data loader."""
    count = sum(batches) if isinstance(batches, list) else batches
    if loaders is None or not math.isfinite(count):
        return math.inf
    return min(len(loaders.dataset), count * (loaders.batch_size or 1))

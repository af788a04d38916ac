"""Checkpoint callbacks: the best and the last, also when training is interrupted, and none after a loss of NaN."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from maskvos.errors import UserError, nearest
from maskvos.settings.table import check_settings
from maskvos.training.resume import LAST

log = logging.getLogger(__name__)


class NotFiniteError(UserError):
    """The loss is not finite, and so the weights are invalid."""


class FiniteLoss(Callback):
    """Ends the training when the loss is not finite, before such weights are saved.

    The loss is looked at every ``trainer.log_every_n_steps`` steps and before every checkpoint, since looking at it
    makes a GPU wait.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None  # the first step with a non-finite loss, or -1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the step, and look if due.

        Raises:
            NotFiniteError: The loss was not finite.
        """
        loss = outputs["loss"].detach()
        first = torch.full_like(loss, -1) if self._first is None else self._first
        self._first = torch.where((first < 0) & ~loss.isfinite(), torch.full_like(first, trainer.global_step), first)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every > 0 and trainer.global_step % every == 0:
            self._check()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to save weights after a non-finite loss.

        Raises:
            NotFiniteError: The loss was not finite.
        """
        self._check()

    def _check(self) -> None:
        if self._first is not None and (step := int(self._first)) >= 0:
            raise NotFiniteError(
                f"the loss is not finite since step {step}; the last checkpoint is older and sound: resume from it "
                "(ckpt_path=last) with trainer.precision=32-true or trainer.gradient_clip_val=1, or start again with a "
                "smaller optim.lr"
            )


class BestCheckpoint(ModelCheckpoint):
    """Saves the best checkpoint by a validation score; resuming in another folder copies the best so far into it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint, and copy the best file so far if the folder has changed."""
        best, score = Path(state_dict["best_model_path"]), state_dict["best_model_score"]
        if state_dict["dirpath"] != self.dirpath and best.is_file():
            target = Path(str(self.dirpath)) / best.name
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_suffix(".part")
            shutil.copyfile(best, part)
            part.replace(target)
            moved = {"dirpath": self.dirpath, "best_model_path": str(target), "kth_best_model_path": str(target)}
            state_dict = {**state_dict, **moved, "best_k_models": {str(target): score}, "kth_value": score}
        super().load_state_dict(state_dict)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if this is the best score.

        Raises:
            UserError: The protocol does not compute the monitored score.
        """
        scores = [name for name in trainer.callback_metrics if name.startswith("val/")]
        if not trainer.sanity_checking and self.monitor not in scores:
            raise UserError(
                f"callbacks.best.monitor={self.monitor}: the protocol does not compute this score; "
                f"{nearest(str(self.monitor), scores)} (with mode=min if lower is better)"
            )
        super().on_validation_end(trainer, pl_module)


class LastCheckpoint(Checkpoint):
    """Saves ``last.ckpt`` after every epoch, on interruption, and optionally within epochs.

    Ctrl-C takes effect at the end of the current step or validation batch, so that the training can be resumed exactly
    and no library is interrupted where it must not be; a second Ctrl-C takes effect immediately, and saves nothing.
    SIGTERM, which clusters send, is handled in the same way, with exit status 143; in trainings of several processes
    Lightning handles it.

    Args:
        dirpath: Folder of the checkpoints.
        every_n_steps: Also save every n optimiser steps; None: disabled.
        every_minutes: Also save every n minutes; None: disabled.

    Raises:
        UserError: An interval is not positive.
    """

    def __init__(self, dirpath: str | Path, every_n_steps: int | None = None, every_minutes: float | None = None):
        check_settings({"every_n_steps": every_n_steps, "every_minutes": every_minutes}, "callbacks.last")
        self.path = Path(dirpath) / f"{LAST}.ckpt"
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self._saved = self._step = 0
        self._time = time.monotonic()
        self._within_step, self._begun = False, 0
        self._signal: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the intervals, and handle signals until Lightning restores its handlers."""
        self._saved = self._step = trainer.global_step
        self._time = time.monotonic()
        self._signal = None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._interrupt)
            if trainer.world_size == 1:
                signal.signal(signal.SIGTERM, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        again, self._signal = self._signal is not None, number
        if again:
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is not None:
            raise SystemExit(128 + self._signal)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop if a signal has asked for it."""
        self._stop_if_asked()

    def on_validation_batch_start(self, *given: Any) -> None:
        """Stop if a signal has asked for it."""
        self._stop_if_asked()

    def on_validation_batch_end(self, *given: Any) -> None:
        """Stop if a signal has asked for it."""
        self._stop_if_asked()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop if a signal has asked for it, else mark the start of a step."""
        self._stop_if_asked()
        self._within_step, self._begun = True, trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if due, except during gradient accumulation and before the end of the epoch, which saves itself."""
        self._within_step = False
        self._stop_if_asked()
        if trainer.global_step == self._step or trainer.is_last_batch:
            return
        self._step = trainer.global_step
        due = self.every_n_steps is not None and self._step % self.every_n_steps == 0
        if self.every_minutes is not None:
            late = time.monotonic() - self._time >= 60 * self.every_minutes
            due = trainer.strategy.broadcast(late) or due  # all processes must save together
        if due:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after an epoch, including its validation; stop if a signal has asked for it."""
        self._save(trainer)
        self._stop_if_asked()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save an interrupted training if it has advanced since the last checkpoint, unless within a step."""
        if trainer.state.fn != TrainerFn.FITTING or isinstance(exception, NotFiniteError):
            return
        if self._within_step and trainer.global_step == self._begun:  # the optimiser has not finished
            log.warning("stopped within step %d: nothing saved since step %d", trainer.global_step + 1, self._saved)
        elif trainer.global_step > self._saved:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        trainer.save_checkpoint(self.path)
        self._saved, self._time = trainer.global_step, time.monotonic()

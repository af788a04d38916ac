"""What happens around the steps: progress, checkpoints, pictures for the loggers."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import FSDPStrategy
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only

from maskvos.errors import UserError, nearest
from maskvos.flow.codec import flow_to_rgb
from maskvos.media.draw import contact_sheet
from maskvos.media.images import write_image
from maskvos.metrics.video import VideoMetric
from maskvos.training.loggers import WandbLogger
from maskvos.training.resume import LAST, WANDB_ID


class Progress(TQDMProgressBar):
    """Progress bars with time left, counting batches in training and frames per second in prediction."""

    def init_predict_tqdm(self) -> Tqdm:
        """A bar that counts frames: a stream of video has no known number of batches."""
        bar = super().init_predict_tqdm()
        bar.unit = "frame"
        return bar

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the frames of a batch; the bar itself takes care not to be drawn too often."""
        self.predict_progress_bar.update(len(batch["frame"]))


class BestCheckpoint(ModelCheckpoint):
    """The best checkpoint by a validation score; a training resumed in another folder takes the best so far along."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state in a checkpoint, with a copy of the file that was best then."""
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
        """Save if this is the best.

        Raises:
            UserError: The protocol gives no score of the name that is to be watched.
        """
        scores = [name for name in trainer.callback_metrics if name.startswith("val/")]
        if not trainer.sanity_checking and self.monitor not in scores:
            raise UserError(
                f"callbacks.best.monitor={self.monitor}: the protocol gives no such score; "
                f"{nearest(str(self.monitor), scores)} (mode=min where less is better)"
            )
        super().on_validation_end(trainer, pl_module)


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``: after every epoch, when interrupted, and every so often within an epoch.

    Ctrl-C waits for the end of a step that has begun, because half a step cannot be gone on with exactly; a second
    one does not wait.

    Args:
        dirpath: The folder of the checkpoints.
        every_n_steps: Also after every so many optimiser steps; None: not by steps.
        every_minutes: Also every so many minutes; None: not by time.

    Raises:
        UserError: A number is not above 0.
    """

    def __init__(self, dirpath: str | Path, every_n_steps: int | None = None, every_minutes: float | None = None):
        for name, value in {"every_n_steps": every_n_steps, "every_minutes": every_minutes}.items():
            if value is not None and value <= 0:
                raise UserError(f"callbacks.last.{name} is {value}; it must be above 0, or null for never")
        self.path = Path(dirpath) / f"{LAST}.ckpt"
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self._saved = self._step = 0
        self._time = time.monotonic()
        self._within_step = self._interrupted = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from here, and look after Ctrl-C until Lightning puts the handlers back."""
        self._saved = self._step = trainer.global_step
        self._time = time.monotonic()
        self._interrupted = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self._interrupted or not self._within_step:
            raise KeyboardInterrupt
        self._interrupted = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A step begins."""
        self._within_step = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time to; not amid accumulated gradients, nor where the epoch's end is about to save."""
        self._within_step = False
        if self._interrupted:
            raise KeyboardInterrupt
        if trainer.global_step == self._step or trainer.is_last_batch:
            return
        self._step = trainer.global_step
        due = self.every_n_steps is not None and self._step % self.every_n_steps == 0
        if self.every_minutes is not None:
            late = time.monotonic() - self._time >= 60 * self.every_minutes
            due = trainer.strategy.broadcast(late) or due  # saving takes all processes
        if due:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the finished epoch, its validation included."""
        self._save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save what an interrupted training has reached beyond the last checkpoint."""
        if trainer.state.fn == TrainerFn.FITTING and trainer.global_step > self._saved:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        trainer.save_checkpoint(self.path)
        self._saved, self._time = trainer.global_step, time.monotonic()


class StepSeed(Callback):
    """Draws the randomness of every training step (dropout, stochastic depth) from the seed and the step's number.

    A resumed training thereby goes on exactly, whatever was drawn before it was interrupted, on any number of
    processes, and how often one validates changes nothing.

    Args:
        seed: The run's seed; None: whatever the generators give.
    """

    def __init__(self, seed: int | None):
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed torch's generators, on all devices."""
        if self.seed is not None:
            place = (self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
            torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))


class Vitals(Callback):
    """Logs, every ``trainer.log_every_n_steps``: the gradient's norm before clipping, images per second, GPU memory.

    Images per second are those of all processes, loading included and validation not. The norm is left out where the
    strategy shards the gradients.
    """

    def __init__(self) -> None:
        self._images = 0
        self._start: float | None = None

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log the norm over all parameters."""
        if not _due(trainer, trainer.global_step + 1) or isinstance(trainer.strategy, FSDPStrategy):
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        pl_module.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the clock stand still until the first batch has come."""
        self._start = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the clock stand still."""
        self._start = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and log if it is time to."""
        now = time.perf_counter()
        if self._start is None:  # the first batch waits for the loader to start, and for what compiles
            self._start, self._images = now, 0
            return
        self._images += len(batch["video"]) * trainer.world_size
        if not _due(trainer, trainer.global_step):
            return
        pl_module.log("train/images_per_second", self._images / (now - self._start), batch_size=1)
        self._start, self._images = now, 0
        if pl_module.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
            pl_module.log("train/gpu_memory_gib", peak, batch_size=1, reduce_fx="max")


def _due(trainer: pl.Trainer, step: int) -> bool:
    """Whether Lightning writes down what this optimiser step logs."""
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and step % every == 0


class Dashboard(Callback):
    """Gives wandb and tensorboard the scores of the sequences, and lets a resumed training keep its wandb run."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log val/sequences."""
        if not trainer.sanity_checking:
            self._log_sequences(trainer, cast(VideoMetric, pl_module.val_metric), "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log test/sequences."""
        self._log_sequences(trainer, cast(VideoMetric, pl_module.test_metric), "test")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let the run's id travel in the checkpoint."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and logger.version is not None:
                checkpoint[WANDB_ID] = str(logger.version)

    def _log_sequences(self, trainer: pl.Trainer, metric: VideoMetric, stage: str) -> None:
        if not any(isinstance(logger, WandbLogger | TensorBoardLogger) for logger in trainer.loggers):
            return
        summary = metric.summary()  # takes all processes
        if not trainer.is_global_zero or not summary.overall:
            return
        columns = ["sequence", "frames", *summary.overall]
        rows = [[s.name, s.frames, *(s.values.get(m) for m in summary.overall)] for s in summary.sequences]
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table(f"{stage}/sequences", columns, rows, step=trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                text = markdown_table(columns, rows)
                logger.experiment.add_text(f"{stage}/sequences", text, trainer.global_step)


def markdown_table(columns: list[str], rows: list[list[Any]]) -> str:
    """A table as Markdown; numbers with four decimals, nothing for None."""

    def cell(value: Any) -> str:
        return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)

    lines = [columns, ["---"] * len(columns), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class ImagePanels(Callback):
    """Shows the same few validation frames after every epoch: frame | flow | truth | prediction.

    The pictures go to wandb (with the masks as layers) and tensorboard where these are used, and always to
    ``<run folder>/panels/epoch_000.png``.

    Args:
        count: How many frames, spread evenly over the validation batches.
    """

    def __init__(self, count: int = 4):
        self.count = count
        self.rows: list[dict[str, Any]] = []

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last epoch's frames."""
        self.rows = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first frame of every n-th `Batch`; ``outputs`` are its logits (B, 1, H, W)."""
        batches = int(trainer.num_val_batches[dataloader_idx])
        if trainer.sanity_checking or len(self.rows) >= self.count or batch_idx % max(1, batches // self.count):
            return
        truth = batch["mask"][0, 0].cpu().numpy() > 0 if "mask" in batch else None
        self.rows.append(
            {
                "name": f"{batch['video'][0]}/{batch['frame'][0]}",
                "rgb": (batch["rgb"][0].float().permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8),
                "flow": flow_to_rgb(batch["flow"][0].float().permute(1, 2, 0).cpu().numpy()),
                "truth": truth,
                "prediction": outputs[0, 0].float().cpu().numpy() > 0,
            }
        )

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the frames and hand them to the loggers."""
        if not self.rows:
            return
        sheet = contact_sheet([{k: row[k] for k in ("rgb", "flow", "truth", "prediction")} for row in self.rows])
        folder = Path(trainer.default_root_dir) / "panels"
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"epoch_{trainer.current_epoch:03d}.png", sheet)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("val/panels", sheet, trainer.global_step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image("val/panels", [sheet], step=trainer.global_step)
                self._log_masks(logger, trainer.global_step)

    def _log_masks(self, logger: WandbLogger, step: int) -> None:
        """The frames with their masks as layers, which the dashboard can switch on and off."""
        labels = {0: "background", 1: "object"}

        def layers(row: dict[str, Any]) -> dict[str, Any]:
            kinds = {"prediction": row["prediction"], "truth": row["truth"]}
            return {
                kind: {"mask_data": mask.astype(np.uint8), "class_labels": labels}
                for kind, mask in kinds.items()
                if mask is not None
            }

        images, captions = [row["rgb"] for row in self.rows], [row["name"] for row in self.rows]
        logger.log_image("val/masks", images, step=step, caption=captions, masks=[layers(row) for row in self.rows])

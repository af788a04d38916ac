"""Callbacks for step seeds, throughput and gradient norm, and for tables and images in the loggers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import FSDPStrategy
from pytorch_lightning.utilities import rank_zero_only

from maskvos.flow.colours import flow_to_rgb
from maskvos.media.draw import contact_sheet
from maskvos.media.images import write_image
from maskvos.metrics.video import VideoMetric
from maskvos.text import markdown_table
from maskvos.training.loggers import WandbLogger
from maskvos.training.resume import WANDB_ID


class StepSeed(Callback):
    """Seeds the random generators before every training step (dropout, stochastic depth) from the seed and the step.

    Training can thus be resumed exactly from any step, and does not depend on how often validation runs.

    Args:
        seed: Seed of the run; None: do not seed.
    """

    def __init__(self, seed: int | None):
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the generators of torch on all devices."""
        if self.seed is not None:
            entropy = (self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
            torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))


class TrainingMonitor(Callback):
    """Logs gradient norm before clipping, images per second and peak GPU memory, every ``trainer.log_every_n_steps``.

    Images per second count all processes, and include data loading but not validation. The norm is not logged if the
    strategy shards the gradients.
    """

    def __init__(self) -> None:
        self._images = 0
        self._start: float | None = None

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log the gradient norm over all parameters."""
        if not _due(trainer, trainer.global_step + 1) or isinstance(trainer.strategy, FSDPStrategy):
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        pl_module.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock until the first batch is done."""
        self._start = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock during validation."""
        self._start = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images, and log if due."""
        now = time.perf_counter()
        if self._start is None:  # the first batch includes loader start-up and compilation
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
    """Whether Lightning passes values logged in this optimiser step to the loggers."""
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and step % every == 0


class Dashboard(Callback):
    """Logs scores per sequence to wandb and TensorBoard, and stores the wandb run id for resuming."""

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
        """Store the id of the wandb run in the checkpoint."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and logger.version is not None:
                checkpoint[WANDB_ID] = str(logger.version)

    def _log_sequences(self, trainer: pl.Trainer, metric: VideoMetric, stage: str) -> None:
        if not any(isinstance(logger, WandbLogger | TensorBoardLogger) for logger in trainer.loggers):
            return
        summary = metric.summary()  # gathers from all processes
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


class ImagePanels(Callback):
    """Logs images of a few fixed validation frames after every epoch: frame, flow, ground truth and prediction.

    They are written to ``<run folder>/panels/epoch_000.png``, and logged to wandb (with mask overlays) and TensorBoard
    if used.

    Args:
        count: Number of frames, spread evenly over the validation batches.
    """

    def __init__(self, count: int = 4):
        self.count = count
        self.rows: list[dict[str, Any]] = []

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the frames of the previous epoch."""
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
        """Keep the first frame of every n-th `Batch`; ``outputs`` are the logits (B, 1, H, W)."""
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
        """Draw the frames, write them to disk and log them."""
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
        """Log the frames to wandb with their masks as overlays that can be toggled."""
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

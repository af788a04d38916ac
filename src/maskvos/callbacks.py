"""What happens around the steps: progress, pictures for the loggers, the tables of a test."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from maskvos.data.video_io import write_image
from maskvos.draw import contact_sheet
from maskvos.errors import UserError, nearest
from maskvos.flow.codec import flow_to_rgb
from maskvos.metrics.video import VideoMetric


class Progress(TQDMProgressBar):
    """Progress bars with time left, counting batches in training and frames per second in prediction."""

    def init_predict_tqdm(self) -> Tqdm:
        """A bar that counts frames: a stream of video has no known number of batches."""
        bar = super().init_predict_tqdm()
        bar.unit = "frame"
        bar.unit_scale = self.trainer.datamodule.eval_batch_size  # type: ignore[attr-defined]
        return bar


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


class TestResults(Callback):
    """Prints the table of a test and writes frames.csv, sequences.csv and summary.json.

    Args:
        folder: Where the files go.
    """

    __test__ = False  # a name that pytest must not collect

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the frames of all processes, and let the first one write."""
        summary = cast(VideoMetric, pl_module.test_metric).summary()
        if trainer.is_global_zero:
            summary.write(self.folder)
            print(summary.table())
            print(f"scores: {self.folder}")

"""The LightningModule: training, validation and test steps, optimiser groups, schedule, metric logging."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from maskvos import __version__
from maskvos.errors import UserError
from maskvos.inference.postprocess import probabilities, refine_edges
from maskvos.inference.tta import TTA
from maskvos.metrics.protocol import Protocol
from maskvos.metrics.video import VideoMetric
from maskvos.models.network import MaskVOS
from maskvos.training.losses import WeightedSum
from maskvos.training.optim import group_table, parameter_groups
from maskvos.training.options import TrainingOptions, batch_norms
from maskvos.types import Batch, Video

log = logging.getLogger(__name__)


class SegmentationModule(pl.LightningModule):
    """Trains and evaluates a network.

    Args:
        network: From (rgb, flow) to logits.
        loss: From (logits, mask), both (B, 1, H, W), to a scalar.
        optimizer: Makes an optimiser from parameter groups; None: nothing is trained.
        schedule: Makes a scheduler from (optimizer, total steps), stepped after every optimiser step; None: constant
            learning rate.
        protocol: Which frames count and how scores are averaged, in validation and test.
        videos: ``val`` and ``test`` to the videos of these splits, so that the protocol knows a sequence's first and
            last frame; without them the frames that are scored are taken for all.
        aux_weight: Weight of the auxiliary loss, the mean loss over the masks of the intermediate decoder layers; 0:
            these masks are not computed.
        tta: Test-time augmentation in validation and test.
        refine: Masks follow the edges of the picture in validation and test.
        options: Training options that change the network or its learning rates.
        config: The resolved configuration as plain containers, saved in every checkpoint.
    """

    def __init__(
        self,
        network: MaskVOS,
        loss: nn.Module,
        protocol: Protocol,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        videos: Mapping[str, Sequence[Video]] | None = None,
        aux_weight: float = 0.0,
        tta: TTA | None = None,
        refine: bool = False,
        options: TrainingOptions | None = None,
        config: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.schedule = schedule
        self.aux_weight = aux_weight
        self.videos = videos or {}
        self.tta = tta or TTA()
        self.refine = refine
        self.options = options or TrainingOptions()
        self.frozen_norms = self.options.prepare(network)
        self.config = config or {}
        self.val_metric = VideoMetric(protocol)
        self.test_metric = VideoMetric(protocol)
        # Lightning's own mean over processes assumes equal numbers of samples.
        self.val_loss = MeanMetric()
        self.has_trained = False
        self._momenta: dict[_BatchNorm, float | None] = {}
        self.train()

    def train(self, mode: bool = True) -> SegmentationModule:
        """Set training or evaluation mode; frozen norms stay in evaluation mode."""
        super().train(mode)
        for norm in self.frozen_norms:
            norm.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, 1, H, W) of a batch."""
        return self.network.segment(batch["rgb"], batch["flow"], batch.get("motion"))

    def _segment(self, batch: Batch) -> Tensor:
        """Logits (B, 1, H, W) of a batch in evaluation, with test-time augmentation."""
        return self.tta(self.network.segment, batch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, auxiliary losses included."""
        size, mask = len(batch["video"]), batch["mask"]
        if self.aux_weight > 0:
            inputs = batch["rgb"], batch["flow"], batch.get("motion")
            logits, intermediate = self.network.segment(*inputs, aux=True)
            loss, parts = self._loss(logits, mask)
            auxiliary = self._auxiliary_loss(intermediate, mask)
            total = loss + self.aux_weight * auxiliary
            parts |= {"mask": loss, "aux": auxiliary}
        else:
            total, parts = self._loss(self(batch), mask)
        for name, part in parts.items():
            self.log(f"train/loss_{name}", part.detach(), batch_size=size)
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=size)
        return total

    def _loss(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its terms if it is a weighted sum."""
        if not isinstance(self.loss, WeightedSum):
            return self.loss(logits, mask), {}
        parts = self.loss.parts(logits, mask)
        return self.loss.add(parts), parts

    def _auxiliary_loss(self, intermediate: list[Tensor], mask: Tensor) -> Tensor:
        """Mean loss of the intermediate masks, each resized to the ground truth."""
        resized = (F.interpolate(m, size=mask.shape[-2:], mode="bilinear", align_corners=False) for m in intermediate)
        return torch.stack([self.loss(m, mask) for m in resized]).mean()

    def on_fit_start(self) -> None:
        """Compile the network, if asked to."""
        self.options.compile_parts(self.network)

    def on_train_start(self) -> None:
        """Log the parameter groups."""
        if self.optimizer is not None and self.trainer.is_global_zero:
            groups = self.trainer.optimizers[0].param_groups
            count = sum(parameter.numel() for group in groups for parameter in group["params"])
            rates = {group.get("initial_lr", group["lr"]) for group in groups}
            shown = " to ".join(f"{rate:.3g}" for rate in sorted({min(rates), max(rates)}))
            log.info("training %s parameters in %d groups, learning rate %s", f"{count:,}", len(groups), shown)
            log.debug("parameters:\n%s", group_table(self.trainer.optimizers[0], self.network))

    def on_before_backward(self, loss: Tensor) -> None:
        """Keep activation checkpointing from updating batch norm statistics twice, as blocks run again in backward."""
        if self.options.activation_checkpointing:
            self._momenta = {norm: norm.momentum for norm in batch_norms(self.network)}
            for norm in self._momenta:
                norm.momentum = 0.0

    def on_after_backward(self) -> None:
        """Restore the momentum of batch norms."""
        for norm, momentum in self._momenta.items():
            norm.momentum = momentum

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Note that a step was possible."""
        self.has_trained = True

    def on_validation_epoch_start(self) -> None:
        """Give the metric the list of frames."""
        self._expect(self.val_metric, "val")

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Score a batch at the frames' own sizes; returns its logits (B, 1, H, W)."""
        logits = self._segment(batch)
        self._score(self.val_metric, logits, batch)
        if "mask" in batch:
            self.val_loss.update(self.loss(logits, batch["mask"]), len(batch["video"]))
        return logits

    def on_validation_epoch_end(self) -> None:
        """Log val/j, val/f, val/jf and val/loss."""
        self._log_scores(self.val_metric, "val")
        if self.val_loss.update_called:
            self.log("val/loss", self.val_loss.compute())
        self.val_loss.reset()

    def on_test_epoch_start(self) -> None:
        """Reset the metric and give it the list of frames."""
        self.test_metric.reset()
        self._expect(self.test_metric, "test")

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Score a batch at the frames' own sizes; returns its logits (B, 1, H, W)."""
        logits = self._segment(batch)
        self._score(self.test_metric, logits, batch)
        return logits

    def on_test_epoch_end(self) -> None:
        """Log test/j, test/f, test/jf."""
        self._log_scores(self.test_metric, "test")

    def _expect(self, metric: VideoMetric, split: str) -> None:
        if split in self.videos:
            metric.expect(self.videos[split])

    def _score(self, metric: VideoMetric, logits: Tensor, batch: Batch) -> None:
        maps = probabilities(logits.detach().float().cpu().numpy(), batch["size"])
        if self.refine:
            maps = [refine_edges(*pair) for pair in zip(maps, batch["image"], strict=True)]
        metric.update(maps, batch["truth"], batch["video"], batch["frame"])

    def _log_scores(self, metric: VideoMetric, stage: str) -> None:
        # Already equal on all processes: the metric gathers the scores itself.
        scores = metric.compute()
        if not scores:
            raise UserError(
                f"protocol={metric.protocol.name} counts none of the {stage} frames (trim={metric.protocol.trim}); use "
                f"longer sequences, a larger trainer.limit_{stage}_batches or protocol=all_frames"
            )
        for name, value in scores.items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "jf")
        if stage == "val":
            metric.reset()

    def configure_optimizers(self) -> Any:
        """The optimiser over `parameter_groups`, and the schedule over all training steps."""
        if self.optimizer is None:
            return None
        options = self.options
        optimizer = self.optimizer(parameter_groups(self.network, options.backbone_factor, options.layer_decay))
        for group in optimizer.param_groups:
            group["lr"] *= group["lr_scale"]
        if self.schedule is None:
            return optimizer
        scheduler = self.schedule(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add version and configuration as plain containers, which load with ``weights_only=True``."""
        checkpoint["maskvos"] = {"version": __version__, "config": self.config}

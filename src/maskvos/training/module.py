"""The LightningModule: training, validation, test and prediction steps, optimiser groups, schedule, metric logging."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np
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
from maskvos.metrics.protocol import Protocol
from maskvos.metrics.video import VideoMetric
from maskvos.models.network import MaskVOS
from maskvos.training.losses import WeightedSum
from maskvos.training.optim import group_table, parameter_groups
from maskvos.training.options import Training, batch_norms
from maskvos.types import Batch, Video

log = logging.getLogger(__name__)


def probabilities(logits: Tensor, sizes: Iterable[tuple[int, int]]) -> list[np.ndarray]:
    """Foreground probability of each map at its frame's own size.

    Args:
        logits: (B, 1, H, W), any float dtype.
        sizes: B original sizes (H0, W0), pixels.

    Returns:
        B arrays (H0, W0), float32 in [0, 1]; logits are resized bilinearly, then squashed.
    """
    maps = []
    for logit, size in zip(logits.detach().float(), sizes, strict=True):
        resized = F.interpolate(logit[None], size=tuple(size), mode="bilinear", align_corners=False)
        maps.append(resized.sigmoid()[0, 0].cpu().numpy())
    return maps


class SegmentationSystem(pl.LightningModule):
    """Trains, scores and runs a network.

    Args:
        network: From (rgb, flow) to logits.
        loss: From (logits, mask), both (B, 1, H, W), to a scalar.
        optimizer: Makes an optimiser of parameter groups; None where nothing is trained.
        schedule: Makes a scheduler of (optimizer, total steps), stepped at each optimiser step; None: constant rate.
        protocol: Which frames count and how they are averaged, in validation and test.
        aux_weight: Weight of the mean loss over the masks of the intermediate decoder layers; 0 computes none of them.
        mirror: In validation, test and prediction average the logits with those of the mirrored frame. Where the data
            bring a second flow, this second look is at that one; without ``mirror`` at the frame as it is.
        options: What else a training changes in the network or its rates.
        config: The resolved configuration as plain containers; travels in every checkpoint, so that a checkpoint
            tells how it was made.
    """

    def __init__(
        self,
        network: MaskVOS,
        loss: nn.Module,
        protocol: Protocol,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        aux_weight: float = 0.0,
        mirror: bool = False,
        options: Training | None = None,
        config: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.schedule = schedule
        self.aux_weight = aux_weight
        self.mirror = mirror
        self.options = options or Training()
        self.frozen_norms = self.options.prepare(network)
        self.config = config or {}
        self.val_metric = VideoMetric(protocol)
        self.test_metric = VideoMetric(protocol)
        # Lightning's own mean over processes rounds their numbers of samples where these differ.
        self.val_loss = MeanMetric()
        self._momenta: dict[_BatchNorm, float | None] = {}
        self.train()

    def train(self, mode: bool = True) -> SegmentationSystem:
        """Switch between training and evaluation; frozen norms stay in the latter."""
        super().train(mode)
        for norm in self.frozen_norms:
            norm.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, 1, H, W) of a batch."""
        return cast(Tensor, self.network.segment(batch["rgb"], batch["flow"], batch.get("motion")))

    def _segment(self, batch: Batch) -> Tensor:
        """Logits (B, 1, H, W) of a batch outside of training."""
        logits = self(batch)
        if not self.mirror and "second_flow" not in batch:
            return logits
        rgb, flow = batch["rgb"], batch.get("second_flow", batch["flow"])
        if self.mirror:
            across = torch.tensor([-1.0, 1.0], device=flow.device).view(2, 1, 1)  # mirrored, x runs backwards
            rgb, flow = rgb.flip(-1), flow.flip(-1) * across
        second = self(cast(Batch, {**batch, "rgb": rgb, "flow": flow}))
        return (logits + (second.flip(-1) if self.mirror else second)) / 2

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss on one batch, with the intermediate masks' losses where they are asked for."""
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
        """The loss, and what it is the sum of where it is a sum."""
        if not isinstance(self.loss, WeightedSum):
            return self.loss(logits, mask), {}
        parts = self.loss.parts(logits, mask)
        return self.loss.add(parts), parts

    def _auxiliary_loss(self, intermediate: list[Tensor], mask: Tensor) -> Tensor:
        """Mean loss of smaller maps, each resized to the mask."""
        resized = (F.interpolate(m, size=mask.shape[-2:], mode="bilinear", align_corners=False) for m in intermediate)
        return torch.stack([self.loss(m, mask) for m in resized]).mean()

    def on_fit_start(self) -> None:
        """Compile what is to be compiled."""
        self.options.compile_parts(self.network)

    def on_train_start(self) -> None:
        """Tell what is trained."""
        if self.optimizer is not None and self.trainer.is_global_zero:
            log.info("parameters:\n%s", group_table(self.trainer.optimizers[0], self.network))

    def on_before_backward(self, loss: Tensor) -> None:
        """Blocks that are computed again for the gradient must not take their batch into the statistics twice."""
        if self.options.checkpointing:
            self._momenta = {norm: norm.momentum for norm in batch_norms(self.network)}
            for norm in self._momenta:
                norm.momentum = 0.0

    def on_after_backward(self) -> None:
        """Batches count again."""
        for norm, momentum in self._momenta.items():
            norm.momentum = momentum

    def on_validation_epoch_start(self) -> None:
        """Tell the metric which frames there are, so that it knows a sequence's first and last."""
        self.val_metric.expect(self._videos("val"))

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Score a batch at the frames' own size; returns its logits (B, 1, H, W)."""
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
        """Tell the metric which frames there are, and let it forget an earlier test."""
        self.test_metric.reset()
        self.test_metric.expect(self._videos("test"))

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Score a batch at the frames' own size; returns its logits (B, 1, H, W)."""
        logits = self._segment(batch)
        self._score(self.test_metric, logits, batch)
        return logits

    def on_test_epoch_end(self) -> None:
        """Log test/j, test/f, test/jf; `report.TestReport` writes the tables."""
        self._log_scores(self.test_metric, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> list[np.ndarray]:
        """Foreground probabilities, one (H0, W0) float32 array for each frame, at its own size."""
        return probabilities(self._segment(batch), batch["size"])

    def _videos(self, part: str) -> list[Video]:
        return self.trainer.datamodule.videos(part)  # type: ignore[attr-defined]

    def _score(self, metric: VideoMetric, logits: Tensor, batch: Batch) -> None:
        metric.update(probabilities(logits, batch["size"]), batch["truth"], batch["video"], batch["frame"])

    def _log_scores(self, metric: VideoMetric, stage: str) -> None:
        # Already the same on every process: the metric gathers its frames itself.
        scores = metric.compute()
        if not scores:
            raise UserError(
                f"protocol={metric.protocol.name}: it counts none of the {stage} frames that were read (trim="
                f"{metric.protocol.trim}); use longer sequences, a larger trainer.limit_{stage}_batches or "
                "protocol=all_frames"
            )
        for name, value in scores.items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "jf")
        if stage == "val":
            metric.reset()

    def configure_optimizers(self) -> Any:
        """The optimiser over `parameter_groups`, and the schedule over all steps of the training."""
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
        """Add how the weights were made: version and configuration, as plain containers (`weights_only=True` loads)."""
        checkpoint["maskvos"] = {"version": __version__, "config": self.config}

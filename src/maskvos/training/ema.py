"""Exponential moving average (EMA) of the weights."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from maskvos.errors import UserError


class EMA(WeightAveraging):
    """Exponential moving average of weights and batch-norm statistics over optimiser steps.

    Validation uses the average. Checkpoints store it as their weights, so that test, prediction and ``init_from`` use
    it too, and the trained weights separately, for resuming. The decay of step n is at most (1 + n) / (10 + n), as in
    TensorFlow's ``ExponentialMovingAverage``, so that the average forgets a random initialisation.

    Args:
        decay: Decay per step, in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        # Lightning's default average would round integer buffers, such as Swin's relative position index.
        super().__init__(use_buffers=True, multi_avg_fn=self._update)
        self.decay = decay
        self._swapped = False

    def _update(self, average: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        if average[0].is_floating_point():
            decay = min(self.decay, (1 + int(count)) / (10 + int(count)))
            torch._foreach_lerp_(average, current, 1 - decay)
        else:
            torch._foreach_copy_(average, current)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Create the averaged copy of the network.

        Raises:
            UserError: The strategy shards the weights.
        """
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise UserError(
                f"train.ema={self.decay}: not supported with {type(trainer.strategy).__name__}, which shards the "
                "weights; choose trainer=ddp, or train.ema=null"
            )
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the average to the device of the network, which is set after `setup`."""
        if self._average_model is not None:
            self._average_model.to(pl_module.device)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Swap back after an interrupted validation: a checkpoint must not save the average as the trained weights."""
        if self._swapped:
            self._swap_models(pl_module)

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped

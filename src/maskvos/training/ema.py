"""The running average of a training's weights."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from maskvos.errors import UserError


class EMA(WeightAveraging):
    """Averages weights and norms' statistics exponentially over the optimiser's steps.

    Validation runs with the average, and it is what a checkpoint holds as its weights, so that a test, a prediction and
    ``init_from`` use it; the trained weights lie beside it, for resuming. The first steps count more than ``decay``
    says, or a network trained from scratch would drag its random start along: the n-th step's decay is at most
    (1 + n) / (10 + n), as in TensorFlow's ``ExponentialMovingAverage``.

    Args:
        decay: Share of the average that stays at a step, in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        # Lightning's own average would round index tables, such as Swin's relative positions, towards zero.
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
        """Copy the network.

        Raises:
            UserError: The strategy shards the weights, of which no process could keep an average.
        """
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise UserError(
                f"train.ema: {type(trainer.strategy).__name__} shares out the weights among the processes, and their "
                "average needs them whole; train with trainer=ddp, or without train.ema"
            )
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the network to its device, where it went after `setup`."""
        if self._average_model is not None:
            self._average_model.to(pl_module.device)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Interrupted in the middle of a validation: what is saved now must not take the average for the weights."""
        if self._swapped:
            self._swap_models(pl_module)

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped

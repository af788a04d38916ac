"""Learning-rate schedules, stepped once per optimiser step: each maps (optimizer, total_steps) to a torch scheduler."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """The rate of the config from the first step to the last."""
    return LambdaLR(optimizer, lambda step: 1.0)


def poly(optimizer: Optimizer, total_steps: int, power: float = 0.9) -> LambdaLR:
    """(1 - step / total)^power, the decay of the DeepLab papers (Chen et al., 2018)."""
    return LambdaLR(optimizer, lambda step: max(0.0, 1 - step / max(1, total_steps)) ** power)


def cosine_warmup(optimizer: Optimizer, total_steps: int, warmup: float = 0.05, floor: float = 0.0) -> LambdaLR:
    """Linear rise over the first share of the steps, then half a cosine down to ``floor`` (Loshchilov, Hutter, 2017).

    Args:
        optimizer: What the schedule drives.
        total_steps: Optimiser steps of the whole training.
        warmup: Share of the steps, in [0, 1), over which the rate rises from 0.
        floor: Final rate as a share of the full one.
    """
    rise = max(1, round(warmup * total_steps))

    def factor(step: int) -> float:
        if warmup > 0 and step < rise:
            return (step + 1) / rise
        progress = min(1.0, (step - rise) / max(1, total_steps - rise))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)

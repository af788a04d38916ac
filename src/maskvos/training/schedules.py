"""Learning-rate schedules: functions of (optimizer, total_steps) to a scheduler, stepped per optimiser step."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """Constant learning rate."""
    return LambdaLR(optimizer, lambda step: 1.0)


def poly(optimizer: Optimizer, total_steps: int, power: float = 0.9) -> LambdaLR:
    """Polynomial decay, (1 - step / total)^power (Chen et al., DeepLab, TPAMI 2018)."""
    return LambdaLR(optimizer, lambda step: max(0.0, 1 - step / max(1, total_steps)) ** power)


def cosine_warmup(optimizer: Optimizer, total_steps: int, warmup: float = 0.05, floor: float = 0.0) -> LambdaLR:
    """Linear warm-up, then cosine annealing to ``floor`` (Loshchilov and Hutter, SGDR, ICLR 2017).

    Args:
        optimizer: The optimiser.
        total_steps: Number of optimiser steps of the training.
        warmup: Fraction of the steps for the warm-up, in [0, 1).
        floor: Final learning rate relative to the peak.
    """
    warmup_steps = max(1, round(warmup * total_steps))

    def factor(step: int) -> float:
        if warmup > 0 and step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)

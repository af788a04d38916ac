"""Losses on logits: from ``logits`` (B, 1, H, W), any float dtype, and ``mask`` (B, 1, H, W) in {0, 1}, to a scalar.

Everything is computed in float32, so that half precision costs a loss no more than the rounding of its logits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn


class BCE(nn.Module):
    """Binary cross-entropy, mean over pixels: the loss that MaskVOS is trained with."""

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Mean of -[m log s(x) + (1 - m) log(1 - s(x))] over all pixels of the batch."""
        return F.binary_cross_entropy_with_logits(logits.float(), mask.float())


class Dice(nn.Module):
    """Soft Dice loss per map, mean over the batch (Milletari et al., 3DV 2016, with plain sums in the denominator).

    Args:
        smooth: Added to both sides of the fraction, in pixels; makes an empty mask, predicted empty, cost nothing.
    """

    def __init__(self, smooth: float = 1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Mean over maps of 1 - (2 |p m| + smooth) / (|p| + |m| + smooth)."""
        probability, mask = logits.float().sigmoid().flatten(1), mask.float().flatten(1)
        overlap = (probability * mask).sum(1)
        total = probability.sum(1) + mask.sum(1)
        return (1 - (2 * overlap + self.smooth) / (total + self.smooth)).mean()


class WeightedSum(nn.Module):
    """A weighted sum of losses.

    Args:
        terms: The losses by name.
        weights: A factor for each name; 1 where absent.
    """

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float] | None = None):
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.weights = {name: (weights or {}).get(name, 1.0) for name in terms}

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Sum of weight x loss."""
        losses = [weight * self.terms[name](logits, mask) for name, weight in self.weights.items()]
        return sum(losses[1:], losses[0])

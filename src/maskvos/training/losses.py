"""Segmentation losses: BCE, boundary-weighted BCE, focal, Dice, Lovasz hinge, and weighted sums of them.

Each maps ``logits`` (B, 1, H, W), any float dtype, and ``mask`` (B, 1, H, W), 0 or 1, to a scalar. Losses are computed
in float32 and averaged over the maps of a batch, so that splitting a batch among processes gives the same gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskvos.errors import UserError, nearest
from maskvos.settings.table import check_settings


class BCE(nn.Module):
    """Binary cross-entropy, mean over pixels: the loss of the MaskVOS recipe."""

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Mean of -[m log s(x) + (1 - m) log(1 - s(x))] over all pixels of the batch."""
        return F.binary_cross_entropy_with_logits(logits.float(), mask.float())


class BoundaryBCE(nn.Module):
    """Boundary-weighted binary cross-entropy (Wei et al., F3Net, AAAI 2020).

    The weight of a pixel is 1 + ``factor`` abs(local mean of the mask - mask): 1 + factor / 2 at a straight edge, 1
    far from the boundary.

    Args:
        width: Side of the square window of the local mean, pixels, odd.
        factor: Strength of the weighting.

    Raises:
        UserError: An even or non-positive width, or a negative factor.
    """

    def __init__(self, width: int = 31, factor: float = 5.0) -> None:
        super().__init__()
        check_settings({"width": width, "factor": factor}, "loss")
        self.width = width
        self.factor = factor

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Weighted mean of the cross-entropy per map, mean over the batch."""
        mask = mask.float()
        # Padding is excluded from the mean, so that the frame border is not a boundary.
        local_mean = F.avg_pool2d(mask, self.width, stride=1, padding=self.width // 2, count_include_pad=False)
        weight = 1 + self.factor * (local_mean - mask).abs()
        losses = F.binary_cross_entropy_with_logits(logits.float(), mask, reduction="none")
        return ((weight * losses).flatten(1).sum(1) / weight.flatten(1).sum(1)).mean()


class Focal(nn.Module):
    """Focal loss, mean over pixels (Lin et al., ICCV 2017): down-weights pixels that are already well classified.

    Args:
        gamma: Focusing parameter; 0: plain cross-entropy.
        alpha: Weight of foreground pixels, in [0, 1], and 1 - alpha of background pixels; None: no weighting.

    Raises:
        UserError: A negative gamma, or an alpha outside of [0, 1].
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = 0.25) -> None:
        super().__init__()
        check_settings({"gamma": gamma, "alpha": alpha}, "loss")
        self.gamma = gamma
        self.alpha = alpha

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Mean of -a (1 - p)^gamma log p, with the predicted probability p of the true class."""
        mask = mask.float()
        losses = F.binary_cross_entropy_with_logits(logits.float(), mask, reduction="none")
        # 1 - p as a sigmoid, because 1 - exp(-loss) loses precision near 0.
        wrong = (logits.float() * (1 - 2 * mask)).sigmoid()
        losses = wrong**self.gamma * losses
        if self.alpha is not None:
            losses = losses * torch.where(mask > 0, self.alpha, 1 - self.alpha)
        return losses.mean()


class Dice(nn.Module):
    """Soft Dice loss per map, mean over the batch (Milletari et al., 3DV 2016, without squares in the denominator).

    Args:
        smooth: Added to numerator and denominator, pixels, so that a correct empty mask has zero loss.
    """

    def __init__(self, smooth: float = 1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Mean over maps of ``1 - (2 |p m| + smooth) / (|p| + |m| + smooth)``."""
        probability, mask = logits.float().sigmoid().flatten(1), mask.float().flatten(1)
        overlap = (probability * mask).sum(1)
        total = probability.sum(1) + mask.sum(1)
        return (1 - (2 * overlap + self.smooth) / (total + self.smooth)).mean()


class Lovasz(nn.Module):
    """Lovasz hinge loss per map, mean over the batch (Berman et al., CVPR 2018): a convex surrogate of 1 - J.

    Pixels that are correct by a margin of 1 have zero loss and gradient; if all others are at the threshold, the loss
    equals 1 - J.
    """

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Mean over maps of the Lovasz extension of the Jaccard loss at the hinge errors max(0, 1 - x (2 m - 1))."""
        logits, mask = logits.float().flatten(1), mask.float().flatten(1)
        errors, order = (1 - logits * (2 * mask - 1)).sort(dim=1, descending=True)
        truth = mask.gather(1, order)
        # Jaccard loss if the first 1, 2, ... pixels in this order are wrong; its increments weight the errors.
        overlap = truth.sum(1, keepdim=True) - truth.cumsum(1)
        union = truth.sum(1, keepdim=True) + (1 - truth).cumsum(1)
        jaccard = 1 - overlap / union
        increments = torch.diff(jaccard, dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))
        return (errors.relu() * increments).sum(1).mean()


class WeightedSum(nn.Module):
    """Weighted sum of losses.

    Args:
        terms: Losses by name.
        weights: Weight per name, by default 1. Losses of weight 0 are not computed.

    Raises:
        UserError: A weight has an unknown name or is negative, or none is positive.
    """

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float] | None = None):
        super().__init__()
        for name, weight in (weights or {}).items():
            if name not in terms:
                raise UserError(f"loss.weights.{name}: no loss of this name in loss.terms; {nearest(name, terms)}")
            check_settings(weight, f"loss.weights.{name}")
        self.weights = {name: (weights or {}).get(name, 1.0) for name in terms}
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if self.weights[name] > 0})
        if not self.terms:
            raise UserError(f"loss.weights={self.weights}: one must be above 0; set for example loss.weights.bce=1")

    def parts(self, logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Each loss by name, unweighted."""
        return {name: term(logits, mask) for name, term in self.terms.items()}

    def add(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum of the losses returned by `parts`."""
        losses = [self.weights[name] * loss for name, loss in parts.items()]
        return sum(losses[1:], losses[0])

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Weighted sum of the losses."""
        return self.add(self.parts(logits, mask))

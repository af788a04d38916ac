"""Losses on logits: from ``logits`` (B, 1, H, W), any float dtype, and ``mask`` (B, 1, H, W) in {0, 1}, to a scalar.

Everything is computed in float32, so that half precision costs a loss no more than the rounding of its logits. Each is
a mean over the maps of a batch (of equal size), so that a batch shared out over processes gives the same gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskvos.errors import UserError, nearest


class BCE(nn.Module):
    """Binary cross-entropy, mean over pixels: the loss that MaskVOS is trained with."""

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Mean of -[m log s(x) + (1 - m) log(1 - s(x))] over all pixels of the batch."""
        return F.binary_cross_entropy_with_logits(logits.float(), mask.float())


class BoundaryBCE(nn.Module):
    """Cross-entropy that counts pixels more the nearer they are to the boundary (Wei et al., F3Net, AAAI 2020).

    A pixel's weight is 1 + ``factor`` |local mean of the mask - mask|: at a straight edge 1 + factor / 2, far away 1.

    Args:
        width: Side of the square of the local mean, pixels, odd.
        factor: How much more a pixel counts that is all alone in its neighbourhood.

    Raises:
        UserError: An even or negative width, or a negative factor.
    """

    def __init__(self, width: int = 31, factor: float = 5.0) -> None:
        super().__init__()
        if width < 1 or width % 2 == 0:
            raise UserError(f"loss.width: {width}; the square must have a centre, so give an odd number such as 31")
        if factor < 0:
            raise UserError(f"loss.factor: {factor}; it must not be negative, and 0 makes it plain cross-entropy")
        self.width = width
        self.factor = factor

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Weighted mean of the cross-entropy of each map, mean over the batch."""
        mask = mask.float()
        # Outside of the frame nothing is known: it counts for no edge.
        around = F.avg_pool2d(mask, self.width, stride=1, padding=self.width // 2, count_include_pad=False)
        weight = 1 + self.factor * (around - mask).abs()
        losses = F.binary_cross_entropy_with_logits(logits.float(), mask, reduction="none")
        return ((weight * losses).flatten(1).sum(1) / weight.flatten(1).sum(1)).mean()


class Focal(nn.Module):
    """Cross-entropy that counts pixels less the better they are known, mean over pixels (Lin et al., ICCV 2017).

    Args:
        gamma: Power of the share that is still wrong; 0 counts all pixels alike.
        alpha: Weight of foreground pixels in [0, 1], and 1 - alpha of background ones; None: both 1.

    Raises:
        UserError: A negative gamma, or an alpha outside of [0, 1].
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = 0.25) -> None:
        super().__init__()
        if gamma < 0 or (alpha is not None and not 0 <= alpha <= 1):
            raise UserError(f"loss: gamma {gamma} must not be negative, and alpha {alpha} lie from 0 to 1, or be null")
        self.gamma = gamma
        self.alpha = alpha

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Mean of -a (1 - p)^gamma log p, p the probability that the pixel is given of being what it is."""
        mask = mask.float()
        losses = F.binary_cross_entropy_with_logits(logits.float(), mask, reduction="none")
        # The share that is wrong, 1 - p, by a sigmoid of its own: 1 - exp(-loss) has no gradient digits near 0.
        wrong = (logits.float() * (1 - 2 * mask)).sigmoid()
        losses = wrong**self.gamma * losses
        if self.alpha is not None:
            losses = losses * torch.where(mask > 0, self.alpha, 1 - self.alpha)
        return losses.mean()


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


class Lovasz(nn.Module):
    """Lovasz hinge per map, mean over the batch (Berman et al., CVPR 2018): a convex stand-in for 1 - J.

    A pixel that is right by a margin of 1 costs nothing and has no gradient; where all others lie at the threshold, the
    loss is 1 - J exactly.
    """

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Mean over maps of the Lovasz extension of the Jaccard loss at the hinge errors max(0, 1 - x (2 m - 1))."""
        logits, mask = logits.float().flatten(1), mask.float().flatten(1)
        errors, order = (1 - logits * (2 * mask - 1)).sort(dim=1, descending=True)
        truth = mask.gather(1, order)
        # Jaccard loss when the first 1, 2, ... pixels of this order are wrong and the rest is right; its growth from
        # pixel to pixel is what each error counts.
        overlap = truth.sum(1, keepdim=True) - truth.cumsum(1)
        union = truth.sum(1, keepdim=True) + (1 - truth).cumsum(1)
        jaccard = 1 - overlap / union
        growth = torch.diff(jaccard, dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))
        return (errors.relu() * growth).sum(1).mean()


class WeightedSum(nn.Module):
    """A weighted sum of losses.

    Args:
        terms: The losses by name.
        weights: A factor for each name; 1 where absent. A loss of weight 0 is left out.

    Raises:
        UserError: A weight for a name that is not among the terms, a negative one, or none above 0.
    """

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float] | None = None):
        super().__init__()
        for name, weight in (weights or {}).items():
            if name not in terms:
                raise UserError(f"loss.weights: no term '{name}'; {nearest(name, terms)}")
            if weight < 0:
                raise UserError(f"loss.weights.{name}: {weight}; it must not be negative")
        self.weights = {name: (weights or {}).get(name, 1.0) for name in terms}
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if self.weights[name] > 0})
        if not self.terms:
            raise UserError(f"loss.weights: {self.weights}; one must be above 0, such as loss.weights.bce=1")

    def parts(self, logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Each loss by name, not weighted."""
        return {name: term(logits, mask) for name, term in self.terms.items()}

    def add(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Sum of weight x loss over what `parts` returned."""
        losses = [self.weights[name] * loss for name, loss in parts.items()]
        return sum(losses[1:], losses[0])

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Sum of weight x loss."""
        return self.add(self.parts(logits, mask))

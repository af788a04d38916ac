"""From logits at the network's input size to probabilities at the frames' own sizes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch.nn.functional as F
from torch import Tensor


def probabilities(logits: Tensor, sizes: Iterable[tuple[int, int]]) -> list[np.ndarray]:
    """Resize logits bilinearly and apply the sigmoid.

    Args:
        logits: (B, 1, H, W), any floating-point dtype.
        sizes: B sizes (H0, W0), pixels.

    Returns:
        B arrays (H0, W0), float32: foreground probabilities in [0, 1].
    """
    maps = []
    for logit, size in zip(logits.detach().float(), sizes, strict=True):
        resized = F.interpolate(logit[None], size=tuple(size), mode="bilinear", align_corners=False)
        maps.append(resized.sigmoid()[0, 0].cpu().numpy())
    return maps

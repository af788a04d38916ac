"""From what travels (RGB in [0, 1], flow in pixels) to what the encoders read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskvos.flow.codec import flow_to_rgb_tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class InputEncoder(nn.Module):
    """Draw the flow as an RGB image and normalise both images.

    Args:
        mean: Per channel, of images in [0, 1].
        std: Per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, rgb: Tensor, flow: Tensor, motion: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode.

        Args:
            rgb: (B, 3, H, W) float in [0, 1].
            flow: (B, 2, H, W) float, pixels, x then y.
            motion: (B,) bool: False where the motion stream is to see the RGB frame (motion as option, Cho et al.,
                WACV 2023); None: it sees the flow everywhere.

        Returns:
            Two normalised images (B, 3, H, W).
        """
        drawn = flow_to_rgb_tensor(flow)
        if motion is not None:
            drawn = torch.where(motion.view(-1, 1, 1, 1), drawn, rgb.to(drawn.dtype))
        return self.normalise(rgb), self.normalise(drawn)

    def normalise(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to zero mean and unit deviation."""
        return (image - self.mean) / self.std

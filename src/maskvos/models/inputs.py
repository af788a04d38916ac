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


class CompensatedInputs(InputEncoder):
    """Show the motion stream what moves against the background, instead of the flow's colours.

    A small network trained from scratch has no capacity to spare for telling an object's motion from the camera's. So
    an affine motion is fitted to the flow, robustly (iteratively reweighted least squares with Geman-McClure weights,
    as in Odobez and Bouthemy, "Robust multiresolution estimation of parametric motion models", 1995) and with more
    weight on the border of the frame, where the background is likely, and is taken away.

    The three channels are the rest (x and y), in multiples of its root mean square, and its length in pixels of a map
    of width 448, each compressed by asinh: scale-free to see slow objects, absolute to tell these from noise.

    Args:
        mean: See `InputEncoder`.
        std: See `InputEncoder`.
        step: Distance, in pixels, of the vectors that the fit looks at.
        iterations: Of the fit.
    """

    # Nothing that DIS finds moving by less (pixels of a map of width 448) is more than its noise.
    _NOISE = 0.1

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        step: int = 8,
        iterations: int = 6,
    ) -> None:
        super().__init__(mean, std)
        self.step = step
        self.iterations = iterations

    def forward(self, rgb: Tensor, flow: Tensor, motion: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode, see `InputEncoder.forward`."""
        # In half precision the sums of the fit would lose the small motions that matter.
        with torch.autocast(flow.device.type, enabled=False), torch.no_grad():
            rest = self.compensate(flow.float()) * (448 / flow.shape[-1])
            length = (rest.square().sum(1, keepdim=True) + 1e-12).sqrt()
            scale = (length.square().mean((2, 3), keepdim=True)).sqrt().clamp(min=self._NOISE)
            relative = length / scale
            drawn = torch.cat((rest / length * _asinh(relative), _asinh(length)), 1)
        rgb = self.normalise(rgb)
        if motion is not None:
            drawn = torch.where(motion.view(-1, 1, 1, 1), drawn, rgb.to(drawn.dtype))
        return rgb, drawn

    def compensate(self, flow: Tensor) -> Tensor:
        """Take the dominant affine motion away.

        Args:
            flow: (B, 2, H, W) float32, pixels, x then y.

        Returns:
            (B, 2, H, W) float32, pixels.
        """
        height, width = flow.shape[-2:]
        # By arange, whose length exporters keep open.
        x = (torch.arange(width, device=flow.device) * (2 / (width - 1)) - 1).expand(height, width)
        y = (torch.arange(height, device=flow.device) * (2 / (height - 1)) - 1)[:, None].expand(height, width)
        basis = torch.stack((torch.ones_like(x), x, y))  # (3, H, W)
        start = self.step // 2
        sparse = basis[:, start :: self.step, start :: self.step].flatten(1)  # (3, N)
        vectors = flow[:, :, start :: self.step, start :: self.step].flatten(2)  # (B, 2, N)
        prior = 0.1 + sparse[1:].abs().amax(0).square()  # (N,)
        weights = prior.expand(flow.shape[0], -1)
        for _ in range(self.iterations):
            motion = _weighted_fit(sparse, vectors, weights)
            squared = (vectors - motion @ sparse).square().sum(1)  # (B, N)
            spread = (weights * squared.sqrt()).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
            spread = (2 * spread.clamp(min=0.02)).square()
            weights = prior * (spread / (spread + squared)).square()
        motion = _weighted_fit(sparse, vectors, weights)
        return flow - (motion @ basis.flatten(1)).view_as(flow)


def _asinh(values: Tensor) -> Tensor:
    """The function of that name for values that are not negative, in operations that ONNX has."""
    return (values + (values.square() + 1).sqrt()).log()


def _weighted_fit(basis: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Weighted least squares with three unknowns, solved by cofactors, which every exporter knows.

    Args:
        basis: (3, N).
        values: (B, C, N).
        weights: (B, N), not negative.

    Returns:
        Coefficients (B, C, 3).
    """
    weighted = basis * weights[:, None]  # (B, 3, N)
    matrix = weighted @ basis.T + 1e-6 * torch.eye(3, device=basis.device)  # (B, 3, 3), symmetric
    right = values @ weighted.transpose(1, 2)  # (B, C, 3)
    first, second, third = matrix.unbind(1)
    cofactors = torch.stack(
        (second.cross(third, dim=-1), third.cross(first, dim=-1), first.cross(second, dim=-1)), dim=-1
    )
    determinant = (first * cofactors[..., 0]).sum(-1)
    return right @ cofactors / determinant[:, None, None]

"""Input preprocessing: RGB in [0, 1] and flow in pixels to the images that the encoders read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from maskvos.flow.colours import flow_to_rgb_tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class InputEncoder(nn.Module):
    """Encode flow as an RGB colour image and normalise both images.

    Args:
        mean: Mean per channel, for images in [0, 1].
        std: Standard deviation per channel.
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
            motion: (B,) bool; False where the motion encoder reads the RGB frame (motion as option, Cho et al., WACV
                2023); None: it reads the flow everywhere.

        Returns:
            Inputs of the appearance and the motion encoder, each (B, 3, H, W) float.
        """
        drawn = flow_to_rgb_tensor(flow)
        if motion is not None:
            drawn = torch.where(motion.view(-1, 1, 1, 1), drawn, rgb.to(drawn.dtype))
        return self.normalise(rgb), self.normalise(drawn)

    def normalise(self, image: Tensor) -> Tensor:
        """Normalise (B, 3, H, W) in [0, 1] by mean and standard deviation."""
        return (image - self.mean) / self.std


class CompensatedInputs(InputEncoder):
    """Camera motion compensation: the motion encoder reads the residual of an affine motion model, not flow colours.

    This relieves a small network of learning to separate object motion from camera motion. The affine model is fitted
    by iteratively reweighted least squares with Geman-McClure weights (Odobez and Bouthemy, "Robust multiresolution
    estimation of parametric motion models", 1995) and a prior for the border of the frame, which is mostly background.

    The three channels are the residual (x and y) divided by its root mean square, and its magnitude in pixels of a map
    of width 448, all compressed by asinh. The former make slow objects visible; the latter tells them from noise.

    Args:
        mean: See `InputEncoder`.
        std: See `InputEncoder`.
        step: Spacing of the flow vectors used by the fit, pixels.
        iterations: Iterations of the fit.
    """

    # Noise level of DIS flow, in pixels of a map of width 448: smaller residuals are not amplified.
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
        # The sums of the fit need float32 to resolve small motions. Exported networks are in float32 throughout, and
        # PyTorch's exporter does not accept the context.
        exporting = torch.compiler.is_exporting()
        exact = nullcontext() if exporting else torch.autocast(flow.device.type, enabled=False)
        with exact, torch.no_grad():
            residual = self.compensate(flow.float()) * (448 / flow.shape[-1])
            length = (residual.square().sum(1, keepdim=True) + 1e-12).sqrt()
            scale = (length.square().mean((2, 3), keepdim=True)).sqrt().clamp(min=self._NOISE)
            relative = length / scale
            drawn = torch.cat((residual / length * _asinh(relative), _asinh(length)), 1)
        rgb = self.normalise(rgb)
        if motion is not None:
            drawn = torch.where(motion.view(-1, 1, 1, 1), drawn, rgb.to(drawn.dtype))
        return rgb, drawn

    def compensate(self, flow: Tensor) -> Tensor:
        """Subtract the dominant affine motion.

        Args:
            flow: (B, 2, H, W) float32, pixels, x then y.

        Returns:
            The residual flow, (B, 2, H, W) float32, pixels.
        """
        height, width = flow.shape[-2:]
        # arange instead of linspace, because exporters keep its length dynamic.
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
    """Inverse hyperbolic sine for non-negative values, in operations that ONNX supports."""
    return (values + (values.square() + 1).sqrt()).log()


def _weighted_fit(basis: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Weighted least squares with three unknowns, solved by cofactors, which every exporter supports.

    Args:
        basis: (3, N) float32.
        values: (B, C, N) float32.
        weights: (B, N) float32, non-negative.

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

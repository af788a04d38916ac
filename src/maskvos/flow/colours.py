"""Colour-code optical flow with the Middlebury wheel, in PyTorch: for the network's input and for images."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from maskvos.errors import UserError
from maskvos.flow.codec import encode_png
from maskvos.media.files import write_bytes

# The wheel has 55 colours in six linear segments (red-yellow 15, yellow-green 6, green-cyan 4, cyan-blue 11,
# blue-magenta 13, magenta-red 6), at positions 0 to 54.
_WHEEL_HALF = 27.0
# The published colour table is rounded down, so a rising segment lies up to 12/13 of a level below its line.
_ROUNDED = 12 / 13 / 255


def flow_to_rgb_tensor(flow: Tensor) -> Tensor:
    """Colour-code flow with the Middlebury wheel: hue is direction, saturation is magnitude, white is no motion.

    Each map is normalised by its own largest magnitude. The colour wheel is piecewise linear, so colours are computed
    instead of looked up: elementwise operations only, no host synchronisation, no data-dependent shapes. It can
    therefore be compiled and exported to ONNX, and it always computes in float32, also under autocast. It is not
    differentiable. Vectors that are not finite, or overflow when squared in float32, are drawn as no motion.

    Wheel: Baker et al., "A Database and Evaluation Methodology for Optical Flow", ICCV 2007. Equals
    ``torchvision.utils.flow_to_image`` of each map to within one level of 255.

    Args:
        flow: (B, 2, H, W), any floating dtype, pixels, x then y.

    Returns:
        (B, 3, H, W) float32 RGB in [0, 1].
    """
    return torch.stack(_wheel(flow), 1)


def flow_to_rgb(flow: np.ndarray) -> np.ndarray:
    """Colour-code one flow map with the Middlebury wheel, see `flow_to_rgb_tensor`.

    Args:
        flow: (H, W, 2) float, pixels, x then y.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    channels = _wheel(torch.from_numpy(np.ascontiguousarray(flow.transpose(2, 0, 1)))[None])
    return cv2.merge([channel[0].mul_(255.0).byte().numpy() for channel in channels])


def _wheel(flow: Tensor) -> list[Tensor]:
    """Red, green and blue of `flow_to_rgb_tensor`, each (B, H, W); in-place operations halve the time."""
    u, v = flow.detach().float().unbind(1)
    magnitude = (u * u).addcmul_(v, v).nan_to_num_(0.0, 0.0, 0.0).sqrt_()
    magnitude = magnitude.div_(magnitude.amax((1, 2), keepdim=True).clamp_min(1e-12))
    # ONNX has no atan2: the exporter divides instead, and dividing by -0 where u is 0 would flip vertical flow.
    angle = torch.atan2(-v, 1e-30 - u).nan_to_num_(0.0)

    def line(zero: float, steps: float) -> Tensor:
        """One channel minus 1, linear along the wheel: 0 at position ``zero``, 1 after ``steps`` positions."""
        return (angle * (_WHEEL_HALF / math.pi / steps)).add_((_WHEEL_HALF - zero) / steps - 1.0)

    red = torch.maximum(line(21, -6), line(36 + 13 * _ROUNDED, 13))
    green = torch.minimum(line(0, 15), line(36, -11))
    blue = torch.minimum(line(21 + 4 * _ROUNDED, 4), line(55, -6))
    return [colour.clamp_(-1.0, 0.0).mul_(magnitude).add_(1.0) for colour in (red, green, blue)]


def write_flow_image(path: Path | str, flow: np.ndarray) -> None:
    """Write a flow map as an 8-bit PNG with Middlebury colour coding; the scale is lost.

    Args:
        path: Output file, ``.png``.
        flow: (H, W, 2) float, pixels, x then y.

    Raises:
        UserError: The extension is not ``.png``, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"flow image {path}: unsupported extension '{path.suffix}'; choose .png")
    write_bytes(path, encode_png(flow_to_rgb(flow)))

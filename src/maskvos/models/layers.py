"""Layers and tensor helpers shared by the parts of the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resizing with ``align_corners=False``.

    Args:
        maps: (B, C, H, W).
        size: (h, w) of the output.

    Returns:
        (B, C, h, w); the input itself if it already has this size.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


# PyTorch 2.6 has no `is_exporting`; compiled networks then also crop by copying.
_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def crop(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Crop to the top left corner.

    Args:
        maps: (B, C, H, W).
        size: (h, w) of the output, at most (H, W).

    Returns:
        (B, C, h, w).
    """
    height, width = size
    if not _exporting():
        return maps[..., :height, :width]
    # `torch.export` specialises a view on whether it is contiguous; a copy keeps all sizes dynamic.
    rows, columns = (torch.arange(length, device=maps.device) for length in (height, width))
    return maps.index_select(-2, rows).index_select(-1, columns)


def maybe_checkpoint(module: nn.Module, *inputs: Any, enabled: bool) -> Any:
    """Call a module, with activation checkpointing if ``enabled`` and gradients are recorded.

    The recomputation must not update batch-norm statistics a second time: see `SegmentationModule.on_before_backward`.
    """
    if enabled and torch.is_grad_enabled():
        return checkpoint(module, *inputs, use_reentrant=False)
    return module(*inputs)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 8 channels per group: 32 groups for 256 channels, as in Mask2Former."""
    return nn.GroupNorm(math.gcd(max(channels // 8, 1), channels), channels)


# oneDNN's linear operator, which Inductor also calls. For float32, `F.linear` calls MKL instead, which is half as fast
# on CPUs that are not Intel's.
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, through oneDNN for float32 inference on a CPU.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,) or None.

    Returns:
        (..., out).
    """
    if (
        _ONEDNN
        and x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not compiling_or_exporting()
    ):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def compiling_or_exporting() -> bool:
    """Whether the network is being compiled, traced, or exported to ONNX."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


class Linear(nn.Linear):
    """``nn.Linear`` through `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return linear(x, self.weight, self.bias)


class MLP(nn.Module):
    """Linear layers with ReLU in between.

    Args:
        channels: Channels of the input and of the hidden layers.
        out_channels: Channels of the output.
        layers: Number of linear layers.
    """

    def __init__(self, channels: int, out_channels: int, layers: int = 3) -> None:
        super().__init__()
        widths = [channels] * layers + [out_channels]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) to (..., out_channels)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def initialise_convolutions(module: nn.Module) -> None:
    """Initialise all convolutions of a module with Xavier weights and zero biases."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def sine_position(height: int, width: int, channels: int, like: Tensor, temperature: float = 10000.0) -> Tensor:
    """Normalised 2D sine position encoding (Carion et al., DETR, ECCV 2020).

    The first half of the channels encodes y, the second x, with sines and cosines alternating. Along an axis of n
    pixels, positions are normalised to 2 pi / n, ..., 2 pi.

    Args:
        height: H.
        width: W.
        channels: Channels of the encoding, a multiple of 4.
        like: Tensor that gives the device and dtype of the output.
        temperature: Ratio of the longest to the shortest wavelength.

    Returns:
        (H * W, channels), pixels in row-major order.
    """
    half = channels // 2
    index = torch.arange(half, device=like.device, dtype=torch.float32)
    wavelength = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / half)

    def axis(count: int) -> Tensor:
        position = torch.arange(1, count + 1, device=like.device, dtype=torch.float32)
        angle = (position / (count + 1e-6) * (2 * math.pi))[:, None] / wavelength
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

    along_y = axis(height)[:, None].expand(height, width, half)
    along_x = axis(width)[None].expand(height, width, half)
    return torch.cat((along_y, along_x), dim=2).flatten(0, 1).to(like.dtype)


def tokens(maps: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H * W, C)."""
    return maps.flatten(2).transpose(1, 2)


def maps(sequence: Tensor, height: int, width: int) -> Tensor:
    """(B, H * W, C) to (B, C, H, W)."""
    batch, _, channels = sequence.shape
    return sequence.transpose(1, 2).reshape(batch, channels, height, width)

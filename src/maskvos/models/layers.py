"""Small pieces that several parts of the network share."""

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
    """Resize bilinearly, pixel centres at half integers.

    Args:
        maps: (B, C, H, W).
        size: (h, w) wanted.

    Returns:
        (B, C, h, w); the same tensor when the size is right already.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


# PyTorch 2.6 has no `is_exporting`; there compiled networks are cropped by copying too.
_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def crop(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The top left part.

    Args:
        maps: (B, C, H, W).
        size: (h, w) wanted, not above (H, W).

    Returns:
        (B, C, h, w).
    """
    height, width = size
    if not _exporting():
        return maps[..., :height, :width]
    # `torch.export` would tie a view to sizes that keep it contiguous, or to those that do not; a copy is for all.
    rows, columns = (torch.arange(length, device=maps.device) for length in (height, width))
    return maps.index_select(-2, rows).index_select(-1, columns)


def run(module: nn.Module, *inputs: Any, again: bool) -> Any:
    """Call a module; where gradients are wanted and ``again``, keep its inputs alone and compute it again for them.

    Statistics of batch norms must not be updated by that second time: see `SegmentationSystem.on_before_backward`.
    """
    if again and torch.is_grad_enabled():
        return checkpoint(module, *inputs, use_reentrant=False)
    return module(*inputs)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 8 channels per group, which for the usual 256 channels makes the usual 32 groups."""
    return nn.GroupNorm(math.gcd(max(channels // 8, 1), channels), channels)


# oneDNN's matrix product, which PyTorch's own `linear` reaches for half precision only: for float32 it calls MKL, which
# is half as fast on processors that are not Intel's. Inductor generates calls to the same operator.
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``; on a CPU, where no gradient is needed, by the fastest product at hand.

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
        and not leaves_python()
    ):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def leaves_python() -> bool:
    """Whether the network is being compiled, or written to a format with operators of its own."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


class Linear(nn.Linear):
    """``nn.Linear`` by way of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return linear(x, self.weight, self.bias)


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        channels: Width of the input and of the hidden layers.
        out_channels: Width of the output.
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
    """Xavier weights and zero biases for every convolution inside."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def sine_position(height: int, width: int, channels: int, like: Tensor, temperature: float = 10000.0) -> Tensor:
    """Two-dimensional sine position encoding, normalised to the map (Carion et al., DETR, ECCV 2020).

    The first half of the channels encodes y, the second x; sines and cosines alternate. Positions run from 1/n to 1
    times 2 pi along an axis of n pixels.

    Args:
        height: H.
        width: W.
        channels: Width of the encoding, a multiple of 4.
        like: A tensor whose device and dtype the result takes.
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

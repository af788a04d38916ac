"""Pixel decoders: from the fused feature pyramid to multi-scale features and high-resolution mask features.

A pixel decoder is constructed with the channels of the pyramid, has an attribute ``channels`` (of all its outputs), and
returns three feature maps (strides 32, 16, 8) and the mask features (stride 4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskvos.errors import UserError
from maskvos.models.deformable import DeformableAttention, Grid
from maskvos.models.layers import (
    Linear,
    group_norm,
    initialise_convolutions,
    maps,
    maybe_checkpoint,
    resize,
    sine_position,
    tokens,
)


class DeformableLayer(nn.Module):
    """Transformer encoder layer: deformable self-attention and FFN, both post-norm.

    Args:
        channels: C.
        heads: Number of heads.
        points: Sampling points per head and level.
        ffn_channels: Hidden channels of the FFN.
    """

    def __init__(self, channels: int, heads: int, points: int, ffn_channels: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(channels, levels=3, heads=heads, points=points)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = Linear(channels, ffn_channels)
        self.linear2 = Linear(ffn_channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, position: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        x = self.norm1(x + self.attention(x + position, x, grid))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class DeformablePixelDecoder(nn.Module):
    """Mask2Former's deformable-attention pixel decoder (Cheng et al., CVPR 2022), with one FPN step to stride 4.

    Args:
        in_channels: Channels of the pyramid, fine to coarse.
        channels: Channels of the decoder and its outputs, a multiple of 4 and of ``heads``.
        layers: Number of deformable layers.
        heads: Attention heads per layer.
        points: Sampling points per head and level.
        ffn_channels: Hidden channels of the FFN.
    """

    activation_checkpointing = False

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        layers: int = 6,
        heads: int = 8,
        points: int = 4,
        ffn_channels: int = 1024,
    ) -> None:
        super().__init__()
        _check_width(channels, heads)
        self.channels = channels
        self.input_projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1), group_norm(channels)) for width in reversed(in_channels[1:])
        )
        self.level_embed = nn.Parameter(torch.randn(3, channels))
        self.layers = nn.ModuleList(DeformableLayer(channels, heads, points, ffn_channels) for _ in range(layers))
        self.lateral = nn.Sequential(nn.Conv2d(in_channels[0], channels, 1), group_norm(channels))
        self.output = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), group_norm(channels))
        self.mask_features = nn.Conv2d(channels, channels, 1)
        initialise_convolutions(self)

    def enable_activation_checkpointing(self) -> None:
        """Keep only the inputs of the layers in training and recompute their activations in the backward pass."""
        self.activation_checkpointing = True

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Decode.

        Args:
            pyramid: Four (B, C_i, h, w) float, strides 4, 8, 16, 32.

        Returns:
            Three feature maps (B, C, h, w), strides 32, 16, 8, and the mask features (B, C, h, w), stride 4.
        """
        finest, *rest = pyramid
        levels = [project(x) for project, x in zip(self.input_projections, reversed(rest), strict=True)]
        sizes = [(x.shape[2], x.shape[3]) for x in levels]
        x = torch.cat([tokens(level) for level in levels], dim=1)
        position = torch.cat(
            [
                sine_position(height, width, self.channels, x) + embed
                for (height, width), embed in zip(sizes, self.level_embed, strict=True)
            ]
        )
        grid = Grid.create(sizes, x)
        for layer in self.layers:
            x = maybe_checkpoint(layer, x, position, grid, enabled=self.activation_checkpointing)
        parts = x.split([height * width for height, width in sizes], dim=1)
        decoded = [maps(part, *size) for part, size in zip(parts, sizes, strict=True)]
        fine = F.relu(self.lateral(finest))
        fine = fine + resize(decoded[-1], fine.shape[-2:])
        return decoded, self.mask_features(F.relu(self.output(fine)))


class FPNPixelDecoder(nn.Module):
    """Feature pyramid network (Lin et al., CVPR 2017): 1x1 lateral convolutions, top-down addition, 3x3 smoothing.

    Args:
        in_channels: Channels of the pyramid, fine to coarse.
        channels: Channels of the decoder and its outputs, a multiple of 4.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        _check_width(channels, 1)
        self.channels = channels
        coarse_first = list(reversed(in_channels))
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), group_norm(channels)) for width in coarse_first
        )
        self.outputs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), group_norm(channels), nn.ReLU())
            for _ in coarse_first
        )
        self.mask_features = nn.Conv2d(channels, channels, 1)
        initialise_convolutions(self)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """See `DeformablePixelDecoder.forward`."""
        decoded: list[Tensor] = []
        for lateral, output, x in zip(self.laterals, self.outputs, reversed(pyramid), strict=True):
            x = lateral(x)
            if decoded:
                x = x + resize(decoded[-1], x.shape[-2:])
            decoded.append(output(x))
        return decoded[:3], self.mask_features(decoded[3])


def _check_width(channels: int, heads: int) -> None:
    if channels % 4 or channels % heads:
        raise UserError(
            f"model.pixel_decoder.channels={channels}: must be a multiple of 4 (sine position encoding) and of heads "
            f"({heads}); choose for example 64, 128 or 256"
        )

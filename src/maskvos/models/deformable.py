"""Multi-scale deformable self-attention (Zhu et al., Deformable DETR, ICLR 2021) over the pixels of all levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskvos.models.layers import Linear, compiling_or_exporting

Size = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """Reference points of the N pixels of L levels, computed once per image size and shared by all layers.

    Attributes:
        sizes: (H, W) of each level; the pixels of the levels are concatenated in this order.
        points: (N, L, 2) float32: centre of each pixel in pixel coordinates of each level, x then y; the centre of a
            level's first pixel is (0, 0).
        extent: (L, 2) float32: width and height of each level, pixels.
        start: (L,) int32: index of the first pixel of each level.
    """

    sizes: tuple[Size, ...]
    points: Tensor
    extent: Tensor
    start: Tensor

    @classmethod
    def create(cls, sizes: Sequence[Size], like: Tensor) -> Grid:
        """Compute the grid on the device of ``like``, without synchronising with it."""
        centres, extents, starts, total = [], [], [], 0
        one = torch.ones(1, device=like.device)
        for height, width in sizes:
            y = (torch.arange(height, device=like.device, dtype=torch.float32) + 0.5) / height
            x = (torch.arange(width, device=like.device, dtype=torch.float32) + 0.5) / width
            centre = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)
            centres.append(centre.flatten(0, 1))
            # Products instead of constants, so that sizes stay dynamic in a traced network.
            extents += [one * side for side in (width, height)]
            starts.append((one * total).int())
            total += height * width
        extent = torch.cat(extents).view(-1, 2)
        return cls(tuple(sizes), torch.cat(centres)[:, None] * extent - 0.5, extent, torch.cat(starts))


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention: each query attends to a few sampled points around it on every level.

    Two implementations agree up to rounding: one weighted gather over all levels (no large intermediate tensors; for
    inference), and ``grid_sample`` level by level (fast backward pass; for training and export).

    Args:
        channels: C.
        levels: Number of levels.
        heads: Number of heads.
        points: Sampling points per head and level.
    """

    def __init__(self, channels: int, levels: int = 3, heads: int = 8, points: int = 4) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = Linear(channels, heads * levels * points * 2)
        self.attention_weights = Linear(channels, heads * levels * points)
        self.value_proj = Linear(channels, channels)
        self.output_proj = Linear(channels, channels)
        self.initialise()

    def initialise(self) -> None:
        """Initialise as in the paper: head h samples in direction h, point p at distance p, with equal weights."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.points + 1)
        offsets = direction[:, None, None] * distance[None, None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, value: Tensor, grid: Grid) -> Tensor:
        """Attend.

        Args:
            query: (B, N, C) float, the pixels of all levels.
            value: (B, N, C) float.
            grid: Reference points of these pixels.

        Returns:
            (B, N, C).
        """
        batch, count, _ = query.shape
        shape = (batch, count, self.heads, self.levels, self.points)
        # Coordinates stay float32 under autocast: bfloat16 cannot resolve neighbouring pixels of a long row.
        offsets = self.sampling_offsets(query).view(*shape, 2).float()
        weights = self.attention_weights(query).view(batch, count, self.heads, -1).softmax(-1).view(shape)
        value = self.value_proj(value).view(batch, count, self.heads, -1)
        weights = weights.to(value.dtype)
        by_level = _differentiable(value) or compiling_or_exporting()
        out = (_sample_by_level if by_level else _gather)(value, offsets, weights, grid)
        return self.output_proj(out)


def _differentiable(value: Tensor) -> bool:
    return torch.is_grad_enabled() and value.requires_grad


def _sample_by_level(value: Tensor, offsets: Tensor, weights: Tensor, grid: Grid) -> Tensor:
    """Weighted sum of bilinear samples with zero padding, one ``grid_sample`` per level.

    Args:
        value: (B, N, heads, c) float.
        offsets: (B, N, heads, L, points, 2) float32, pixels from the reference points of ``grid``, x then y.
        weights: (B, N, heads, L, points), the attention weights.
        grid: The levels.

    Returns:
        (B, N, heads * c).
    """
    batch, count, heads, width = value.shape
    # Normalised to [-1, 1], where the reference points of all levels are the same. The coordinates stay along one axis:
    # ONNX Runtime is slow to broadcast along an axis of two.
    scale = (2 / grid.extent)[:, None].expand(heads, -1, weights.shape[-1], -1).flatten()
    centres = ((2 * grid.points[:, 0] + 1) / grid.extent[0] - 1).repeat(1, scale.shape[0] // 2)
    locations = (centres + offsets.flatten(2) * scale).view(offsets.shape)
    planes = value.split([h * w for h, w in grid.sizes], dim=1)
    weights = weights.permute(0, 2, 3, 4, 1).flatten(0, 1)
    out: Tensor | int = 0
    for level, (plane, size) in enumerate(zip(planes, grid.sizes, strict=True)):
        plane = plane.permute(0, 2, 3, 1).reshape(batch * heads, width, *size)
        # Pixels along the last axis, points along the one before: sums over points then add whole rows.
        points = locations[:, :, :, level].permute(0, 2, 3, 1, 4).flatten(0, 1)
        sampled = F.grid_sample(plane.to(points.dtype), points, align_corners=False).to(plane.dtype)
        out = out + (sampled * weights[:, level, None]).sum(2)
    assert isinstance(out, Tensor)
    return out.view(batch, heads * width, count).transpose(1, 2)


def _gather(value: Tensor, offsets: Tensor, weights: Tensor, grid: Grid) -> Tensor:
    """Equals `_sample_by_level`, as one weighted gather of four neighbours per point over all levels."""
    batch, count, heads, width = value.shape
    x, y = (grid.points[:, None, :, None] + offsets).unbind(-1)
    columns, rows = grid.extent[:, 0, None], grid.extent[:, 1, None]
    left, top = x.floor(), y.floor()
    right, bottom = x - left, y - top
    # Neighbours outside of the map get zero weight; their index is clamped to a valid one.
    weights_x = _mask_outside(1 - right, left, columns), _mask_outside(right, left + 1, columns)
    weights_y = _mask_outside(1 - bottom, top, rows), _mask_outside(bottom, top + 1, rows)
    offsets_y = [grid.start[:, None] + _index(row, rows) * columns.int() for row in (top, top + 1)]
    offsets_x = [_index(column, columns) for column in (left, left + 1)]
    index = torch.stack([y + x for y in offsets_y for x in offsets_x], dim=3)
    weights = torch.stack([y * x * weights for y in weights_y for x in weights_x], dim=3)
    # Row of (batch, pixel, head) in the flattened value.
    index = index.view(batch, count, heads, -1).mul_(heads)
    index += torch.arange(heads, device=value.device, dtype=torch.int32)[:, None]
    index += torch.arange(batch, device=value.device, dtype=torch.int32)[:, None, None, None] * (count * heads)
    out = F.embedding_bag(
        index.flatten(0, 2),
        value.reshape(-1, width),
        per_sample_weights=weights.reshape(batch * count * heads, -1).to(value.dtype),
        mode="sum",
    )
    return out.view(batch, count, heads * width)


def _mask_outside(weight: Tensor, coordinate: Tensor, size: Tensor) -> Tensor:
    return weight * ((coordinate >= 0) & (coordinate < size))


def _index(coordinate: Tensor, size: Tensor) -> Tensor:
    return torch.minimum(coordinate.clamp_min(0), size - 1).int()

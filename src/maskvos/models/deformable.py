"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021), every pixel of every level a query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskvos.models.layers import Linear, leaves_python

Size = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """Where the pixels of all levels lie; made once for an image size and used by every layer.

    Attributes:
        sizes: (H, W) of each of L levels; their pixels follow one another in this order, N together.
        origin: (N, L, 2) float32: each pixel's centre in pixel coordinates of every level, x then y; the centre of a
            level's first pixel is (0, 0).
        extent: (L, 2) float32: width and height of each level.
        start: (L,) int32: index of each level's first pixel.
    """

    sizes: tuple[Size, ...]
    origin: Tensor
    extent: Tensor
    start: Tensor

    @classmethod
    def of(cls, sizes: Sequence[Size], like: Tensor) -> Grid:
        """Make the grid on the device of ``like``, without waiting for that device."""
        centres, extents, starts, total = [], [], [], 0
        one = torch.ones(1, device=like.device)
        for height, width in sizes:
            y = (torch.arange(height, device=like.device, dtype=torch.float32) + 0.5) / height
            x = (torch.arange(width, device=like.device, dtype=torch.float32) + 0.5) / width
            centre = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)
            centres.append(centre.flatten(0, 1))
            # Products, not constants: a traced network must keep them open to other sizes.
            extents += [one * side for side in (width, height)]
            starts.append((one * total).int())
            total += height * width
        extent = torch.cat(extents).view(-1, 2)
        return cls(tuple(sizes), torch.cat(centres)[:, None] * extent - 0.5, extent, torch.cat(starts))


class DeformableAttention(nn.Module):
    """Each query samples a few points around its place on every level and adds them with learnt weights.

    There are two ways to sample, equal up to rounding: one weighted gather over all levels (no intermediate wider than
    the list of points; inference), or level by level with ``grid_sample`` (fast backward; training and export).

    Args:
        channels: C.
        levels: Number of levels.
        heads: Number of heads.
        points: Points per head and level.
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
        """Start as the paper does: head h looks in direction h, point p at distance p, all with equal weight."""
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
            query: (B, N, C), the pixels of all levels.
            value: (B, N, C).
            grid: Where these pixels lie.

        Returns:
            (B, N, C).
        """
        batch, count, _ = query.shape
        shape = (batch, count, self.heads, self.levels, self.points)
        # Coordinates need float32 under autocast: bfloat16 cannot tell neighbouring pixels of a long row apart.
        offsets = self.sampling_offsets(query).view(*shape, 2).float()
        place = grid.origin[:, None, :, None] + offsets
        weights = self.attention_weights(query).view(batch, count, self.heads, -1).softmax(-1).view(shape)
        value = self.value_proj(value).view(batch, count, self.heads, -1)
        weights = weights.to(value.dtype)
        if _differentiable(value) or leaves_python():
            out = _sample_by_level(value, place, weights, grid)
        else:
            out = _gather(value, place, weights, grid)
        return self.output_proj(out)


def _differentiable(value: Tensor) -> bool:
    return torch.is_grad_enabled() and value.requires_grad


def _sample_by_level(value: Tensor, place: Tensor, weights: Tensor, grid: Grid) -> Tensor:
    """Sample each level bilinearly, zero outside, and add.

    Args:
        value: (B, N, heads, c).
        place: (B, N, heads, L, points, 2) float32, pixel coordinates.
        weights: (B, N, heads, L, points).
        grid: Sizes of the levels.

    Returns:
        (B, N, heads * c).
    """
    batch, count, heads, width = value.shape
    place = (2 * place + 1) / grid.extent[:, None] - 1
    planes = value.split([h * w for h, w in grid.sizes], dim=1)
    sampled = []
    for level, (plane, size) in enumerate(zip(planes, grid.sizes, strict=True)):
        plane = plane.permute(0, 2, 3, 1).reshape(batch * heads, width, *size)
        points = place[:, :, :, level].transpose(1, 2).flatten(0, 1)
        sampled.append(F.grid_sample(plane.to(points.dtype), points, align_corners=False).to(plane.dtype))
    share = weights.permute(0, 2, 1, 3, 4).reshape(batch * heads, 1, count, -1)
    out = (torch.cat(sampled, dim=-1) * share).sum(-1)
    return out.view(batch, heads * width, count).transpose(1, 2)


def _gather(value: Tensor, place: Tensor, weights: Tensor, grid: Grid) -> Tensor:
    """The same as `_sample_by_level` in one weighted gather: four neighbours per point, all levels at once."""
    batch, count, heads, width = value.shape
    x, y = place.unbind(-1)
    columns, rows = grid.extent[:, 0, None], grid.extent[:, 1, None]
    left, top = x.floor(), y.floor()
    right_share, bottom_share = x - left, y - top
    # Neighbours outside get no weight; their index is clamped so that it can be read.
    shares_x = _inside(1 - right_share, left, columns), _inside(right_share, left + 1, columns)
    shares_y = _inside(1 - bottom_share, top, rows), _inside(bottom_share, top + 1, rows)
    lines = [grid.start[:, None] + _index(row, rows) * columns.int() for row in (top, top + 1)]
    places = [_index(column, columns) for column in (left, left + 1)]
    index = torch.stack([line + column for line in lines for column in places], dim=3)
    share = torch.stack([share_y * share_x * weights for share_y in shares_y for share_x in shares_x], dim=3)
    # Row of (b, pixel, head) in the flattened value.
    index = index.view(batch, count, heads, -1).mul_(heads)
    index += torch.arange(heads, device=value.device, dtype=torch.int32)[:, None]
    index += torch.arange(batch, device=value.device, dtype=torch.int32)[:, None, None, None] * (count * heads)
    out = F.embedding_bag(
        index.flatten(0, 2),
        value.reshape(-1, width),
        per_sample_weights=share.reshape(batch * count * heads, -1).to(value.dtype),
        mode="sum",
    )
    return out.view(batch, count, heads * width)


def _inside(share: Tensor, place: Tensor, size: Tensor) -> Tensor:
    return share * ((place >= 0) & (place < size))


def _index(place: Tensor, size: Tensor) -> Tensor:
    return torch.minimum(place.clamp_min(0), size - 1).int()

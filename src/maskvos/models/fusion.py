"""Two pyramids, appearance and motion, into one.

A fusion is built from the widths of both, publishes the widths of its result (``channels``) and which streams it
reads (``streams``): an encoder that nobody reads is left out of the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Pyramid = list[Tensor]


class Fusion(nn.Module):
    """Base of every fusion.

    Args:
        rgb_channels: Widths of the appearance pyramid.
        flow_channels: Widths of the motion pyramid.

    Attributes:
        channels: Widths of the fused pyramid.
        streams: The streams that are read.
    """

    streams: tuple[str, ...] = ("rgb", "flow")

    def __init__(self, rgb_channels: Sequence[int], flow_channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(rgb_channels)

    def forward(self, rgb: Pyramid, flow: Pyramid) -> Pyramid:
        """Fuse scale by scale; an unread stream's list may be empty."""
        raise NotImplementedError


class ConcatFusion(Fusion):
    """Side by side, then one 1x1 convolution back to the appearance encoder's width: the original's choice."""

    def __init__(self, rgb_channels: Sequence[int], flow_channels: Sequence[int]) -> None:
        super().__init__(rgb_channels, flow_channels)
        self.projections = nn.ModuleList(
            nn.Conv2d(a + b, a, 1) for a, b in zip(rgb_channels, flow_channels, strict=True)
        )

    def forward(self, rgb: Pyramid, flow: Pyramid) -> Pyramid:
        """See `Fusion`."""
        return [project(torch.cat((a, b), dim=1)) for project, a, b in zip(self.projections, rgb, flow, strict=True)]


class SumFusion(Fusion):
    """Added; where the widths differ, motion is first brought to the appearance encoder's by a 1x1 convolution."""

    def __init__(self, rgb_channels: Sequence[int], flow_channels: Sequence[int]) -> None:
        super().__init__(rgb_channels, flow_channels)
        self.projections = nn.ModuleList(
            nn.Identity() if a == b else nn.Conv2d(b, a, 1) for a, b in zip(rgb_channels, flow_channels, strict=True)
        )

    def forward(self, rgb: Pyramid, flow: Pyramid) -> Pyramid:
        """See `Fusion`."""
        return [a + project(b) for project, a, b in zip(self.projections, rgb, flow, strict=True)]


class GatedFusion(Fusion):
    """Each stream weighted per pixel and channel before the mixing, so that bad flow can be ignored.

    Two sigmoid gates look at both streams together; what passes is mixed by a 1x1 convolution.
    """

    def __init__(self, rgb_channels: Sequence[int], flow_channels: Sequence[int]) -> None:
        super().__init__(rgb_channels, flow_channels)
        widths = list(zip(rgb_channels, flow_channels, strict=True))
        self.gates = nn.ModuleList(nn.Conv2d(a + b, a + b, 1) for a, b in widths)
        self.projections = nn.ModuleList(nn.Conv2d(a + b, a, 1) for a, b in widths)

    def forward(self, rgb: Pyramid, flow: Pyramid) -> Pyramid:
        """See `Fusion`."""
        fused = []
        for gate, project, a, b in zip(self.gates, self.projections, rgb, flow, strict=True):
            both = torch.cat((a, b), dim=1)
            fused.append(project(both * gate(both).sigmoid()))
        return fused


class RGBOnly(Fusion):
    """Appearance alone."""

    streams = ("rgb",)

    def forward(self, rgb: Pyramid, flow: Pyramid) -> Pyramid:
        """See `Fusion`."""
        return rgb


class FlowOnly(Fusion):
    """Motion alone."""

    streams = ("flow",)

    def __init__(self, rgb_channels: Sequence[int], flow_channels: Sequence[int]) -> None:
        super().__init__(rgb_channels, flow_channels)
        self.channels = tuple(flow_channels)

    def forward(self, rgb: Pyramid, flow: Pyramid) -> Pyramid:
        """See `Fusion`."""
        return flow

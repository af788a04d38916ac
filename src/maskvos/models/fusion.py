"""Two-stream fusion: combine the appearance (RGB) and motion (flow) feature pyramids into one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Pyramid = list[Tensor]


class Fusion(nn.Module):
    """Base class of fusions.

    Args:
        rgb_channels: Channels of the appearance pyramid, fine to coarse.
        flow_channels: Channels of the motion pyramid, fine to coarse.

    Attributes:
        channels: Channels of the fused pyramid.
        streams: Streams that are used; the network is built without the encoder of an unused stream.
    """

    streams: tuple[str, ...] = ("rgb", "flow")

    def __init__(self, rgb_channels: Sequence[int], flow_channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(rgb_channels)

    def forward(self, rgb: Pyramid, flow: Pyramid) -> Pyramid:
        """Fuse four (B, C_i, h, w) of each stream, scale by scale; the list of an unused stream may be empty."""
        raise NotImplementedError


class ConcatFusion(Fusion):
    """Concatenation and a 1x1 convolution, by default to the channels of the appearance encoder, as in the original.

    Args:
        rgb_channels: See `Fusion`.
        flow_channels: See `Fusion`.
        channels: Channels of the fused pyramid, fine to coarse; None: those of the appearance pyramid.
    """

    def __init__(
        self, rgb_channels: Sequence[int], flow_channels: Sequence[int], channels: Sequence[int] | None = None
    ) -> None:
        super().__init__(rgb_channels, flow_channels)
        self.channels = tuple(channels or rgb_channels)
        self.projections = nn.ModuleList(
            nn.Conv2d(a + b, c, 1) for a, b, c in zip(rgb_channels, flow_channels, self.channels, strict=True)
        )

    def forward(self, rgb: Pyramid, flow: Pyramid) -> Pyramid:
        """See `Fusion`."""
        return [project(torch.cat((a, b), dim=1)) for project, a, b in zip(self.projections, rgb, flow, strict=True)]


class SumFusion(Fusion):
    """Addition; where channels differ, a 1x1 convolution first projects motion to those of the appearance encoder."""

    def __init__(self, rgb_channels: Sequence[int], flow_channels: Sequence[int]) -> None:
        super().__init__(rgb_channels, flow_channels)
        self.projections = nn.ModuleList(
            nn.Identity() if a == b else nn.Conv2d(b, a, 1) for a, b in zip(rgb_channels, flow_channels, strict=True)
        )

    def forward(self, rgb: Pyramid, flow: Pyramid) -> Pyramid:
        """See `Fusion`."""
        return [a + project(b) for project, a, b in zip(self.projections, rgb, flow, strict=True)]


class GatedFusion(Fusion):
    """Gated fusion: sigmoid gates per pixel and channel, so that unreliable flow can be suppressed.

    The gates are computed from both streams by a 1x1 convolution; the gated features are projected by another.
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
    """No fusion: appearance features only (ablation)."""

    streams = ("rgb",)

    def forward(self, rgb: Pyramid, flow: Pyramid) -> Pyramid:
        """See `Fusion`."""
        return rgb


class FlowOnly(Fusion):
    """No fusion: motion features only (ablation)."""

    streams = ("flow",)

    def __init__(self, rgb_channels: Sequence[int], flow_channels: Sequence[int]) -> None:
        super().__init__(rgb_channels, flow_channels)
        self.channels = tuple(flow_channels)

    def forward(self, rgb: Pyramid, flow: Pyramid) -> Pyramid:
        """See `Fusion`."""
        return flow

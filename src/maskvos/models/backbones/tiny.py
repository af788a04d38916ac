"""A very small ResNet that trains from scratch on a CPU in minutes, for demonstrations and tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from maskvos.errors import UserError
from maskvos.models.backbones.base import Backbone
from maskvos.models.layers import maybe_checkpoint


class ResidualBlock(nn.Module):
    """Basic residual block: two 3x3 convolutions with batch norm (He et al., CVPR 2016).

    Args:
        in_channels: Input channels.
        channels: Output channels.
        stride: Stride of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
            if stride != 1 or in_channels != channels
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, channels, ceil(H / stride), ceil(W / stride))."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class Tiny(Backbone):
    """Small ResNet: a stem with stride 4 and four stages of residual blocks.

    Args:
        channels: Channels of the four maps.
        depths: Number of residual blocks per stage.
        pretrained: False or a weights file of this network; there are no published weights.

    Raises:
        UserError: ``channels`` or ``depths`` does not have four entries.
    """

    activation_checkpointing = False

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 96),
        depths: Sequence[int] = (1, 1, 1, 1),
        pretrained: bool | str | Path = False,
    ) -> None:
        super().__init__()
        if len(channels) != 4 or len(depths) != 4:
            raise UserError(f"backbone: channels {channels} and depths {depths} need one entry per stage, four each")
        self.channels = tuple(channels)
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels[0], channels[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(inplace=True),
        )
        inputs = (channels[0], *channels[:3])
        self.stages: Any = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(inputs[i], channels[i], stride=1 if i == 0 else 2),
                *(ResidualBlock(channels[i], channels[i], stride=1) for _ in range(depths[i] - 1)),
            )
            for i in range(4)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.load_pretrained(pretrained, "tiny", _no_weights, dict)

    def forward(self, x: Tensor) -> list[Tensor]:
        """See `Backbone`."""
        x = self.stem(x)
        outputs = []
        for stage in self.stages:
            x = maybe_checkpoint(stage, x, enabled=bool(self.activation_checkpointing))
            outputs.append(x)
        return outputs

    def layer_ids(self) -> dict[str, int]:
        """See `Backbone`: the stem, then each block."""
        return self.number_layers([self.stem, *(block for stage in self.stages for block in stage)])


def _no_weights() -> dict[str, Tensor]:
    raise OSError("there are no published weights of this backbone")

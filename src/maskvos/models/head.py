"""SegFormer-style head: from the query maps to the logits of one foreground mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from maskvos.errors import UserError, nearest
from maskvos.models.layers import resize

Padding = Literal["zeros", "replicate"]


class MapProjections(nn.Module):
    """One 3x3 convolution per scale, from one channel per query to the channels of the encoder.

    Args:
        queries: Q.
        channels: Output channels of the scales, fine to coarse.
    """

    def __init__(self, queries: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(queries, width, 3, padding=1) for width in channels)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter, nonlinearity="linear")
            else:
                nn.init.zeros_(parameter)

    def forward(self, query_maps: Sequence[Tensor]) -> list[Tensor]:
        """Four (B, Q, h, w), fine to coarse, to four (B, C_i, h, w)."""
        return [conv(x) for conv, x in zip(self.convs, query_maps, strict=True)]


class PointwiseLinear(nn.Linear):
    """Linear layer over the channels of a feature map."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features, H, W) to (B, out_features, H, W)."""
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, channels: int, kernel: int, padding: Padding = "zeros") -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False, padding_mode=padding)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, channels, H, W)."""
        return F.relu(self.norm(self.conv(x)))


class SegFormerHead(nn.Module):
    """All-MLP head (Xie et al., SegFormer, NeurIPS 2021) with a refinement at stride 2 and one output channel.

    All scales are projected to equal channels, upsampled to stride 4, mixed by a 1x1 convolution, and refined at stride
    2. Convolutions that commute with bilinear resizing run before it, at the lower resolution: the 1x1 mixing
    convolution, split by scale, and the final 1x1 convolution.

    Args:
        in_channels: Channels of the four scales, fine to coarse.
        width: Channels after the projection.
        dropout: Probability of dropping a channel before the final convolution in training.
        padding: Of the refinement: ``"zeros"``, as published, or ``"replicate"``, which runs at stride 4 once folded
            (`maskvos.models.folding`).

    Raises:
        UserError: ``padding`` is neither.
    """

    def __init__(
        self, in_channels: Sequence[int], width: int = 192, dropout: float = 0.1, padding: Padding = "zeros"
    ) -> None:
        super().__init__()
        if padding not in get_args(Padding):
            raise UserError(f"model.head.padding={padding}: unknown; {nearest(padding, get_args(Padding))}")
        self.linears = nn.ModuleList(PointwiseLinear(channels, width) for channels in in_channels)
        self.fuse = ConvNormReLU(4 * width, width, 1)
        self.refine = ConvNormReLU(width, max(width // 4, 1), 3, padding)
        self.dropout = nn.Dropout2d(dropout)
        self.predict = nn.Conv2d(max(width // 4, 1), 1, 1)

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        """Predict.

        Args:
            scales: Four (B, C_i, h, w) float, strides 4, 8, 16, 32.

        Returns:
            Logits (B, 1, 4 h, 4 w), with the h and w of stride 4.
        """
        size = scales[0].shape[-2:]
        x = self.mix(scales, size)
        x = self.refine(resize(F.relu(x), [2 * side for side in size]))
        return resize(self.predict(self.dropout(x)), [4 * side for side in size])

    def mix(self, scales: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Project the scales, upsample them to ``size`` and mix them: (B, width, *size), normalised."""
        # The input channels of the mixing convolution are ordered coarse to fine.
        weights = reversed(self.fuse.conv.weight.chunk(4, dim=1))
        mixed = [
            resize(F.conv2d(pointwise(x), weight), size)
            for x, pointwise, weight in zip(scales, self.linears, weights, strict=True)
        ]
        return self.fuse.norm(sum(mixed[1:], mixed[0]))

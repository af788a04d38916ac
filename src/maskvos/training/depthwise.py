"""Depthwise convolutions that are not slow in mixed precision on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Float32Depthwise(nn.Conv2d):
    """A depthwise convolution that is trained in float32 where autocast would choose a lower precision on a CPU.

    The gradients of oneDNN for kernels above 3x3, and for strides, take 3 to 8 times as long in bfloat16.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not (input.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()):
            return super()._conv_forward(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            output = super()._conv_forward(input.float(), weight, bias)
        return output.to(torch.get_autocast_dtype("cpu"))


def speed_up_depthwise(network: nn.Module) -> None:
    """Make the depthwise convolutions of a network whose gradients would be slow `Float32Depthwise`, in place."""
    for conv in network.modules():
        # Subclasses compute something else, as timm's for TensorFlow's padding.
        if type(conv) is not nn.Conv2d or not conv.groups == conv.in_channels > 1:
            continue
        if max(conv.kernel_size) > 3 or max(conv.stride) > 1:
            conv.__class__ = Float32Depthwise

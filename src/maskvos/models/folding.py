"""Inference folding: merge batch norms and chains of linear layers into convolutions, with equal outputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskvos.models.head import MapProjections, Padding, SegFormerHead
from maskvos.models.layers import resize

# Largest allowed difference of a folded copy in float64, relative to the largest value.
_TOLERANCE = 1e-6


class FoldedHead(nn.Module):
    """`MapProjections` and `SegFormerHead`, folded into one module.

    For each scale, the 3x3 projection, the linear layer, its part of the mixing convolution and the batch norm are
    linear and commute with upsampling. They become one 3x3 convolution to the channels of the head, or a 3x3 and a 1x1
    convolution where that takes fewer multiplications. If the refinement pads by replication, the upsampling before it
    and the refinement become one 3x3 convolution at stride 4, which computes the four pixels of stride 2 as channels.

    Args:
        projections: Trained projections.
        head: Trained head.
    """

    def __init__(self, projections: MapProjections, head: SegFormerHead) -> None:
        super().__init__()
        gain, bias = _affine(head.fuse.norm)
        weights = reversed(head.fuse.conv.weight.flatten(1).chunk(4, dim=1))
        chains = []
        conv: Any
        dense: Any
        for conv, dense, weight in zip(projections.convs, head.linears, weights, strict=True):
            mix: Tensor = gain[:, None] * (weight @ dense.weight)
            bias = bias + gain * (weight @ dense.bias) + mix @ conv.bias
            chains.append(_cheapest(conv.weight, mix))
        self.chains = nn.ModuleList(chains)
        self.bias = nn.Parameter(bias[None, :, None, None].clone())
        refine_gain, refine_bias = _affine(head.refine.norm)
        weight = refine_gain[:, None, None, None] * head.refine.conv.weight
        predict: Any = head.predict
        self.subpixel = head.refine.conv.padding_mode == "replicate"
        if self.subpixel:
            self.refine = _convolution(_after_doubling(weight), refine_bias.repeat(4), "replicate")
            by_pixel = torch.block_diag(*[predict.weight.flatten(1)] * 4)
            self.predict = _convolution(by_pixel[:, :, None, None], predict.bias.repeat(4))
        else:
            self.refine = _convolution(weight, refine_bias)
            self.predict = copy.deepcopy(predict)

    def forward(self, query_maps: Sequence[Tensor]) -> Tensor:
        """Four (B, Q, h, w), fine to coarse, to logits (B, 1, 4 h, 4 w), with the h and w of the finest."""
        size = query_maps[0].shape[-2:]
        x: Tensor = self.bias
        for chain, maps in zip(self.chains, query_maps, strict=True):
            x = x + resize(chain(maps), size)
        x = F.relu(x)
        if self.subpixel:
            x = F.pixel_shuffle(self.predict(F.relu(self.refine(x))), 2)
        else:
            x = self.predict(F.relu(self.refine(resize(x, [2 * side for side in size]))))
        return resize(x, [4 * side for side in size])


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm in evaluation mode."""
    gain = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return gain, norm.bias - norm.running_mean * gain


def _cheapest(weight: Tensor, mix: Tensor) -> nn.Module:
    """A 3x3 convolution and a 1x1 convolution, merged if that takes no more multiplications."""
    channels, queries = weight.shape[:2]
    width = mix.shape[0]
    if 9 * queries * width <= 9 * queries * channels + channels * width:
        return _convolution(torch.einsum("wc,cqij->wqij", mix, weight), None)
    return nn.Sequential(_convolution(weight, None), _convolution(mix[:, :, None, None], None))


def _after_doubling(weight: Tensor) -> Tensor:
    """Bilinear upsampling by two and a 3x3 convolution as one at the lower resolution: (C, c, 3, 3) to (4 C, c, 3, 3).

    The output channels are ordered by pixel (top left, top right, bottom left, bottom right), then by channel.
    """
    # Of output pixel p in 0, 1: how much tap k in -1, 0, 1 reads of the low-resolution neighbours -1, 0, 1.
    near, far = 0.75, 0.25
    taps = weight.new_tensor(
        [
            [[near, far, 0], [far, near, 0], [0, near, far]],
            [[far, near, 0], [0, near, far], [0, far, near]],
        ]
    )
    return torch.einsum("pkj,qli,ockl->pqocji", taps, taps, weight).flatten(0, 2)


def _convolution(weight: Tensor, bias: Tensor | None, padding: Padding = "zeros") -> nn.Conv2d:
    out_channels, in_channels, kernel, _ = weight.shape
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, padding=kernel // 2, bias=bias is not None, padding_mode=padding
    )
    conv.weight = nn.Parameter(weight.clone())
    if bias is not None:
        conv.bias = nn.Parameter(bias.clone())
    return conv


def fold_batch_norms(encoder: nn.Module) -> nn.Module:
    """Fold batch norms that directly follow a convolution into it.

    Pairs of convolution and norm are found by running the encoder once. The outputs of the folded copy are compared
    with those of the encoder in float64; if they differ (the output of a convolution is used twice), nothing is folded.

    Args:
        encoder: A backbone in evaluation mode; not modified.

    Returns:
        The folded copy, or ``encoder`` itself if nothing was folded.
    """
    reference = next(encoder.parameters())
    folded = copy.deepcopy(encoder).double()
    probe = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(reference.device, torch.float64)
    with torch.no_grad():
        expected = folded(probe)
        pairs = _pairs(folded, probe)
        for conv, norm in pairs:
            _fold(folded, conv, norm)
        same = all(
            (a - b).abs().max() <= _TOLERANCE * a.abs().max().clamp_min(1)
            for a, b in zip(expected, folded(probe), strict=True)
        )
    return folded.to(reference.dtype) if pairs and same else encoder


def _fold(encoder: nn.Module, conv: Any, norm: Any) -> None:
    gain, bias = _affine(norm)
    if conv.bias is not None:
        bias = bias + gain * conv.bias
    conv.weight = nn.Parameter(gain[:, None, None, None] * conv.weight)
    conv.bias = nn.Parameter(bias)
    name = next(name for name, module in encoder.named_modules() if module is norm)
    parent, _, name = name.rpartition(".")
    # timm's norm layers include the activation that follows.
    rest = nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()
    setattr(encoder.get_submodule(parent), name, rest)


def _pairs(encoder: nn.Module, probe: Tensor) -> list[tuple[nn.Module, nn.Module]]:
    """Convolutions and the batch norms applied to their outputs."""
    # Outputs are kept alive, because identity is compared and a freed tensor's id may be reused.
    outputs: list[tuple[Tensor, nn.Module]] = []
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def leave(conv: nn.Module, _: Any, output: Tensor) -> None:
        outputs.append((output, conv))

    def enter(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        pairs.extend((conv, norm) for output, conv in outputs if output is inputs[0])

    hooks = []
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(leave))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats and module.affine:
            hooks.append(module.register_forward_pre_hook(enter))
    encoder(probe)
    for hook in hooks:
        hook.remove()
    return pairs

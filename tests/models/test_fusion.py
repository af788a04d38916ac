"""Fusions of appearance and motion pyramids against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskvos.models.fusion import ConcatFusion, FlowOnly, Fusion, GatedFusion, RGBOnly, SumFusion

RGB, FLOW = (4, 6), (3, 6)


def pyramids() -> tuple[list[Tensor], list[Tensor]]:
    """Two scales of each stream, 8x10 and 4x5 pixels, for a batch of 2."""
    torch.manual_seed(0)
    rgb, flow = (
        [torch.randn(2, c, 8 // s, 10 // s) for c, s in zip(widths, (1, 2), strict=True)] for widths in (RGB, FLOW)
    )
    return rgb, flow


def assert_fused(fusion: Fusion, expected: list[Tensor]) -> None:
    fused = fusion(*pyramids())
    first, second = fusion.channels
    assert [tuple(one.shape) for one in fused] == [(2, first, 8, 10), (2, second, 4, 5)]
    torch.testing.assert_close(fused, expected)


@pytest.mark.parametrize("channels", [None, (5, 7)])
def test_concatenation_is_projected(channels: tuple[int, ...] | None) -> None:
    fusion = ConcatFusion(RGB, FLOW, channels)
    assert fusion.channels == (channels or RGB)
    both = [torch.cat(pair, 1) for pair in zip(*pyramids(), strict=True)]
    assert_fused(fusion, [F.conv2d(x, p.weight, p.bias) for x, p in zip(both, fusion.projections, strict=True)])


def test_sum_projects_motion_only_where_widths_differ() -> None:
    fusion = SumFusion(RGB, FLOW)
    rgb, flow = pyramids()
    first = fusion.projections[0]
    assert_fused(fusion, [rgb[0] + F.conv2d(flow[0], first.weight, first.bias), rgb[1] + flow[1]])


def test_gates_scale_both_streams() -> None:
    fusion = GatedFusion(RGB, FLOW)
    expected = []
    for a, b, gate, project in zip(*pyramids(), fusion.gates, fusion.projections, strict=True):
        x = torch.cat((a, b), 1)
        x = x * torch.sigmoid(F.conv2d(x, gate.weight, gate.bias))
        expected.append(F.conv2d(x, project.weight, project.bias))
    assert_fused(fusion, expected)
    for gate in fusion.gates:  # closed gates: the bias of the projection is left
        torch.nn.init.constant_(gate.bias, -1e4)
    closed = [p.bias.view(1, -1, 1, 1).expand_as(x) for p, x in zip(fusion.projections, expected, strict=True)]
    assert_fused(fusion, closed)


@pytest.mark.parametrize(("cls", "stream", "channels"), [(RGBOnly, 0, RGB), (FlowOnly, 1, FLOW)])
def test_a_single_stream_passes_unchanged(cls: type[Fusion], stream: int, channels: tuple[int, ...]) -> None:
    fusion = cls(RGB, FLOW)
    assert fusion.channels == channels
    assert fusion.streams == (("rgb", "flow")[stream],)
    features = pyramids()[stream]
    pair = [[], []]
    pair[stream] = features
    assert fusion(*pair) == features


@pytest.mark.parametrize("cls", [ConcatFusion, SumFusion, GatedFusion])
def test_pyramids_of_different_depth_are_rejected(cls: type[Fusion]) -> None:
    with pytest.raises(ValueError, match="zip"):
        cls(RGB, FLOW[:1])
    fusion = cls(RGB, FLOW)
    rgb, flow = pyramids()
    for pair in ((rgb[:1], flow), (rgb, flow[:1]), (rgb[:1], flow[:1])):
        with pytest.raises(ValueError, match="zip"):
            fusion(*pair)


def test_channels_of_a_concatenation_have_to_be_as_many_as_the_scales() -> None:
    with pytest.raises(ValueError, match="zip"):
        ConcatFusion(RGB, FLOW, (5,))

"""What the encoders see of the flow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskvos.models.inputs import CompensatedInputs, InputEncoder
from maskvos.run import build_system, compose
from maskvos.weights.export import ExportedNetwork, export


def camera(height: int, width: int, seed: int = 0) -> Tensor:
    """A random affine flow (1, 2, H, W) of some pixels."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(2, 3, generator=generator) * torch.tensor([5.0, 3.0, 3.0])
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.einsum("cp,phw->chw", matrix, torch.stack((torch.ones_like(x), x, y)))[None]


@pytest.mark.parametrize("size", [(96, 160), (65, 111), (160, 96)])
@pytest.mark.parametrize("seed", range(3))
def test_only_what_moves_against_the_background_is_left(size: tuple[int, int], seed: int) -> None:
    height, width = size
    flow = camera(height, width, seed)
    rows, columns = slice(height // 3, height // 2), slice(width // 4, width // 2)
    flow[0, :, rows, columns] += torch.tensor([4.0, -3.0])[:, None, None]
    rest = CompensatedInputs().compensate(flow)
    inside = torch.zeros(size, dtype=torch.bool)
    inside[rows, columns] = True
    assert rest[0][:, ~inside].abs().max() < 0.02
    torch.testing.assert_close(rest[0][:, inside].mean(1), torch.tensor([4.0, -3.0]), atol=0.02, rtol=0)


def test_maps_of_a_batch_do_not_touch_one_another() -> None:
    flows = torch.cat([camera(64, 96, seed) + torch.randn(1, 2, 64, 96) for seed in range(3)])
    encoder = CompensatedInputs()
    together = encoder.compensate(flows)
    torch.testing.assert_close(together, torch.cat([encoder.compensate(flow[None]) for flow in flows]))


def test_no_motion_and_no_spread_stay_finite() -> None:
    rgb, flow = torch.rand(1, 3, 64, 96), torch.zeros(1, 2, 64, 96)
    _, drawn = CompensatedInputs()(rgb, flow)
    assert drawn.abs().max() < 1e-3
    _, drawn = CompensatedInputs()(rgb, flow + 7)
    assert drawn.abs().max() < 1e-3


def test_slow_and_fast_objects_look_alike_in_direction() -> None:
    flow = torch.zeros(1, 2, 64, 96)
    flow[0, 0, 20:40, 30:60] = 2.0
    encoder, rgb = CompensatedInputs(), torch.rand(1, 3, 64, 96)
    slow, fast = encoder(rgb, flow)[1], encoder(rgb, 4 * flow)[1]
    torch.testing.assert_close(slow[:, :2], fast[:, :2], atol=1e-3, rtol=1e-3)
    assert fast[0, 2].max() > slow[0, 2].max() + 1  # its length tells them apart


@pytest.mark.parametrize("encoder", [InputEncoder(), CompensatedInputs()])
def test_a_still_image_takes_the_flows_place(encoder: InputEncoder) -> None:
    rgb, flow = torch.rand(2, 3, 64, 96), camera(64, 96).repeat(2, 1, 1, 1)
    seen, drawn = encoder(rgb, flow, motion=torch.tensor([True, False]))
    torch.testing.assert_close(drawn[1], seen[1])
    torch.testing.assert_close(drawn[0], encoder(rgb, flow)[1][0])


def test_compensation_can_be_exported_for_any_size(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    network = build_system(compose(["+experiment=light", "backbone=tiny", "model/pixel_decoder=fpn"])).network.eval()
    exported = ExportedNetwork(export(network, tmp_path / "light.onnx"), "onnx")
    rgb, flow = torch.rand(2, 3, 128, 224), camera(128, 224).repeat(2, 1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(exported.segment(rgb, flow), network.segment(rgb, flow), atol=1e-3, rtol=1e-3)

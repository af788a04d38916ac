"""Input preprocessing: camera motion compensation and motion as option."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maskvos.models.inputs import CompensatedInputs, InputEncoder
from maskvos.weights.export import export, load_exported


def camera(height: int, width: int, seed: int = 0) -> Tensor:
    """A random affine flow field (1, 2, H, W), pixels."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(2, 3, generator=generator) * torch.tensor([5.0, 3.0, 3.0])
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.einsum("cp,phw->chw", matrix, torch.stack((torch.ones_like(x), x, y)))[None]


@pytest.mark.parametrize("size", [(96, 160), (65, 111), (160, 96)])
@pytest.mark.parametrize("seed", range(3))
def test_camera_motion_is_removed(size: tuple[int, int], seed: int) -> None:
    height, width = size
    flow = camera(height, width, seed)
    rows, columns = slice(height // 3, height // 2), slice(width // 4, width // 2)
    flow[0, :, rows, columns] += torch.tensor([4.0, -3.0])[:, None, None]
    residual = CompensatedInputs().compensate(flow)
    inside = torch.zeros(size, dtype=torch.bool)
    inside[rows, columns] = True
    assert residual[0][:, ~inside].abs().max() < 0.02
    torch.testing.assert_close(residual[0][:, inside].mean(1), torch.tensor([4.0, -3.0]), atol=0.02, rtol=0)


def test_samples_of_a_batch_are_independent() -> None:
    flows = torch.cat([camera(64, 96, seed) + torch.randn(1, 2, 64, 96) for seed in range(3)])
    encoder = CompensatedInputs()
    together = encoder.compensate(flows)
    torch.testing.assert_close(together, torch.cat([encoder.compensate(flow[None]) for flow in flows]))


def test_zero_and_constant_flow_give_zero_channels() -> None:
    rgb, flow = torch.rand(1, 3, 64, 96), torch.zeros(1, 2, 64, 96)
    _, drawn = CompensatedInputs()(rgb, flow)
    assert drawn.abs().max() < 1e-3
    _, drawn = CompensatedInputs()(rgb, flow + 7)
    assert drawn.abs().max() < 1e-3


def test_direction_channels_do_not_depend_on_speed() -> None:
    flow = torch.zeros(1, 2, 64, 96)
    flow[0, 0, 20:40, 30:60] = 2.0
    encoder, rgb = CompensatedInputs(), torch.rand(1, 3, 64, 96)
    slow, fast = encoder(rgb, flow)[1], encoder(rgb, 4 * flow)[1]
    torch.testing.assert_close(slow[:, :2], fast[:, :2], atol=1e-3, rtol=1e-3)
    assert fast[0, 2].max() > slow[0, 2].max() + 1  # but the magnitude channel does


@pytest.mark.parametrize("encoder", [InputEncoder(), CompensatedInputs()])
def test_motion_as_option_replaces_flow_by_the_frame(encoder: InputEncoder) -> None:
    rgb, flow = torch.rand(2, 3, 64, 96), camera(64, 96).repeat(2, 1, 1, 1)
    seen, drawn = encoder(rgb, flow, motion=torch.tensor([True, False]))
    torch.testing.assert_close(drawn[1], seen[1])
    torch.testing.assert_close(drawn[0], encoder(rgb, flow)[1][0])


def test_compensation_exports_with_dynamic_size(build: Callable[..., nn.Module], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    network = build("+experiment=light", "backbone=tiny", "model/pixel_decoder=fpn").eval()
    segment = load_exported(export(network, tmp_path / "light.onnx"))
    rgb, flow = torch.rand(2, 3, 128, 224), camera(128, 224).repeat(2, 1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(segment(rgb, flow), network.segment(rgb, flow), atol=1e-3, rtol=1e-3)


def test_compensation_passes_the_verifier_of_exported_programs(tmp_path: Path) -> None:
    rgb, flow = torch.rand(1, 3, 64, 96), camera(64, 96)
    program = torch.export.export(CompensatedInputs(), (rgb, flow))
    torch.export.save(program, tmp_path / "inputs.pt2")
    again = torch.export.load(tmp_path / "inputs.pt2").module()
    for found, expected in zip(again(rgb, flow), CompensatedInputs()(rgb, flow), strict=True):
        torch.testing.assert_close(found, expected)

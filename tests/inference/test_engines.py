"""Engines and devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maskvos.errors import UserError
from maskvos.inference.engines import ExportedEngine, TorchEngine, digest, resolve_device
from maskvos.models.network import MaskVOS
from maskvos.weights.export import export


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.rand(2, 3, 64, 96), 3 * torch.randn(2, 2, 64, 96)


@pytest.fixture(params=["torch", "onnx", "torchscript"])
def engine(request: pytest.FixtureRequest, tiny: MaskVOS, tmp_path: Path) -> Callable[..., Tensor]:
    """The contract test runs for every engine."""
    if request.param == "torch":
        return TorchEngine(tiny)
    pytest.importorskip("onnxruntime")
    return ExportedEngine(export(tiny, tmp_path / "network.bin", request.param), request.param)


def test_every_engine_gives_the_network_s_logits(
    engine: Callable[..., Tensor], tiny: MaskVOS, inputs: tuple[Tensor, Tensor]
) -> None:
    logits = engine(*inputs, torch.ones(2, dtype=torch.bool))
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(logits, tiny.segment(*inputs), atol=1e-3, rtol=0)
    assert len(engine.digest) == 16  # type: ignore[attr-defined]


def test_still_images_need_the_torch_engine(tiny: MaskVOS, tmp_path: Path, inputs: tuple[Tensor, Tensor]) -> None:
    still = torch.zeros(2, dtype=torch.bool)
    with torch.no_grad():
        expected = tiny.segment(*inputs, still)
    torch.testing.assert_close(TorchEngine(tiny)(*inputs, still), expected, atol=1e-4, rtol=0)
    exported = ExportedEngine(export(tiny, tmp_path / "network.ts", "torchscript"))
    with pytest.raises(UserError, match="backend=torch"):
        exported(*inputs, still)


def test_mixed_precision_is_close_and_other_precisions_are_refused(
    tiny: MaskVOS, inputs: tuple[Tensor, Tensor]
) -> None:
    full, mixed = TorchEngine(tiny)(*inputs), TorchEngine(tiny, precision="bf16-mixed")(*inputs)
    assert mixed.dtype == torch.float32
    assert not torch.equal(full, mixed)
    assert ((full > 0) == (mixed > 0)).float().mean() > 0.97
    with pytest.raises(UserError, match=r"bf16-true: not supported here; did you mean .*'bf16-mixed'"):
        TorchEngine(tiny, precision="bf16-true")


def test_digests_tell_weights_apart() -> None:
    layers = [nn.Linear(3, 2) for _ in range(2)]
    assert digest(layers[0]) == digest(layers[0])
    assert digest(layers[0]) != digest(layers[1])
    assert len(digest(layers[0].to(torch.bfloat16))) == 16


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="device=cuda: this device is not available"):
        resolve_device("gpu")
    with pytest.raises(UserError, match="device=cup: did you mean 'cpu'"):
        resolve_device("cup")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert resolve_device("auto") == torch.device("cuda", 1)
    assert resolve_device("cuda:0") == torch.device("cuda", 0)

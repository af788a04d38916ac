"""Engines and devices."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from maskvos.errors import UserError
from maskvos.inference import engines
from maskvos.inference.engines import Engine, OnnxEngine, OpenVINOEngine, has_gpu
from maskvos.inference.torch_engine import TorchEngine, TorchFileEngine, digest, resolve_device
from maskvos.models.network import MaskVOS
from maskvos.weights.export import export
from maskvos.weights.exported import suffix_of

Arrays = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def inputs() -> Arrays:
    rng = np.random.default_rng(0)
    return rng.random((2, 3, 64, 96), np.float32), 3 * rng.standard_normal((2, 2, 64, 96), np.float32)


def expected(network: MaskVOS, inputs: Arrays, motion: np.ndarray | None = None) -> np.ndarray:
    rgb, flow = map(torch.from_numpy, inputs)
    with torch.no_grad():
        return network.segment(rgb, flow, None if motion is None else torch.from_numpy(motion)).numpy()


@pytest.fixture(scope="module")
def files(tiny: MaskVOS, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The network as exported files, by format."""
    pytest.importorskip("onnx")
    place = tmp_path_factory.mktemp("files")
    return {name: export(tiny, place / f"network{suffix_of(name)}", name) for name in ("onnx", "torchscript")}


@pytest.fixture(params=["torch", "onnx", "openvino", "torchscript"])
def engine(request: pytest.FixtureRequest, tiny: MaskVOS, files: dict[str, Path]) -> Engine:
    """The contract tests run for every engine."""
    if request.param == "torch":
        return TorchEngine(tiny)
    if request.param == "torchscript":
        return TorchFileEngine(files["torchscript"], "torchscript")
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    return {"onnx": OnnxEngine, "openvino": OpenVINOEngine}[request.param](files["onnx"])


def test_every_engine_gives_the_network_s_logits(engine: Engine, tiny: MaskVOS, inputs: Arrays) -> None:
    logits = engine(*inputs, np.ones(2, bool))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected(tiny, inputs), atol=1e-3, rtol=0)
    np.testing.assert_allclose(engine.alone()(*inputs), logits, atol=1e-3, rtol=0)
    assert len(engine.digest) == 16


def test_every_engine_may_be_called_by_its_number_of_workers(engine: Engine, inputs: Arrays) -> None:
    rgb, flow = inputs
    calls = [(np.roll(rgb, shift, -1), flow) for shift in range(8)]
    alone = [engine(*call) for call in calls]
    with ThreadPoolExecutor(engine.workers) as pool:
        together = list(pool.map(lambda call: engine(*call), calls))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3


def test_nothing_is_reported_about_the_use(files: dict[str, Path], tmp_path: Path) -> None:
    code = f"from maskvos.inference.engines import OnnxEngine; OnnxEngine({str(files['onnx'])!r})"
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_signals_are_handled_after_openvino_is_released(files: dict[str, Path]) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    code = f"""
import os, signal
from maskvos.inference.engines import OpenVINOEngine
engines = [OpenVINOEngine({str(files["onnx"])!r}) for _ in range(2)]
while engines:
    del engines[0]
signal.signal(signal.SIGUSR1, lambda *given: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout == b"handled\n"


def test_still_images_need_the_torch_engine(tiny: MaskVOS, files: dict[str, Path], inputs: Arrays) -> None:
    still = np.zeros(2, bool)
    np.testing.assert_allclose(TorchEngine(tiny)(*inputs, still), expected(tiny, inputs, still), atol=1e-4, rtol=0)
    for exported in (TorchFileEngine(files["torchscript"], "torchscript"), OnnxEngine(files["onnx"])):
        with pytest.raises(UserError, match="backend=torch"):
            exported(*inputs, still)


def test_mixed_precision_is_close_and_other_precisions_are_refused(tiny: MaskVOS, inputs: Arrays) -> None:
    full, mixed = TorchEngine(tiny)(*inputs), TorchEngine(tiny, precision="bf16-mixed")(*inputs)
    assert mixed.dtype == np.float32
    assert not np.array_equal(full, mixed)
    assert ((full > 0) == (mixed > 0)).mean() > 0.97
    with pytest.raises(UserError, match=r"bf16-true: must be a precision .*bf16-mixed"):
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
    monkeypatch.setattr(engines.sys, "platform", "darwin")
    assert not has_gpu()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert has_gpu()
    assert resolve_device("auto") == resolve_device("mps") == resolve_device("gpu") == torch.device("mps")
    assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"  # read when PyTorch is loaded
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert resolve_device("auto") == torch.device("cuda", 1)
    assert resolve_device("cuda:0") == torch.device("cuda", 0)

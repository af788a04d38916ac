"""Exported networks run on their own and give the same logits."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from maskvos.errors import UserError
from maskvos.inference.engines import OpenVINOEngine
from maskvos.models.network import MaskVOS
from maskvos.weights.export import export, load_exported
from maskvos.weights.exported import exported_config, suffix_of

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def inputs(batch: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(height)
    return (
        torch.rand(batch, 3, height, width, generator=generator),
        3 * torch.randn(batch, 2, height, width, generator=generator),
    )


@pytest.mark.parametrize("file_format", ["onnx", "torchscript", pytest.param("pt2", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "backbone",
    [
        "tiny",
        pytest.param("mit_b0", marks=pytest.mark.slow),
        pytest.param("swin_t", marks=pytest.mark.slow),
        pytest.param("resnet18", marks=pytest.mark.slow),
    ],
)
def test_any_batch_and_size(build: Callable[..., nn.Module], backbone: str, file_format: str, tmp_path: Path) -> None:
    if file_format == "onnx":
        pytest.importorskip("onnxruntime")
    if (file_format, backbone) == ("pt2", "swin_t"):
        pytest.skip("torch.export fixes the size of networks with windows")
    network = build("model=maskvos_tiny", f"backbone={backbone}").eval()
    path = export(network, tmp_path / f"network{suffix_of(file_format)}", file_format)
    segment = load_exported(path)
    for size in [(1, 64, 64), (3, 97, 130), (1, 224, 96)]:
        rgb, flow = inputs(*size)
        with torch.no_grad():
            torch.testing.assert_close(segment(rgb, flow), network.segment(rgb, flow), atol=1e-3, rtol=0)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("fusion", ["rgb_only", "flow_only"])
def test_a_network_of_one_stream_still_takes_both_inputs(
    build: Callable[..., nn.Module], fusion: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    network = build("model=maskvos_tiny", "backbone=tiny", f"model/fusion={fusion}").eval()
    path = export(network, tmp_path / "network.onnx")
    rgb, flow = inputs(1, 64, 96)
    with torch.no_grad():
        expected = network.segment(rgb, flow)
    torch.testing.assert_close(load_exported(path)(rgb, flow), expected, atol=1e-3, rtol=0)
    pytest.importorskip("openvino")
    found = torch.from_numpy(OpenVINOEngine(path)(rgb.numpy(), flow.numpy()))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_pt2_of_windows_takes_any_batch_of_one_size(build: Callable[..., nn.Module], tmp_path: Path) -> None:
    network = build("model=maskvos_tiny", "backbone=swin_t").eval()
    segment = load_exported(export(network, tmp_path / "network.pt2", "pt2", size=(64, 96)))
    rgb, flow = inputs(3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(segment(rgb, flow), network.segment(rgb, flow), atol=1e-3, rtol=0)


def test_an_onnx_file_runs_without_maskvos(tiny: MaskVOS, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    export(tiny, tmp_path / "network.onnx", "onnx")
    program = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
zeros = numpy.zeros((1, 3, 64, 96), "float32"), numpy.zeros((1, 2, 64, 96), "float32")
assert session.run(None, {"rgb": zeros[0], "flow": zeros[1]})[0].shape == (1, 1, 64, 96)
assert not any(name.split(".")[0] in ("maskvos", "torch") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "network.onnx")], check=True)


def test_a_file_with_other_logits_is_not_kept(tiny: MaskVOS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskvos.weights.export.load_exported", lambda *_: lambda rgb, flow: rgb[:, :1] + 50)
    with pytest.raises(UserError, match="differ"):
        export(tiny, tmp_path / "network.ts", "torchscript")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
@pytest.mark.parametrize("suffix", ["ts", "onnx", pytest.param("pt2", marks=pytest.mark.slow)])
def test_inputs_of_any_device_and_precision(tiny: MaskVOS, tmp_path: Path, suffix: str, device: str) -> None:
    pytest.importorskip("onnxruntime")
    formats = {"ts": "torchscript", "onnx": "onnx", "pt2": "pt2"}
    path = export(tiny, tmp_path / f"network.{suffix}", formats[suffix])
    segment = load_exported(path)
    for precision in (torch.float32, torch.bfloat16, torch.float64):
        rgb, flow = (tensor.to(precision) for tensor in inputs(1, 64, 96))
        logits = segment(rgb.to(device), flow.to(device))
        assert logits.device.type == device
        with torch.no_grad():
            torch.testing.assert_close(logits.cpu(), tiny.segment(rgb.float(), flow.float()), atol=1e-3, rtol=0)


def test_a_file_that_cannot_be_written_is_named(tiny: MaskVOS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"network\.ts could not be written .*another place"):
        export(tiny, tmp_path / "file" / "network.ts", "torchscript")

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="disk is full"):
        export(tiny, tmp_path / "new" / "network.ts", "torchscript")
    assert list((tmp_path / "new").iterdir()) == []


def test_mistakes_are_named(tiny: MaskVOS, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'onnx'"):
        export(tiny, tmp_path / "x.onnx", "onx")
    with pytest.raises(UserError, match="no file"):
        load_exported(tmp_path / "absent.onnx")
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(UserError, match="suffixes"):
        load_exported(tmp_path / "x.bin")
    for suffix in ("onnx", "ts", "pt2"):
        pytest.importorskip("onnxruntime")
        (tmp_path / f"broken.{suffix}").write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match=f"broken.{suffix}"):
            load_exported(tmp_path / f"broken.{suffix}")


def notes(path: Path) -> dict[str, str]:
    """What a file says of itself, as others than maskvos read it."""
    if path.suffix == ".onnx":
        import onnxruntime

        return onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    with zipfile.ZipFile(path) as archive:
        [entry] = [name for name in archive.namelist() if name.endswith("extra/about.json")]
        return json.loads(archive.read(entry))


@pytest.mark.parametrize("file_format", ["onnx", "torchscript", pytest.param("pt2", marks=pytest.mark.slow)])
def test_the_configuration_is_stored_in_the_file(tiny: MaskVOS, tmp_path: Path, file_format: str) -> None:
    pytest.importorskip("onnxruntime")
    config = {"data": {"size": [64, 96]}, "tta": {"mirror": True, "flow": None}, "flow": {"direction": "backward"}}
    for number, stored in enumerate((config, None)):
        path = export(tiny, tmp_path / f"{number}{suffix_of(file_format)}", file_format, config=stored)
        assert exported_config(path) == stored
        about = notes(path)
        assert about.get("size") == (None if stored is None else "64x96")
        assert "RGB from 0 to 1" in about["rgb"]
        assert f"to the {'next' if stored is None else 'previous'} frame, in pixels" in about["flow"]
        assert about["logits"].startswith("(batch, 1, height, width)")

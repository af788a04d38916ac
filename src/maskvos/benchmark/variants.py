"""Forms in which a network runs: eager, folded, compiled, ONNX Runtime, OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maskvos.errors import UserError
from maskvos.inference.engines import OpenVINOEngine
from maskvos.models.network import MaskVOS
from maskvos.weights.export import export, load_exported

Forward = Callable[[Tensor, Tensor], Any]
"""Maps rgb (B, 3, H, W) in [0, 1] and flow (B, 2, H, W) in pixels to logits."""


class Setting(NamedTuple):
    """Where and how variants run.

    Attributes:
        folder: Folder for exported files.
        threads: CPU threads.
        device: Device of the network and its inputs.
        dtype: Autocast dtype; None for float32 without autocast.
    """

    folder: Path
    threads: int
    device: torch.device
    dtype: torch.dtype | None = None


def autocast(segment: Forward, setting: Setting) -> Forward:
    """Run a network under autocast if the setting has a dtype."""
    if setting.dtype is None:
        return segment

    def run(rgb: Tensor, flow: Tensor) -> Any:
        with torch.autocast(setting.device.type, setting.dtype):
            return segment(rgb, flow)

    return run


def _eager(network: MaskVOS, setting: Setting) -> Forward:
    return autocast(network.segment, setting)


def _folded(network: MaskVOS, setting: Setting) -> Forward:
    return autocast(network.fold().segment, setting)


def _compiled(network: MaskVOS, setting: Setting) -> Forward:
    return autocast(torch.compile(network.fold().segment, dynamic=False), setting)


def _onnx(network: MaskVOS, setting: Setting) -> Forward:
    return load_exported(_onnx_file(network, setting), "onnx", setting.threads)


def _openvino(network: MaskVOS, setting: Setting) -> Forward:
    precision = {None: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}[setting.dtype]
    engine = OpenVINOEngine(_onnx_file(network, setting._replace(dtype=None)), precision, setting.threads)
    return lambda rgb, flow: engine(rgb.numpy(), flow.numpy())


def _onnx_file(network: MaskVOS, setting: Setting) -> Path:
    """Export the network to ONNX once, and return the file."""
    if setting.device.type != "cpu":
        raise UserError("exported files run on the CPU only; measure them with trainer.accelerator=cpu")
    if setting.dtype is not None:
        raise UserError("ONNX Runtime computes in float32; measure it with trainer.precision=32-true")
    path = setting.folder / "network.onnx"
    return path if path.exists() else export(network, path)


VARIANTS: dict[str, Callable[[MaskVOS, Setting], Forward]] = {
    "eager": _eager,
    "folded": _folded,
    "compile": _compiled,
    "onnx": _onnx,
    "openvino": _openvino,
}
OUTSIDE_TORCH = ("onnx", "openvino")
"""Variants that do not allocate through PyTorch, so that their peak memory is not measured."""

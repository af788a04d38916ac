"""The network in files that run without maskvos, and running such files."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from maskvos.errors import UserError, nearest
from maskvos.media.files import cannot_write
from maskvos.models.network import MaskVOS

# What a written network may differ from the living one by, in logits.
_TOLERANCE = 1e-3
_OPSET = 17
_INPUTS = ("rgb", "flow")
_SUFFIXES = {".onnx": "onnx", ".ts": "torchscript", ".torchscript": "torchscript", ".pt2": "pt2"}


def suffix_of(file_format: str) -> str:
    """The suffix that files of a format have.

    Raises:
        UserError: The format is unknown.
    """
    for suffix, name in _SUFFIXES.items():
        if name == file_format:
            return suffix
    raise UserError(f"format: {file_format!r} is unknown; {nearest(file_format, set(_SUFFIXES.values()))}")


class _Segment(nn.Module):
    """`MaskVOS.segment` as the forward of a module, which is what exporters take."""

    def __init__(self, network: MaskVOS) -> None:
        super().__init__()
        self.network = network.fuse()

    def forward(self, rgb: Tensor, flow: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [0, 1] and flow (B, 2, H, W) in pixels to logits (B, 1, H, W)."""
        return cast(Tensor, self.network.segment(rgb, flow))


def export(network: MaskVOS, path: str | Path, file_format: str = "onnx", size: tuple[int, int] = (512, 512)) -> Path:
    """Write the network, inputs' encoding included, and check that the file gives the same logits.

    Inputs are ``rgb`` (B, 3, H, W) float32 in [0, 1] and ``flow`` (B, 2, H, W) float32 in pixels; the output is
    ``logits`` (B, 1, H, W), for any batch and size; ``pt2`` of a network with windows (Swin) takes one size only.

    Args:
        network: A trained network on the CPU; unchanged.
        path: The file to write; it appears only when it is whole and checked.
        file_format: ``"onnx"``, ``"torchscript"`` or ``"pt2"`` (``torch.export``).
        size: (H, W) for a file that takes one size only.

    Returns:
        The path.

    Raises:
        UserError: The format is unknown, a package is missing, the file's logits differ by more than 1e-3, or it
            cannot be written.
    """
    writers: dict[str, Callable[[nn.Module, Path, tuple[int, int] | None], None]] = {
        "onnx": _write_onnx,
        "torchscript": _write_torchscript,
        "pt2": _write_pt2,
    }
    if file_format not in writers:
        raise UserError(f"format: {file_format!r} is unknown; {nearest(file_format, writers)}")
    path = Path(path)
    module = _Segment(network).eval()
    windows = any(not getattr(part, "open_size", True) for part in network.modules())
    only = size if file_format == "pt2" and windows else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder, torch.no_grad():
            draft = Path(folder, f"draft{path.suffix}")
            writers[file_format](module, draft, only)
            _check(module, draft, file_format, only)
            os.replace(draft, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def _example(batch: int, size: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(batch, 3, *size, generator=generator),
        3 * torch.randn(batch, 2, *size, generator=generator),
    )


def _write_onnx(module: nn.Module, path: Path, only: tuple[int, int] | None) -> None:
    _require("onnx")
    _require("onnxruntime")
    axes = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        # The tracer warns of every Python branch on a shape, and of its own age; `_check` tries other shapes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            _example(2, (128, 160)),
            str(path),
            input_names=list(_INPUTS),
            output_names=["logits"],
            dynamic_axes={name: axes for name in (*_INPUTS, "logits")},
            opset_version=_OPSET,
            dynamo=False,
        )


def _write_torchscript(module: nn.Module, path: Path, only: tuple[int, int] | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as for ONNX
        # Through memory, here and below: writing itself, PyTorch does not tell a full disk from other failures.
        written = io.BytesIO()
        torch.jit.save(torch.jit.trace(module, _example(2, (128, 160)), check_trace=False), written)
    path.write_bytes(written.getvalue())


def _write_pt2(module: nn.Module, path: Path, only: tuple[int, int] | None) -> None:
    axes = {axis: torch.export.Dim.AUTO for axis in ((0, 2, 3) if only is None else (0,))}
    program = torch.export.export(module, _example(2, only or (128, 160)), dynamic_shapes=(axes, axes))
    written = io.BytesIO()
    torch.export.save(program, written)
    path.write_bytes(written.getvalue())


def _check(module: nn.Module, path: Path, file_format: str, only: tuple[int, int] | None) -> None:
    """Compare with the living network, at other batches and sizes too (but for a file of one size)."""
    segment = load_exported(path, file_format)
    for batch, shape in enumerate([only] if only else [(128, 160), (90, 133)], start=1):
        inputs = _example(batch, shape, seed=batch)
        try:
            written = segment(*inputs)
        except (RuntimeError, AssertionError) as error:  # what a size that was not left open gives
            raise UserError(
                f"export: the {file_format} file does not take a batch of {batch} at {shape} ({str(error)[:120]}); "
                "this network cannot be written so: choose another format"
            ) from error
        difference = (written - module(*inputs)).abs().max().item()
        if not difference <= _TOLERANCE:
            raise UserError(
                f"export: the {file_format} file's logits differ by {difference:.2g} (at most {_TOLERANCE:g} is right) "
                f"for a batch of {batch} at {shape}; this network cannot be written so: choose another format"
            )


def load_exported(
    path: str | Path, file_format: str | None = None, threads: int | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Open a file that `export` wrote.

    Args:
        path: The file.
        file_format: As for `export`; by default told from the suffix (``.onnx``, ``.ts``, ``.torchscript``, ``.pt2``).
        threads: CPU threads of ONNX Runtime; its own choice by default.

    Returns:
        A function of ``rgb`` (B, 3, H, W) in [0, 1] and ``flow`` (B, 2, H, W) in pixels that gives logits: it
        computes on the CPU in float32, and its result is on the device of ``rgb``.

    Raises:
        UserError: There is no such file, it cannot be read, or a package is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"exported network: no file '{path}'; write one with task=export")
    chosen = file_format or _SUFFIXES.get(path.suffix)
    if chosen is None:
        raise UserError(f"exported network: '{path}' has none of the suffixes {', '.join(_SUFFIXES)}; rename it")
    if chosen == "onnx":
        return _on_cpu(_load_onnx(path, threads))
    if not zipfile.is_zipfile(path):
        raise UserError(f"exported network: '{path}' is no {chosen} file; it is damaged or cut short: write it again")
    try:
        module = torch.jit.load(path) if chosen == "torchscript" else torch.export.load(path).module()
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(f"exported network: '{path}' cannot be read as {chosen} ({str(error)[:120]})") from error
    return _on_cpu(module)


def _on_cpu(module: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A function for inputs on any device around one that computes on the CPU, where files were written."""

    @torch.no_grad()
    def segment(rgb: Tensor, flow: Tensor) -> Tensor:
        logits = module(*(tensor.to("cpu", torch.float32) for tensor in (rgb, flow)))
        return logits.to(rgb.device)

    return segment


class ExportedNetwork(nn.Module):
    """A file that `export` wrote, in the place of the network.

    Args:
        path: The file.
        file_format: As for `export`.

    Raises:
        UserError: As `load_exported`.
    """

    digest: Tensor

    def __init__(self, path: str | Path, file_format: str) -> None:
        super().__init__()
        suffix_of(file_format)
        self._segment = load_exported(path, file_format)
        # Stands for the weights, so that results of two files are not taken for one another's.
        digest = hashlib.sha256(Path(path).read_bytes()).digest()
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))

    def segment(self, rgb: Tensor, flow: Tensor, motion: Tensor | None = None) -> Tensor:
        """As `MaskVOS.segment`, but the motion stream always sees the flow.

        Raises:
            UserError: A sample asks that it see the frame.
        """
        if motion is not None and not bool(motion.all()):
            raise UserError("an exported network cannot leave the motion out; use backend=torch for still images")
        return self._segment(rgb, flow)


def _load_onnx(path: Path, threads: int | None) -> Callable[[Tensor, Tensor], Tensor]:
    _require("onnxruntime")
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf) as error:
        raise UserError(f"exported network: '{path}' cannot be read as onnx ({str(error)[:120]})") from error

    def segment(rgb: Tensor, flow: Tensor) -> Tensor:
        feeds = {"rgb": rgb.numpy(), "flow": flow.numpy()}
        return torch.from_numpy(session.run(["logits"], feeds)[0])

    return segment


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"export: the package '{package}' is not installed; pip install onnx onnxruntime")

"""Export of a network to ONNX, TorchScript or torch.export, with verification."""

from __future__ import annotations

import io
import json
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._export.verifier import SpecViolationError

from maskvos.errors import UserError, nearest, require
from maskvos.media.files import cannot_write
from maskvos.models.network import MaskVOS
from maskvos.models.state_dict import DAMAGED
from maskvos.weights.exported import ABOUT, CONFIG, describe, identify
from maskvos.weights.onnx_file import open_onnx

# Largest difference in logits between an exported network and the original, as a part of the largest logit. Weights in
# half precision are rounded after batch norms are folded into them, by up to 0.05% each.
_TOLERANCE = 1e-3
_HALF_TOLERANCE = 0.05
_OPSET = 17
_INPUTS = {"rgb": 3, "flow": 2}  # with their channels


class _Segment(nn.Module):
    """`MaskVOS.segment` as the forward method of a module, as exporters need it."""

    def __init__(self, network: MaskVOS) -> None:
        super().__init__()
        self.network = network.fold()

    def forward(self, rgb: Tensor, flow: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [0, 1] and flow (B, 2, H, W) in pixels to logits (B, 1, H, W)."""
        return self.network.segment(rgb, flow)


def export(
    network: MaskVOS,
    path: str | Path,
    file_format: str = "onnx",
    size: tuple[int, int] = (512, 512),
    config: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Export a network, input encoding included, and verify that the file gives the same logits.

    Inputs are ``rgb`` (B, 3, H, W) float32 in [0, 1] and ``flow`` (B, 2, H, W) float32 in pixels; the output is
    ``logits`` (B, 1, H, W), for any batch and size. A ``pt2`` file of a network with windows (Swin) has a fixed size.

    Args:
        network: A trained network on the CPU; unchanged.
        path: The file, written only when it has been verified.
        file_format: ``"onnx"``, ``"torchscript"`` or ``"pt2"`` (``torch.export``).
        size: (H, W) of a file with a fixed size.
        config: How the network is used, stored in the file, see `exported_config`, together with `describe`.
        half: Store the weights of an ONNX file in half precision, at half the size; it still computes in float32.

    Returns:
        The path.

    Raises:
        UserError: The format is unknown, a package is missing, the file's logits differ by more than 1e-3 (0.05 in half
            precision) of the largest, or it cannot be written.
    """
    writers: dict[str, Callable[[nn.Module, Path, tuple[int, int] | None, dict[str, str]], None]] = {
        "onnx": _write_onnx,
        "torchscript": _write_torchscript,
        "pt2": _write_pt2,
    }
    if file_format not in writers:
        raise UserError(f"format: {file_format!r} is unknown; {nearest(file_format, writers)}")
    path = Path(path).expanduser()
    module = _Segment(network).eval()
    windows = any(not getattr(part, "dynamic_size", True) for part in network.modules())
    only = size if file_format == "pt2" and windows else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder, torch.no_grad():
            draft = Path(folder, f"draft{path.suffix}")
            notes = {CONFIG: json.dumps(config or {}), **describe(config or {}, fixed=only is not None)}
            writers[file_format](module, draft, only, notes)
            _verify(module, draft, file_format, only, _TOLERANCE)
            if half and file_format == "onnx":
                _halve_onnx(draft)
                _verify(module, draft, file_format, only, _HALF_TOLERANCE)
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


def _write_onnx(module: nn.Module, path: Path, only: tuple[int, int] | None, notes: dict[str, str]) -> None:
    require("onnx")
    require("onnxruntime")
    import onnx

    axes = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        # The tracer warns about Python branches on shapes, and about its deprecation; `_verify` tries other shapes.
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
    model = onnx.load(path)
    for index, (name, channels) in enumerate(_INPUTS.items()):
        # The tracer leaves out an input that is not used, such as flow in a network of one stream.
        if name not in [given.name for given in model.graph.input]:
            shape: list[str | int | None] = ["batch", channels, "height", "width"]
            unused = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            model.graph.input.insert(index, unused)
    onnx.helper.set_model_props(model, notes)
    model.doc_string = "\n".join(f"{name}: {text}" for name, text in notes.items() if name != CONFIG)
    onnx.save(model, path)


def _halve_onnx(path: Path) -> None:
    """Store the weights of an ONNX file in half precision, each with a cast that runtimes apply once, on loading."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    casts = []
    for index, weight in enumerate(model.graph.initializer):
        values = numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.size > 64:
            name, stored = weight.name, f"{weight.name}.half"
            model.graph.initializer[index].CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
            casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def _write_torchscript(module: nn.Module, path: Path, only: tuple[int, int] | None, notes: dict[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as for ONNX
        # Through memory, here and below: PyTorch's own writing does not distinguish a full disk from other failures.
        written = io.BytesIO()
        traced = torch.jit.trace(module, _example(2, (128, 160)), check_trace=False)
        torch.jit.save(traced, written, _extra_files=_files(notes))
    path.write_bytes(written.getvalue())


def _write_pt2(module: nn.Module, path: Path, only: tuple[int, int] | None, notes: dict[str, str]) -> None:
    axes = {axis: torch.export.Dim.AUTO for axis in ((0, 2, 3) if only is None else (0,))}
    program = torch.export.export(module, _example(2, only or (128, 160)), dynamic_shapes=(axes, axes))
    written = io.BytesIO()
    torch.export.save(program, written, extra_files=_files(notes))
    path.write_bytes(written.getvalue())


def _files(notes: dict[str, str]) -> dict[str, str]:
    """The configuration and the other notes as two files in an archive."""
    about = {name: text for name, text in notes.items() if name != CONFIG}
    return {CONFIG: notes[CONFIG], ABOUT: json.dumps(about, indent=2)}


def _verify(module: nn.Module, path: Path, file_format: str, only: tuple[int, int] | None, tolerance: float) -> None:
    """Compare with the original network, at other batch sizes and input sizes too (unless the size is fixed)."""
    segment = load_exported(path, file_format)
    for batch, shape in enumerate([only] if only else [(128, 160), (90, 133)], start=1):
        inputs = _example(batch, shape, seed=batch)
        try:
            written = segment(*inputs)
        except (RuntimeError, AssertionError) as error:  # an axis that the exporter has fixed
            raise UserError(
                f"export: the {file_format} file does not accept a batch of {batch} at {shape} ({str(error)[:120]}); "
                "this network does not support the format: choose another one"
            ) from error
        expected = module(*inputs)
        difference = (written - expected).abs().max().item()
        if not difference <= tolerance * max(1.0, expected.abs().max().item()):
            raise UserError(
                f"export: the {file_format} file's logits differ by {difference:.2g} for a "
                f"batch of {batch} at {shape}; this network does not support the format: choose another one"
            )


def load_exported(
    path: str | Path, file_format: str | None = None, threads: int | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Load an exported network; only ONNX files are data, see `maskvos.weights.exported.check_trusted`.

    Args:
        path: The file.
        file_format: As for `export`; by default from the suffix (``.onnx``, ``.ts``, ``.torchscript``, ``.pt2``).
        threads: CPU threads of ONNX Runtime; None: its own choice.

    Returns:
        A function of ``rgb`` (B, 3, H, W) in [0, 1] and ``flow`` (B, 2, H, W) in pixels that returns logits: it runs on
        the CPU in float32, and its result is on the device of ``rgb``.

    Raises:
        UserError: The file is missing or cannot be read, or a package is missing.
    """
    path, chosen = identify(path, file_format)
    if chosen == "onnx":
        return _on_cpu(_run_onnx(open_onnx(path, threads)))
    try:
        module = torch.jit.load(path) if chosen == "torchscript" else torch.export.load(path).module()
    except (*DAMAGED, pickle.UnpicklingError, SpecViolationError) as error:
        raise UserError(
            f"exported network: '{path}' cannot be read as {chosen} ({str(error)[:120]}); export it again"
        ) from error
    return _on_cpu(module)


def _on_cpu(module: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Run a function of CPU tensors on inputs from any device."""

    @torch.no_grad()
    def segment(rgb: Tensor, flow: Tensor) -> Tensor:
        logits = module(*(tensor.to("cpu", torch.float32) for tensor in (rgb, flow)))
        return logits.to(rgb.device)

    return segment


def _run_onnx(session: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def segment(rgb: Tensor, flow: Tensor) -> Tensor:
        feeds = {"rgb": rgb.numpy(), "flow": flow.numpy()}
        return torch.from_numpy(session.run(["logits"], feeds)[0])

    return segment

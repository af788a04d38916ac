"""Exported networks: their formats, the configuration that they carry, and opening them without PyTorch."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maskvos import __version__
from maskvos.errors import UserError, nearest, require

CONFIG = "maskvos.json"
"""Name of the entry that holds the configuration."""
ABOUT = "about.json"
"""Name of the entry that says how to use the file, where the format has no properties of its own."""
SUFFIXES = {".onnx": "onnx", ".ts": "torchscript", ".torchscript": "torchscript", ".pt2": "pt2"}
"""File suffixes and their formats."""


def suffix_of(file_format: str) -> str:
    """File suffix of a format.

    Raises:
        UserError: The format is unknown.
    """
    for suffix, name in SUFFIXES.items():
        if name == file_format:
            return suffix
    raise UserError(f"format: {file_format!r} is unknown; {nearest(file_format, set(SUFFIXES.values()))}")


def describe(config: Mapping[str, Any], fixed: bool = False) -> dict[str, str]:
    """What somebody needs to run an exported network without maskvos, stored in the file.

    Args:
        config: How the network is used, see `InferenceConfig.to_config`.
        fixed: The file takes one size only.
    """
    flow = config.get("flow") or {}
    estimator = flow.get("estimator") or {}
    backward, gap = flow.get("direction") == "backward", flow.get("gap", 1)
    way = "earlier" if backward else "later"
    other = ("the previous frame" if backward else "the next frame") if gap == 1 else f"{gap} frames {way}"
    about = {
        "name": str(config.get("name") or "maskvos"),
        "made_by": f"maskvos {__version__}",
        "rgb": "(batch, 3, height, width) float32: the frame, RGB from 0 to 1",
        "flow": (
            f"(batch, 2, height, width) float32: optical flow from the frame to {other}, in pixels of this "
            "size, x then y; where there is no such frame, that the other way, negated"
        ),
        "logits": "(batch, 1, height, width) float32; probability of the object: 1 / (1 + exp(-logits))",
    }
    if size := (config.get("data") or {}).get("size"):
        about["size"] = f"{size[0]}x{size[1]}"
        about["sizes"] = "only this size, height x width" if fixed else "any; used at this size, height x width"
    if estimator:
        settings = ", ".join(f"{key}={value}" for key, value in estimator.items() if value is not None)
        about["flow_estimator"] = settings.replace("_target_=", "")
    return about


def exported_config(path: str | Path, file_format: str | None = None) -> dict[str, Any] | None:
    """The configuration that `export` stored in a file.

    Args:
        path: The file.
        file_format: As for `export`; by default from the suffix.

    Returns:
        The configuration; None for a file without one, such as those of version 0.1.

    Raises:
        UserError: The file is missing or cannot be read, or a package is missing.
    """
    path, chosen = identify(path, file_format)
    if chosen == "onnx":
        text = _onnx_metadata(path).get(CONFIG, "")
    else:
        with zipfile.ZipFile(path) as archive:
            entry = next((name for name in archive.namelist() if name.endswith(f"extra/{CONFIG}")), None)
            text = archive.read(entry).decode() if entry else ""
    return json.loads(text or "{}") or None


def identify(path: str | Path, file_format: str | None) -> tuple[Path, str]:
    """The path of an exported file and its format.

    Raises:
        UserError: The file is missing, or has another format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"exported network: no file '{path}'; write one with task=export")
    chosen = file_format or SUFFIXES.get(path.suffix)
    if chosen is None:
        raise UserError(f"exported network: '{path}' has none of the suffixes {', '.join(SUFFIXES)}; rename it")
    suffix_of(chosen)
    if chosen != "onnx" and not zipfile.is_zipfile(path):
        raise UserError(f"exported network: '{path}' is not a {chosen} file, or is truncated: export it again")
    return path, chosen


def _onnx_metadata(path: Path) -> dict[str, str]:
    """``metadata_props`` of an ONNX file, read from its protocol buffer, as no runtime gives them without loading it.

    Raises:
        UserError: The file is damaged.
    """
    try:
        entries = [dict(_fields(value)) for number, value in _fields(path.read_bytes()) if number == 14]
        return {entry[1].decode(): entry[2].decode() for entry in entries}
    except (IndexError, KeyError, ValueError) as error:
        raise UserError(f"exported network: '{path}' cannot be read as onnx ({error!r}); export it again") from error


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and contents of the length-delimited fields of a protocol buffer's message."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            varint()
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        elif kind == 2:
            length = varint()
            if position + length > len(data):
                raise ValueError("truncated")
            yield number, data[position : position + length]
            position += length
        else:
            raise ValueError(f"wire type {kind}")


def open_onnx(path: str | Path, threads: int | None = None) -> Any:
    """An ONNX Runtime session on the CPU; its threads sleep while they wait, to leave the cores to others.

    Args:
        path: The file.
        threads: CPU threads; None: all cores.

    Raises:
        UserError: The file cannot be read, or the package is missing.
    """
    require("onnxruntime")
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf) as error:
        raise UserError(f"exported network: '{path}' cannot be read as onnx ({str(error)[:120]})") from error

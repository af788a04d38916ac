"""Exported networks: their formats, which of them are programs, and the configuration that they carry."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskvos import __version__
from maskvos.errors import UserError, nearest
from maskvos.weights.onnx_file import onnx_metadata

CONFIG = "maskvos.json"
"""Name of the entry that holds the configuration."""
ABOUT = "about.json"
"""Name of the entry that says how to use the file, where the format has no properties of its own."""
SUFFIXES = {".onnx": "onnx", ".ts": "torchscript", ".torchscript": "torchscript", ".pt2": "pt2"}
"""File suffixes and their formats."""
PROGRAMS = {"torchscript": "TorchScript", "pt2": "torch.export"}
"""Formats whose files can do what any program can when they are opened or run, and their names."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, KeyError, ValueError, RecursionError)
_LARGEST = 2**24  # bytes of a configuration


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
            "size, x then y; at the end of the video, the negated flow to the frame on the other side"
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
    try:
        text = onnx_metadata(path).get(CONFIG, "") if chosen == "onnx" else _zipped(path)
        return json.loads(text or "{}") or None
    except _DAMAGED as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"exported network: the configuration in '{path}' cannot be read ({error!r}); export it again"
        ) from error


def _zipped(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        entry = next((entry for entry in archive.infolist() if entry.filename.endswith(f"extra/{CONFIG}")), None)
        if entry is not None and entry.file_size > _LARGEST:
            raise ValueError(f"{entry.file_size} bytes")
        return archive.read(entry).decode() if entry else ""


def check_trusted(path: Path, file_format: str, trust: Sequence[str]) -> None:
    """Refuse an exported file that is a program, unless its format is trusted by name.

    TorchScript can write files. A torch.export archive holds pickles, and formulas of sizes that are evaluated as
    Python when it is opened, so that leaving out its pickles would not make it harmless.

    Args:
        path: The file.
        file_format: Its format.
        trust: Names of trusted formats, among others.

    Raises:
        UserError: The format is in `PROGRAMS` and not in ``trust``.
    """
    if file_format in PROGRAMS and file_format not in trust:
        raise UserError(
            f"{path} is refused: a {PROGRAMS[file_format]} file is a program, which can do whatever you can when it is "
            "opened. Export the checkpoint as onnx instead (format=onnx), which is data; or, if you would run a "
            f"program of whoever made this file, say so: trust=[{file_format}]"
        )


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

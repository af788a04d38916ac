"""The weights that are bundled with the package, in half precision: looked up by name, and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from maskvos.errors import UserError
from maskvos.media.files import write_bytes

if TYPE_CHECKING:  # looking weights up needs no torch
    from torch import Tensor

FOLDER = Path(__file__).resolve().parent
DEFAULT = "light"
"""The weights that are used when no checkpoint is named."""


def names() -> list[str]:
    """Names of the bundled weights; each is that of the experiment that trained them."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def find(name: str) -> Path | None:
    """The file of bundled weights, or None if ``name`` is not the name of such."""
    return FOLDER / f"{name}.safetensors" if name in names() else None


def exported(path: Path) -> Path | None:
    """The ONNX file that is bundled beside a file of weights; None for other files."""
    found = path.with_suffix(".onnx")
    return found if path.parent == FOLDER and found.is_file() else None


def about(name: str) -> dict[str, str]:
    """How bundled weights were made: version, commit, command, data, date, scores.

    Raises:
        UserError: There are no bundled weights of that name.
    """
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        raise UserError(f"no bundled weights are named '{name}'; available: {', '.join(names()) or 'none'}")
    with safe_open(path, "np") as file:
        return dict(file.metadata() or {})


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]) -> None:
    """Write weights in half precision together with how they were made.

    Args:
        path: The file, ``.safetensors``; written atomically.
        tensors: The network's state dict.
        metadata: What `about` returns; values other than text are stored as JSON.

    Raises:
        UserError: A weight overflows half precision, or the file cannot be written.
    """
    import torch
    from safetensors.torch import save

    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    lost = [name for name, tensor in halves.items() if not torch.isfinite(tensor).all()]
    if lost:
        raise UserError(
            f"weights: {lost[0]} overflows half precision; train with a smaller learning rate or with weight decay"
        )
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in halves.items()}, metadata=text))

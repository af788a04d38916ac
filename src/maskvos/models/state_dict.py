"""Reading weights from disk without running anybody's code, and putting them into a network with useful errors."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from maskvos.errors import UserError

StateDict = Mapping[str, Tensor]

# Under one of these a training framework keeps the weights beside its optimiser and counters.
_CONTAINERS = ("state_dict", "network", "model", "state_dict_ema", "model_state_dict")
_SHOWN = 5
# What torch's unpickler raises on bytes that are no pickle depends on the bytes.
_GARBLED = (
    *(SafetensorError, zipfile.BadZipFile, struct.error, EOFError, OSError, RuntimeError),
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError),
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain containers only, never code.

    Args:
        path: A ``.safetensors`` file, or anything that ``torch.save`` wrote (``.pth``, ``.pt``, ``.ckpt``, ``.bin``).

    Returns:
        What the file holds, on the CPU.

    Raises:
        UserError: The file is missing, damaged, not a checkpoint, or asks to run code when loaded.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"weights: no file '{path}'; check the path (relative paths start at the working folder)")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, error)) from error
    except _GARBLED as error:
        raise UserError(
            f"weights: '{path}' cannot be read ({_first_line(error)}); it is damaged, cut short or not a checkpoint: "
            "fetch or copy it again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"weights: '{path}' holds a {type(content).__name__}, but a checkpoint is a dictionary of tensors; "
            "save `module.state_dict()` instead"
        )
    return content


def _refusal(path: Path, error: Exception) -> str:
    reason = _first_line(error)
    if "WeightsUnpickler" in str(error) or "Unsupported" in str(error) or "weights_only" in str(error).lower():
        return (
            f"weights: '{path}' is refused: it holds more than tensors and plain containers, and loading it could run "
            f"code ({reason}); ask its author for a plain state_dict or a .safetensors file"
        )
    return f"weights: '{path}' cannot be read ({reason}); it is damaged or not a checkpoint: fetch or copy it again"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def tensors_of(checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Find the weights inside a checkpoint, whoever's trainer wrote it.

    Args:
        checkpoint: What `read_checkpoint` returned: a state dict, or a container with one under a usual name.
        source: How to call the file in an error.

    Returns:
        Tensors by name, without a ``module.`` prefix (left by data-parallel wrappers).

    Raises:
        UserError: There are no tensors in it.
    """
    inner: Mapping[str, Any] = checkpoint
    for name in _CONTAINERS:
        if isinstance(inner.get(name), Mapping):
            inner = inner[name]
            break
    tensors = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        held = ", ".join(map(str, list(checkpoint)[:_SHOWN])) or "nothing"
        raise UserError(
            f"weights: no tensors in {source} (it holds: {held}); "
            f"expected a state dict, or one under {', '.join(map(repr, _CONTAINERS))}"
        )
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def load_state(network: nn.Module, state_dict: StateDict, source: str, strict: bool = True) -> list[str]:
    """Put weights into a network.

    Args:
        network: What receives them, in place.
        state_dict: Tensors under the network's own names.
        source: Where they come from (a file name), for the error.
        strict: Every tensor must fit; otherwise what fits is taken and the rest is listed.

    Returns:
        One line per tensor that was skipped: missing in the file, unknown to the network or of another shape.
        Empty when everything fitted.

    Raises:
        UserError: ``strict`` and something does not fit, or nothing at all fits.
    """
    own = network.state_dict()
    fits = {key: value for key, value in state_dict.items() if key in own and own[key].shape == value.shape}
    skipped = [
        f"{key}: {tuple(value.shape)} in the file, {tuple(own[key].shape)} in the network"
        for key, value in state_dict.items()
        if key in own and own[key].shape != value.shape
    ]
    skipped += [f"{key}: not in the file" for key in own if key not in state_dict]
    skipped += [f"{key}: not in the network" for key in state_dict if key not in own]
    if skipped and (strict or not fits):
        more = f"; and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
        raise UserError(
            f"weights: {source} holds another architecture: {'; '.join(skipped[:_SHOWN])}{more}. Choose the model and "
            "backbone that it was trained with, or warm-start with init_from, which takes what fits"
        )
    network.load_state_dict(fits, strict=False)
    return skipped

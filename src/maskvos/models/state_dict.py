"""Checkpoint files: safe reading (``weights_only``), finding the state dict, and loading it into a network."""

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

# Keys under which training frameworks store the state dict.
_CONTAINERS = ("state_dict", "network", "model", "state_dict_ema", "model_state_dict")
_SHOWN = 5
DAMAGED = (
    *(SafetensorError, zipfile.BadZipFile, struct.error, EOFError, OSError, RuntimeError),
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError),
)
"""What torch raises for a damaged file; it depends on the file's bytes."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file safely: tensors and plain containers only, so that no code in it can run.

    Args:
        path: A ``.safetensors`` file, or one written by ``torch.save`` (``.pth``, ``.pt``, ``.ckpt``, ``.bin``).

    Returns:
        The content of the file, on the CPU.

    Raises:
        UserError: The file is missing, damaged, not a checkpoint, or contains objects that could run code.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"weights: no file '{path}'; check the path (relative paths start at the working directory)")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, error)) from error
    except DAMAGED as error:
        raise UserError(
            f"weights: '{path}' cannot be read ({_first_line(error)}); it is damaged, truncated or not a checkpoint: "
            "download or copy it again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"weights: '{path}' contains a {type(content).__name__} instead of a dictionary of tensors; save "
            "`module.state_dict()`"
        )
    return content


def _refusal(path: Path, error: Exception) -> str:
    reason = _first_line(error)
    if "WeightsUnpickler" in str(error) or "Unsupported" in str(error) or "weights_only" in str(error).lower():
        return (
            f"weights: '{path}' is refused: it contains more than tensors and plain containers, and loading it could "
            f"run code ({reason}); ask its author for a plain state_dict or a .safetensors file"
        )
    return f"weights: '{path}' cannot be read ({reason}); it is damaged or not a checkpoint: download or copy it again"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def tensors_of(checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Find the state dict in a checkpoint.

    Args:
        checkpoint: A state dict, or a dictionary with one under a usual key (``state_dict``, ``model``, ...).
        source: Name of the file in error messages.

    Returns:
        Tensors by name, without the ``module.`` prefix of data-parallel wrappers.

    Raises:
        UserError: The checkpoint contains no tensors.
    """
    inner: Mapping[str, Any] = checkpoint
    for name in _CONTAINERS:
        if isinstance(inner.get(name), Mapping):
            inner = inner[name]
            break
    tensors = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(checkpoint)[:_SHOWN])) or "none"
        raise UserError(
            f"weights: no tensors in {source} (keys: {keys}); "
            f"expected a state dict, or one under {', '.join(map(repr, _CONTAINERS))}"
        )
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def load_state(network: nn.Module, state_dict: StateDict, source: str, strict: bool = True) -> list[str]:
    """Load a state dict into a network, and report tensors that do not match.

    Args:
        network: The network, modified in place.
        state_dict: Tensors by the names of the network.
        source: Name of the file in error messages.
        strict: Require all tensors to match; otherwise load those that do (warm start).

    Returns:
        One line per skipped tensor: missing, unexpected, or of another shape.

    Raises:
        UserError: A tensor does not match with ``strict``, or none does without it.
    """
    own = network.state_dict()
    matching = {key: value for key, value in state_dict.items() if key in own and own[key].shape == value.shape}
    skipped = [
        f"{key}: {tuple(value.shape)} in the file, {tuple(own[key].shape)} in the network"
        for key, value in state_dict.items()
        if key in own and own[key].shape != value.shape
    ]
    skipped += [f"{key}: not in the file" for key in own if key not in state_dict]
    skipped += [f"{key}: not in the network" for key in state_dict if key not in own]
    if skipped and (strict or not matching):
        more = f"; and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
        raise UserError(
            f"weights: {source} is of another architecture: {'; '.join(skipped[:_SHOWN])}{more}. Choose the model and "
            "backbone that it was trained with, or warm-start with init_from, which loads the tensors that match"
        )
    network.load_state_dict(matching, strict=False)
    return skipped

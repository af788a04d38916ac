"""Engines that run a network in PyTorch: a checkpoint's, and TorchScript and torch.export files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from maskvos.errors import UserError, nearest
from maskvos.inference.engines import Engine, check_motion, file_digest
from maskvos.models.network import MaskVOS
from maskvos.settings.table import PRECISIONS, check_settings
from maskvos.weights.export import load_exported


class TorchEngine:
    """Runs a network with batch norms and linear chains folded (see `MaskVOS.fold`).

    Args:
        network: A trained network; unchanged.
        device: Device to run on.
        precision: One of `PRECISIONS`.

    Raises:
        UserError: The precision is not supported.
    """

    workers = 1

    def __init__(self, network: MaskVOS, device: str | torch.device = "cpu", precision: str = "32-true") -> None:
        self.device = torch.device(device)
        check_settings(precision, "trainer.precision")
        name = PRECISIONS[precision]
        self.dtype: torch.dtype | None = None if name is None else getattr(torch, name)
        self.digest = digest(network)
        self.network = network.fold().to(self.device)

    @torch.inference_mode()
    def __call__(self, rgb: np.ndarray, flow: np.ndarray, motion: np.ndarray | None = None) -> np.ndarray:
        """See `Engine`."""
        inputs = [torch.from_numpy(array).to(self.device) for array in (rgb, flow)]
        option = None if motion is None else torch.from_numpy(motion).to(self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            logits = self.network.segment(inputs[0], inputs[1], option)
        return np.asarray(logits.float().cpu().numpy())

    def alone(self) -> Engine:
        """See `Engine`."""
        return self


class TorchFileEngine:
    """Runs a TorchScript or torch.export file, on the CPU in float32.

    Args:
        path: The file.
        file_format: ``torchscript`` or ``pt2``.

    Raises:
        UserError: The file cannot be read.
    """

    workers = 1

    def __init__(self, path: str | Path, file_format: str) -> None:
        self._segment = load_exported(path, file_format)
        self.digest = file_digest(Path(path))

    def __call__(self, rgb: np.ndarray, flow: np.ndarray, motion: np.ndarray | None = None) -> np.ndarray:
        """See `Engine`.

        Raises:
            UserError: ``motion`` is False for a sample.
        """
        check_motion(motion)
        return np.asarray(self._segment(torch.from_numpy(rgb), torch.from_numpy(flow)).numpy())

    def alone(self) -> Engine:
        """See `Engine`."""
        return self


def resolve_device(name: str) -> torch.device:
    """The device of a name: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto`` for the fastest that is present.

    ``cuda`` is the GPU of this process where torchrun started several, else the first; ``gpu``, as Lightning has it, is
    ``cuda``, or on Apple's machines ``mps``.

    Raises:
        UserError: The device is unknown or not present.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    apple = torch.backends.mps.is_available() and not torch.cuda.is_available()
    name = name.replace("gpu", "mps" if apple else "cuda")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name}: {nearest(name, ('auto', 'cpu', 'cuda', 'mps'))}") from error
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if not present.get(device.type, False) or (device.index or 0) >= count:
        raise UserError(f"device={name}: this device is not available; use device=cpu, or look at `nvidia-smi`")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % count)
    return device


def digest(module: nn.Module) -> str:
    """Short hash of a module's weights: equal weights, equal digests."""
    text = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        text.update(f"{name}|{tuple(value.shape)}|{value.dtype}\n".encode())
        text.update(value.reshape(-1).view(torch.uint8).numpy())
    return text.hexdigest()[:16]

"""Engines that run a trained network: PyTorch, and exported files.

An engine is a callable on tensors. A new one is a class with the methods of `Engine`, chosen in `maskvos.load`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from maskvos.errors import UserError, nearest
from maskvos.models.network import MaskVOS
from maskvos.weights.export import load_exported

PRECISIONS: dict[str, torch.dtype | None] = {
    "32-true": None,
    "32": None,
    "bf16-mixed": torch.bfloat16,
    "bf16": torch.bfloat16,
    "16-mixed": torch.float16,
    "16": torch.float16,
}
"""Names of precisions, as Lightning's Trainer has them, to autocast's dtype."""


class Engine(Protocol):
    """Runs a network.

    Attributes:
        digest: Short hash of the weights: equal weights, equal digests.
    """

    digest: str

    def __call__(self, rgb: Tensor, flow: Tensor, motion: Tensor | None = None) -> Tensor:
        """Segment a batch.

        Args:
            rgb: (B, 3, H, W) float32 in [0, 1], on the CPU.
            flow: (B, 2, H, W) float32, pixels, x then y.
            motion: (B,) bool; False where the motion encoder reads the RGB frame; None: flow everywhere.

        Returns:
            Logits (B, 1, H, W) float32, on the CPU.
        """
        ...


class TorchEngine:
    """Runs a network in PyTorch, with batch norms and linear chains folded (see `MaskVOS.fold`).

    Args:
        network: A trained network; unchanged.
        device: Device to run on.
        precision: One of `PRECISIONS`.

    Raises:
        UserError: The precision is not supported.
    """

    def __init__(self, network: MaskVOS, device: str | torch.device = "cpu", precision: str = "32-true") -> None:
        self.device = torch.device(device)
        self.dtype = PRECISIONS[check_precision(precision)]
        self.digest = digest(network)
        self.network = network.fold().to(self.device)

    @torch.inference_mode()
    def __call__(self, rgb: Tensor, flow: Tensor, motion: Tensor | None = None) -> Tensor:
        """See `Engine`."""
        rgb, flow = rgb.to(self.device), flow.to(self.device)
        motion = None if motion is None else motion.to(self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            logits = self.network.segment(rgb, flow, motion)
        return logits.float().cpu()


class ExportedEngine:
    """Runs a file that task=export wrote, on the CPU in float32.

    Args:
        path: The file.
        file_format: See `load_exported`; by default from the suffix.

    Raises:
        UserError: The file cannot be read, or a package is missing.
    """

    def __init__(self, path: str | Path, file_format: str | None = None) -> None:
        self._segment = load_exported(path, file_format)
        self.digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]

    def __call__(self, rgb: Tensor, flow: Tensor, motion: Tensor | None = None) -> Tensor:
        """See `Engine`.

        Raises:
            UserError: ``motion`` is False for a sample, which an exported network does not support.
        """
        if motion is not None and not bool(motion.all()):
            raise UserError("an exported network always needs flow; use backend=torch for still images")
        return self._segment(rgb, flow)


def check_precision(precision: str | int) -> str:
    """A precision that can be used for inference.

    Raises:
        UserError: It is not one of `PRECISIONS`.
    """
    if str(precision) not in PRECISIONS:
        raise UserError(f"trainer.precision={precision}: not supported here; {nearest(str(precision), PRECISIONS)}")
    return str(precision)


def resolve_device(name: str) -> torch.device:
    """The device of a name: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto`` for the fastest that is present.

    ``cuda``, or ``gpu`` as Lightning has it, is the GPU of this process where torchrun started several, else the first.

    Raises:
        UserError: The device is unknown or not present.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    name = name.replace("gpu", "cuda")
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

"""RAFT optical flow with torchvision's networks, using torchvision's or the authors' weights."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import get_worker_info
from torchvision.models.optical_flow import Raft_Large_Weights, Raft_Small_Weights, raft_large, raft_small

from maskvos.errors import UserError
from maskvos.flow.base import FlowEstimator
from maskvos.media.files import read_file
from maskvos.settings.table import check_settings

VARIANTS = {
    "small": (raft_small, Raft_Small_Weights.DEFAULT),
    "large": (raft_large, Raft_Large_Weights.DEFAULT),
}

# torchvision's networks keep the correlations of a pair in themselves, so that only one pair may be computed at a time.
_RUNNING = threading.Lock()

# Regular expressions from the authors' parameter names to torchvision's, applied in order.
_RENAMES = (
    (r"^module\.", ""),
    (r"^(fnet|cnet)\.conv1\.", r"\1.convnormrelu.0."),
    (r"^(fnet|cnet)\.norm1\.", r"\1.convnormrelu.1."),
    (r"^(fnet|cnet)\.conv2\.", r"\1.conv."),
    (r"(layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
    (r"(layer\d\.\d)\.norm(\d)\.", r"\1.convnormrelu\2.1."),
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"^update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
    (r"^update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
    (r"^update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"^update_block\.gru\.conv([zrq])\.", r"update_block.recurrent_block.convgru1.conv\1."),
    (r"^update_block\.gru\.conv([zrq])(\d)\.", r"update_block.recurrent_block.convgru\2.conv\1."),
    (r"^update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"^update_block\.mask\.2\.", "mask_predictor.conv."),
)


class RAFT(FlowEstimator):
    """RAFT (Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020).

    Args:
        variant: ``small`` (1 million parameters) or ``large`` (5 million).
        weights: ``default`` (torchvision's, downloaded once), or a file: a state dict of torchvision's network, or a
            checkpoint of RAFT's authors (``raft-small.pth``, ``raft-things.pth``, ...), whose keys are converted.
        updates: Number of iterative refinements.
        max_size: See `FlowEstimator`.
        precision: ``32-true``, or ``bf16-mixed``: autocast to bfloat16, faster on processors that compute in it.

    Raises:
        UserError: Unknown variant or precision, or the weights file is missing.
    """

    # Four levels of the correlation pyramid, starting at 1/8 resolution.
    min_size = 128

    def __init__(
        self,
        variant: str = "small",
        weights: Path | str | None = "default",
        updates: int = 12,
        max_size: int | None = None,
        precision: str = "32-true",
    ) -> None:
        super().__init__(max_size)
        check_settings({"variant": variant, "updates": updates, "precision": precision}, "flow.estimator")
        if weights is None:
            raise UserError(f"flow.estimator.weights=null: RAFT without weights gives random flow; {_REMEDY}")
        self.variant = variant
        self.updates = updates
        self.precision = precision
        self.weights: Path | None = None if weights == "default" else Path(weights).expanduser()
        self._weights_hash = self._hash_weights()
        self._network: Any = None
        self._process = 0

    @property
    def settings(self) -> dict[str, str | int | float | None]:
        """See `FlowEstimator.settings`; weights are identified by a hash of their content."""
        precision = {} if self.precision == "32-true" else {"precision": self.precision}  # keeps older caches valid
        return {
            "name": f"raft-{self.variant}",
            "variant": self.variant,
            "weights": self._weights_hash,
            "updates": self.updates,
            "max_size": self.max_size,
            **precision,
        }

    @property
    def on_gpu(self) -> bool:
        """See `FlowEstimator.on_gpu`."""
        return torch.cuda.is_available() and get_worker_info() is None

    def prepare(self) -> None:
        """See `FlowEstimator.prepare`."""
        self._load()

    @torch.no_grad()
    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """See `FlowEstimator.estimate`."""
        with _RUNNING:
            network = self._load()
        device = next(network.parameters()).device
        height, width = first.shape[1:3]
        # The network needs sides divisible by 8: pad evenly on both sides, replicating the border.
        pad_x, pad_y = -width % 8, -height % 8
        margins = (pad_x // 2, pad_x - pad_x // 2, pad_y // 2, pad_y - pad_y // 2)
        images = (torch.tensor(frames, device=device).permute(0, 3, 1, 2) for frames in (first, second))
        padded = [F.pad(image.float() / 127.5 - 1.0, margins, mode="replicate") for image in images]
        with _RUNNING, torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"):
            flow = network(*padded, num_flow_updates=self.updates)[-1]
        flow = flow[..., margins[2] : margins[2] + height, margins[0] : margins[0] + width].float()
        return np.ascontiguousarray(flow.permute(0, 2, 3, 1).cpu().numpy())

    def _load(self) -> torch.nn.Module:
        # Each process loads its own network.
        if self._network is None or self._process != os.getpid():
            network = VARIANTS[self.variant][0](weights=None)
            network.load_state_dict(self._read_weights(network.state_dict()))
            self._network = network.to("cuda" if self.on_gpu else "cpu").eval()
            self._process = os.getpid()
        return self._network

    def _hash_weights(self) -> str:
        if self.weights is None:
            # The file name contains a hash of the content.
            return Path(VARIANTS[self.variant][1].url).stem
        try:
            return hashlib.sha256(read_file(self.weights)).hexdigest()
        except OSError as error:
            raise UserError(
                f"flow.estimator.weights={self.weights}: cannot be read ({error.strerror}); {_REMEDY}"
            ) from error

    def _read_weights(self, expected: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.weights is None:
            default = VARIANTS[self.variant][1]
            try:
                return dict(default.get_state_dict(progress=False, check_hash=True))
            except (OSError, RuntimeError) as error:
                place = Path(torch.hub.get_dir(), "checkpoints", Path(default.url).name)
                raise UserError(
                    f"RAFT {self.variant}: its weights could not be downloaded from {default.url} ({error}); save that "
                    f"file as {place}, or {_REMEDY}"
                ) from error
        try:
            state = torch.load(self.weights, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise UserError(
                f"flow.estimator.weights={self.weights}: PyTorch cannot load it with weights_only=True "
                f"({str(error).partition(chr(10))[0] or type(error).__name__}); {_REMEDY}"
            ) from error
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise UserError(f"flow.estimator.weights={self.weights}: not a state dict; {_REMEDY}")
        state = convert_state(state)
        shapes = {name: tuple(value.shape) for name, value in expected.items()}
        wrong = sorted(
            name for name in shapes.keys() | state.keys() if tuple(state.get(name, _NONE).shape) != shapes.get(name)
        )
        if wrong:
            raise UserError(
                f"flow.estimator.weights={self.weights}: {len(wrong)} tensors do not match RAFT {self.variant} "
                f"(first: {wrong[0]}); choose flow=raft_{'large' if self.variant == 'small' else 'small'} if it is the "
                "other variant"
            )
        return state

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None, "_process": 0}


_NONE = torch.empty(0)
_REMEDY = (
    "give a local file (flow.estimator.weights=<path>: torchvision's weights, or raft-small.pth, raft-things.pth, ... "
    "of RAFT's authors), or use flow=dis, which needs no weights"
)


def convert_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the keys of a RAFT checkpoint to torchvision's; a torchvision state dict is returned as it is.

    Args:
        state: State dict of torchvision's or the authors' network (``module.fnet.conv1.weight``, ...).

    Returns:
        The same tensors under torchvision's keys.
    """
    renamed = {}
    original = any(re.match(r"(module\.)?fnet\.", name) for name in state)
    for name, value in state.items():
        # The authors' files hold the norm of the shortcut twice: in the shortcut itself, and as norm3.
        if original and re.search(r"layer\d\.\d\.norm3\.", name):
            continue
        if original:
            for pattern, replacement in _RENAMES:
                name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed

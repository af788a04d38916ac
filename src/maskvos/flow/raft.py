"""RAFT flow with torchvision's networks, by torchvision's weights or those of its authors."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import get_worker_info
from torchvision.models.optical_flow import Raft_Large_Weights, Raft_Small_Weights, raft_large, raft_small

from maskvos.errors import UserError, nearest
from maskvos.flow.base import FlowEstimator

VARIANTS = {
    "small": (raft_small, Raft_Small_Weights.DEFAULT),
    "large": (raft_large, Raft_Large_Weights.DEFAULT),
}

# The names that RAFT's authors gave to what torchvision calls otherwise; applied in this order.
_TRANSLATION = (
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
    """Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020.

    Args:
        variant: ``small`` (1 million parameters) or ``large`` (5 million).
        weights: ``default`` (torchvision's, downloaded once), or a file: a state dict of torchvision's network, or one
            that RAFT's authors published (``raft-small.pth``, ``raft-things.pth``, ...), whose names are translated.
        updates: Refinements of the flow.
        max_size: See `FlowEstimator`.

    Raises:
        UserError: The variant is not known, or there is no such file.
    """

    # Its correlation pyramid has four levels above one eighth of the frame.
    min_size = 128

    def __init__(
        self,
        variant: str = "small",
        weights: Path | str | None = "default",
        updates: int = 12,
        max_size: int | None = None,
    ) -> None:
        super().__init__(max_size)
        if variant not in VARIANTS:
            raise UserError(f"flow.estimator.variant={variant!r}: no such RAFT; {nearest(str(variant), VARIANTS)}")
        if updates < 1:
            raise UserError(f"flow.estimator.updates={updates}: RAFT refines at least once")
        if weights is None:
            raise UserError(f"flow.estimator.weights=null: RAFT without weights gives random flow; {_REMEDY}")
        self.variant = variant
        self.updates = updates
        self.weights: Path | None = None if weights == "default" else Path(weights).expanduser()
        self._weights_hash = self._identify_weights()
        self._network: Any = None
        self._process = 0

    @property
    def settings(self) -> dict[str, str | int | float | None]:
        """Everything that the result depends on; weights by their content."""
        return {
            "name": f"raft-{self.variant}",
            "variant": self.variant,
            "weights": self._weights_hash,
            "updates": self.updates,
            "max_size": self.max_size,
        }

    @property
    def on_gpu(self) -> bool:
        """Whether this process computes on a GPU; a forked worker cannot."""
        return torch.cuda.is_available() and get_worker_info() is None

    def prepare(self) -> None:
        """Load the network, see `FlowEstimator.prepare`."""
        self._loaded()

    def estimate(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow at the working size, see `FlowEstimator.estimate`."""
        network = self._loaded()
        device = next(network.parameters()).device
        height, width = first.shape[-2:]
        # The network works on eighths; what is added lies evenly around the frame, and repeats its border.
        add_x, add_y = -width % 8, -height % 8
        margins = (add_x // 2, add_x - add_x // 2, add_y // 2, add_y - add_y // 2)
        padded = [F.pad(frame.to(device).float() / 127.5 - 1.0, margins, mode="replicate") for frame in (first, second)]
        flow = network(*padded, num_flow_updates=self.updates)[-1]
        return flow[..., margins[2] : margins[2] + height, margins[0] : margins[0] + width].float()

    def _loaded(self) -> torch.nn.Module:
        # Each process loads its own.
        if self._network is None or self._process != os.getpid():
            network = VARIANTS[self.variant][0](weights=None)
            network.load_state_dict(self._read_weights(network.state_dict()))
            self._network = network.to("cuda" if self.on_gpu else "cpu").eval()
            self._process = os.getpid()
        return self._network

    def _identify_weights(self) -> str:
        if self.weights is None:
            # torchvision puts the content's hash into the name of the file.
            return Path(VARIANTS[self.variant][1].url).stem
        try:
            return hashlib.sha256(self.weights.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(
                f"flow.estimator.weights={self.weights}: it cannot be read ({error.strerror}); {_REMEDY}"
            ) from error

    def _read_weights(self, expected: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.weights is None:
            default = VARIANTS[self.variant][1]
            try:
                return dict(default.get_state_dict(progress=False, check_hash=True))
            except (OSError, RuntimeError) as error:
                raise UserError(
                    f"RAFT {self.variant}: its weights could not be downloaded from {default.url} ({error}); {_REMEDY}"
                ) from error
        try:
            state = torch.load(self.weights, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise UserError(
                f"flow.estimator.weights={self.weights}: it is not a file of weights that PyTorch reads safely "
                f"({str(error).partition(chr(10))[0] or type(error).__name__}); {_REMEDY}"
            ) from error
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise UserError(f"flow.estimator.weights={self.weights}: it holds no plain state dict; {_REMEDY}")
        state = translate_state(state)
        shapes = {name: tuple(value.shape) for name, value in expected.items()}
        wrong = sorted(
            name for name in shapes.keys() | state.keys() if tuple(state.get(name, _NONE).shape) != shapes.get(name)
        )
        if wrong:
            raise UserError(
                f"flow.estimator.weights={self.weights}: {len(wrong)} tensors are not those of RAFT {self.variant} "
                f"(first: {wrong[0]}); choose flow=raft_{'large' if self.variant == 'small' else 'small'} if it is the "
                "other variant"
            )
        return state

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None, "_process": 0}


_NONE = torch.empty(0)
_REMEDY = (
    "give a local file (flow.estimator.weights=<path>: torchvision's, or raft-small.pth, raft-things.pth, ... of "
    "RAFT's authors), or use flow=dis, which needs none"
)


def translate_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a RAFT checkpoint torchvision's names; those that have them already keep them.

    Args:
        state: State dict of torchvision's network or of the authors' (``module.fnet.conv1.weight``, ...).

    Returns:
        The same tensors under torchvision's names.
    """
    named = {}
    original = any(re.match(r"(module\.)?fnet\.", name) for name in state)
    for name, value in state.items():
        # The authors' shortcut norm is stored twice: inside the shortcut, and beside it as norm3.
        if original and re.search(r"layer\d\.\d\.norm3\.", name):
            continue
        if original:
            for pattern, replacement in _TRANSLATION:
                name = re.sub(pattern, replacement, name)
        named[name] = value
    return named

"""Test-time augmentation: the logits of a frame averaged over its mirror image and a second flow map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Segment = Callable[[Any, Any, Any], Any]
"""From ``rgb`` (B, 3, H, W), ``flow`` (B, 2, H, W) and ``motion`` (B,) or None to logits (B, 1, H, W); arrays of NumPy
or tensors of PyTorch."""


@dataclass(frozen=True)
class TTA:
    """Test-time augmentation. Anything but the defaults runs the network twice per frame.

    Attributes:
        mirror: Mirror frame and flow in the second pass.
        flow: ``direction`` and ``gap`` of the flow in the second pass; None: the usual flow again.
    """

    mirror: bool = False
    flow: Mapping[str, Any] | None = None

    def __call__(self, segment: Segment, batch: Mapping[str, Any]) -> Any:
        """Segment a batch, averaging the logits of both passes.

        Args:
            segment: The network.
            batch: ``rgb``, ``flow`` and ``motion`` as arrays or tensors, with ``tta_flow`` where `flow` is set.

        Returns:
            Logits (B, 1, H, W).
        """
        motion = batch.get("motion")
        logits = segment(batch["rgb"], batch["flow"], motion)
        if not self.mirror and "tta_flow" not in batch:
            return logits
        rgb, flow = batch["rgb"], batch.get("tta_flow", batch["flow"])
        if self.mirror:
            rgb, flow = _flip(rgb), _flip(flow)
            flow[:, 0] *= -1  # mirrored, x changes its sign
        second = segment(rgb, flow, motion)
        return (logits + (_flip(second) if self.mirror else second)) / 2


def _flip(array: Any) -> Any:
    """A mirrored copy of a (B, C, H, W) array or tensor."""
    return np.flip(array, -1).copy() if isinstance(array, np.ndarray) else array.flip(-1)

"""Test-time augmentation: the logits of a frame averaged over its mirror image and a second flow map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maskvos.types import Batch

Segment = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""From ``rgb`` (B, 3, H, W), ``flow`` (B, 2, H, W) and ``motion`` (B,) or None to logits (B, 1, H, W)."""


@dataclass(frozen=True)
class TTA:
    """Test-time augmentation. Anything but the defaults runs the network twice per frame.

    Attributes:
        mirror: Mirror frame and flow in the second pass.
        flow: ``direction`` and ``gap`` of the flow in the second pass; None: the usual flow again.
    """

    mirror: bool = False
    flow: Mapping[str, Any] | None = None

    def __call__(self, segment: Segment, batch: Batch) -> Tensor:
        """Segment a batch, averaging the logits of both passes.

        Args:
            segment: The network.
            batch: With ``tta_flow`` where `flow` is set.

        Returns:
            Logits (B, 1, H, W).
        """
        motion = batch.get("motion")
        logits = segment(batch["rgb"], batch["flow"], motion)
        if not self.mirror and "tta_flow" not in batch:
            return logits
        rgb, flow = batch["rgb"], batch.get("tta_flow", batch["flow"])
        if self.mirror:
            sign = torch.tensor([-1.0, 1.0], device=flow.device).view(2, 1, 1)  # mirrored, x changes its sign
            rgb, flow = rgb.flip(-1), flow.flip(-1) * sign
        second = segment(rgb, flow, motion)
        return (logits + (second.flip(-1) if self.mirror else second)) / 2

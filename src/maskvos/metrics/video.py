"""Video segmentation scores as a torchmetrics `Metric`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from maskvos.errors import UserError
from maskvos.metrics.protocol import Protocol
from maskvos.metrics.results import FrameScore, Summary
from maskvos.types import Video


class VideoMetric(Metric):
    """Scores frames and averages them according to a protocol.

    Each frame is scored on the CPU as it arrives. Only its scores are kept, as a line of text in a uint8 tensor that
    torchmetrics gathers from all processes like any other state. Frames are identified by name, so the result does not
    depend on batch size, order or number of processes, and frames that a distributed sampler repeats count once.

    Args:
        protocol: The evaluation protocol.
        kwargs: Arguments of `torchmetrics.Metric`.
    """

    full_state_update = False
    records: list[Tensor]

    def __init__(self, protocol: Protocol, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.protocol = protocol
        self.videos: list[Video] | None = None
        self.add_state("records", default=[], dist_reduce_fx="cat")

    def expect(self, videos: Sequence[Video]) -> None:
        """Set the frames that each video has, so that the first and last can be excluded.

        Without this, the scored frames are assumed to be complete.

        Args:
            videos: Videos with `name`, `category` and all `frames` in temporal order.
        """
        self.videos = list(videos)

    def update(
        self,
        predictions: Sequence[np.ndarray | Tensor],
        truths: Sequence[np.ndarray | Tensor | None],
        videos: Sequence[str],
        frames: Sequence[str],
    ) -> None:
        """Score a batch of frames.

        Args:
            predictions: B arrays (H0, W0) at original resolution: float probabilities in [0, 1], or bool.
            truths: B arrays (H0, W0) bool, or None for frames without annotation, which are not scored.
            videos: B sequence names.
            frames: B frame names.

        Raises:
            UserError: Lists of different length, or a prediction and its ground truth differ in size.
        """
        lengths = {len(predictions), len(truths), len(videos), len(frames)}
        if len(lengths) > 1:
            raise UserError(
                f"a batch of {sorted(lengths)} entries: give one prediction, truth, video name and frame name per frame"
            )
        lines = [
            self.protocol.score(video, frame, _array(prediction), _array(truth)).to_line()
            for prediction, truth, video, frame in zip(predictions, truths, videos, frames, strict=True)
            if truth is not None
        ]
        text = "".join(line + "\n" for line in lines).encode()
        self.records.append(
            torch.frombuffer(bytearray(text), dtype=torch.uint8).to(self.device) if text else _empty(self)
        )

    def compute(self) -> dict[str, Tensor]:
        """Name to score over all frames of all processes, as float64 scalars; empty if no frame counts."""
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        overall = self.summary().overall
        return {name: torch.tensor(value, dtype=dtype, device=self.device) for name, value in overall.items()}

    def summary(self) -> Summary:
        """Scores per frame, per sequence and overall.

        Gathers the scores, so in a distributed run all processes must call this (or `compute`).
        """
        with self.sync_context(should_sync=self._to_sync and not self._is_synced, should_unsync=not self._is_synced):
            text = bytes(dim_zero_cat(self.records).cpu().numpy()).decode() if len(self.records) else ""
        # Sort, so that of duplicate scores of one frame the same one counts in any order of arrival.
        scores = [FrameScore.from_line(line) for line in sorted(set(text.splitlines()))]
        return self.protocol.summarise(scores, self.videos)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all processes; a process without scores contributes an empty state."""
        if isinstance(self.records, list) and not self.records:
            self.records.append(_empty(self))
        super().sync(*args, **kwargs)


def _empty(metric: Metric) -> Tensor:
    return torch.zeros(0, dtype=torch.uint8, device=metric.device)


def _array(values: np.ndarray | Tensor) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)

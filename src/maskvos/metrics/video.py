"""Scores of video masks as a torchmetrics `Metric`: per-frame numbers, keyed by sequence and frame."""

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
    """Scores frames as they come and averages them as the protocol says.

    Each frame is scored on the CPU when it arrives and only its numbers are kept, as one line of text in a uint8
    tensor, which torchmetrics gathers from all processes like any other state. Frames are told apart by name, so the
    result does not depend on batches, order or processes, and a frame that a sampler repeats counts once.

    Args:
        protocol: Which frames count, which measures, how they are averaged.
        kwargs: As of `torchmetrics.Metric`.
    """

    full_state_update = False
    records: list[Tensor]

    def __init__(self, protocol: Protocol, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.protocol = protocol
        self.videos: list[Video] | None = None
        self.add_state("records", default=[], dist_reduce_fx="cat")

    def expect(self, videos: Sequence[Video]) -> None:
        """Tell which frames there are, and which of a video are its first and last.

        Without this the frames that were scored are taken for all there are.

        Args:
            videos: With `name`, `category` and all `frames` in order of time.
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
            predictions: B arrays (H0, W0) at the frames' own sizes: float probabilities in [0, 1], or bool.
            truths: B arrays (H0, W0) bool, or None where a frame is not annotated (it is then not scored).
            videos: B names of sequences.
            frames: B names of frames.

        Raises:
            UserError: Lists of different length, or a prediction that does not fit its truth.
        """
        lengths = {len(predictions), len(truths), len(videos), len(frames)}
        if len(lengths) > 1:
            raise UserError(
                f"a batch of {sorted(lengths)} entries: give one prediction, one truth and two names for each frame"
            )
        lines = [
            self.protocol.score(video, frame, _array(prediction), _array(truth)).to_line()
            for prediction, truth, video, frame in zip(predictions, truths, videos, frames, strict=True)
            if truth is not None
        ]
        text = "".join(line + "\n" for line in lines).encode()
        self.records.append(
            torch.frombuffer(bytearray(text), dtype=torch.uint8).to(self.device) if text else _nothing(self)
        )

    def compute(self) -> dict[str, Tensor]:
        """Score by measure over everything seen by all processes; float64 scalars, empty when no frame counts."""
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        overall = self.summary().overall
        return {name: torch.tensor(value, dtype=dtype, device=self.device) for name, value in overall.items()}

    def summary(self) -> Summary:
        """Everything that is known: per frame, per sequence, overall.

        In a run of several processes all of them must call this (or `compute`), as it gathers the scores.
        """
        with self.sync_context(should_sync=self._to_sync and not self._is_synced, should_unsync=not self._is_synced):
            text = bytes(dim_zero_cat(self.records).cpu().numpy()).decode() if len(self.records) else ""
        # Sorted, so that of two scores of one frame the same one counts whatever the order of arrival.
        scores = [FrameScore.from_line(line) for line in sorted(set(text.splitlines()))]
        return self.protocol.summarise(scores, self.videos)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all processes; one that has scored nothing takes part with an empty state."""
        if isinstance(self.records, list) and not self.records:
            self.records.append(_nothing(self))
        super().sync(*args, **kwargs)


def _nothing(metric: Metric) -> Tensor:
    return torch.zeros(0, dtype=torch.uint8, device=metric.device)


def _array(values: np.ndarray | Tensor) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)

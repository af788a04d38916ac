"""What a flow estimator is, which two frames a flow map joins, and flow of a stream of frames."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskvos.errors import UserError, nearest

DIRECTIONS = ("forward", "backward")
"""Forward: from a frame to a later one. Backward: from a frame to an earlier one."""


class FlowEstimator(ABC):
    """Optical flow of pairs of frames; subclasses give `estimate` and `settings`.

    Args:
        max_size: Longest side at which flow is estimated, in pixels; larger frames are reduced first, and the flow
            is brought back to the frame's own grid. None: as they are.

    Raises:
        UserError: ``max_size`` is too small to estimate anything.
    """

    min_size: int = 32
    """Shortest side at which `estimate` works; smaller frames are enlarged first."""

    def __init__(self, max_size: int | None = None) -> None:
        if max_size is not None and max_size < self.min_size:
            raise UserError(f"flow.estimator.max_size={max_size}: flow needs at least {self.min_size} pixels, or null")
        self.max_size = max_size

    @property
    @abstractmethod
    def settings(self) -> dict[str, str | int | float | None]:
        """Everything that the result depends on, in plain values; ``name`` comes first."""

    @abstractmethod
    def estimate(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow at the working size.

        Args:
            first: (B, 3, H, W) uint8 RGB, sides at least `min_size`.
            second: The same of the second frames.

        Returns:
            (B, 2, H, W) float32, pixels, x then y, from first to second, on the CPU or the estimator's device.
        """

    @property
    def on_gpu(self) -> bool:
        """Whether `estimate` runs on a GPU here; loading processes, which cannot share it, use the CPU all the same."""
        return False

    def prepare(self) -> None:  # noqa: B027, an estimator without weights has nothing to prepare
        """Load whatever `estimate` needs, so that a mistake shows before the work begins.

        Raises:
            UserError: Something that it needs is not there.
        """

    @property
    def fingerprint(self) -> str:
        """Name of these settings and weights, fit for a folder: it changes whenever they do."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        return f"{self.settings['name']}-{digest[:12]}"

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow of pairs of frames on their own grid.

        Args:
            first: (B, 3, H, W) uint8 RGB.
            second: The same of the second frames.

        Returns:
            (B, 2, H, W) float32, pixels of the input's grid, x then y, from first to second; on the input's device.

        Raises:
            UserError: The inputs are of another shape or type, or differ in size.
        """
        if first.ndim != 4 or first.shape[1] != 3 or first.dtype != torch.uint8 or 0 in first.shape:
            raise UserError(f"flow: expected frames (B, 3, H, W) uint8, got {tuple(first.shape)} {first.dtype}")
        if first.shape != second.shape or first.dtype != second.dtype:
            raise UserError(
                f"flow: two frames differ, {tuple(first.shape)} {first.dtype} and {tuple(second.shape)} "
                f"{second.dtype}; all frames of a video must be of one size, resize or re-export them"
            )
        height, width = first.shape[-2:]
        working = self._working_size(height, width)
        if working == (height, width):
            return self.estimate(first, second).to(first.device)
        flow = self.estimate(_resize(first, working), _resize(second, working)).to(first.device)
        flow = F.interpolate(flow, (height, width), mode="bilinear", align_corners=False)
        return flow * flow.new_tensor([width / working[1], height / working[0]])[None, :, None, None]

    def _working_size(self, height: int, width: int) -> tuple[int, int]:
        scale = min(1.0, self.max_size / max(height, width)) if self.max_size else 1.0
        return max(round(height * scale), self.min_size), max(round(width * scale), self.min_size)


def check_direction(direction: str, gap: int) -> None:
    """Check the two settings that say which frames a flow map joins.

    Raises:
        UserError: The direction is not known, or the gap is not a positive whole number.
    """
    if direction not in DIRECTIONS:
        raise UserError(f"flow.direction={direction!r}: not known; {nearest(str(direction), DIRECTIONS)}")
    if isinstance(gap, bool) or not isinstance(gap, int) or gap < 1:
        raise UserError(f"flow.gap={gap!r}: it must be a whole number of frames, 1 or more")


def partner(index: int, count: int, direction: str = "forward", gap: int = 1) -> tuple[int, int]:
    """Which frame the flow of a frame leads to, and its sign.

    The frame ``gap`` steps on in the direction; where the video ends before that, the frame ``gap`` steps the
    other way, and the flow is negated; where both are missing, the end of the video that is farther away (the
    direction's own where they are equally far). A one-frame video leads to itself: zero flow.

    Args:
        index: The frame, 0 to ``count - 1``.
        count: Frames in the video.
        direction: ``forward`` or ``backward``.
        gap: Steps between the two frames.

    Returns:
        Index of the other frame and +1 or -1, the factor to the flow.
    """
    step = gap if direction == "forward" else -gap
    if 0 <= index + step < count:
        return index + step, 1
    if 0 <= index - step < count:
        return index - step, -1
    ahead, behind = (count - 1, 0) if step > 0 else (0, count - 1)
    return (ahead, 1) if abs(ahead - index) >= abs(behind - index) else (behind, -1)


def pair_flow(first: np.ndarray, second: np.ndarray, estimator: FlowEstimator) -> np.ndarray:
    """Flow of one pair of frames as arrays.

    Args:
        first: (H, W, 3) uint8 RGB.
        second: The same of the second frame.
        estimator: What estimates it.

    Returns:
        (H, W, 2) float32, pixels, x then y, from first to second.
    """
    return batch_flow([first], [second], estimator)[0]


def batch_flow(firsts: list[np.ndarray], seconds: list[np.ndarray], estimator: FlowEstimator) -> list[np.ndarray]:
    """Flow of several pairs of frames of one size as arrays, in one call of the estimator.

    Args:
        firsts: Each (H, W, 3) uint8 RGB.
        seconds: The same of the second frames.
        estimator: What estimates it.

    Returns:
        Per pair (H, W, 2) float32, pixels, x then y, from first to second.

    Raises:
        UserError: The frames differ in size.
    """
    sizes = {frame.shape[:2] for frame in (*firsts, *seconds)}
    if len(sizes) > 1:
        shown = " and ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise UserError(f"frames of {shown} pixels in one video: all must be of one size, resize or re-export them")
    flow = estimator(*(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) for frames in (firsts, seconds)))
    return list(np.ascontiguousarray(flow.permute(0, 2, 3, 1).cpu().numpy()))


def stream_flow(
    frames: Iterable[np.ndarray], estimator: FlowEstimator, direction: str = "forward", gap: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Flow of a video that is read once, in order of time; see `partner` for which frames are joined.

    Holds at most about three gaps of frames, however long the video is.

    Args:
        frames: Each (H, W, 3) uint8 RGB, all of one size.
        estimator: What estimates flow.
        direction: ``forward`` or ``backward``.
        gap: Steps between the two frames.

    Yields:
        Every frame with its flow, (H, W, 2) float32, pixels, x then y.

    Raises:
        UserError: The direction, the gap or a frame's size does not fit.
    """
    check_direction(direction, gap)
    held: dict[int, np.ndarray] = {}
    current = 0

    def emit(count: int) -> tuple[np.ndarray, np.ndarray]:
        frame = held[current]
        other, sign = partner(current, count, direction, gap)
        flow = pair_flow(frame, held[other], estimator) * np.float32(sign) if other != current else _still(frame)
        held.pop(current - 2 * gap, None)
        return frame, flow

    arrived = 0
    for frame in frames:
        held[arrived] = frame
        arrived += 1
        while current + gap < arrived or (direction == "backward" and gap <= current < arrived):
            yield emit(arrived)
            current += 1
    while current < arrived:
        yield emit(arrived)
        current += 1


def _still(frame: np.ndarray) -> np.ndarray:
    return np.zeros((*frame.shape[:2], 2), np.float32)


def _resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(frames.float(), size, mode="bilinear", align_corners=False, antialias=True)
    return resized.round_().clamp_(0, 255).byte()

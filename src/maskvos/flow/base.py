"""The flow estimator interface, the choice of frame pairs, and flow of a stream of frames."""

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
    """Base class of optical flow estimators; subclasses implement `estimate` and `settings`.

    Args:
        max_size: Longest side in pixels at which flow is estimated; larger frames are downscaled first and the flow is
            resized to the frame. None: estimate at full resolution.

    Raises:
        UserError: ``max_size`` is below `min_size`.
    """

    min_size: int = 32
    """Shortest side in pixels that `estimate` supports; smaller frames are upscaled first."""

    def __init__(self, max_size: int | None = None) -> None:
        if max_size is not None and max_size < self.min_size:
            raise UserError(f"flow.estimator.max_size={max_size}: must be at least {self.min_size} pixels, or null")
        self.max_size = max_size

    @property
    @abstractmethod
    def settings(self) -> dict[str, str | int | float | None]:
        """Everything that the flow depends on, as plain values; must contain ``name``."""

    @abstractmethod
    def estimate(self, first: Tensor, second: Tensor) -> Tensor:
        """Estimate flow at the input resolution.

        Args:
            first: (B, 3, H, W) uint8 RGB, sides at least `min_size`.
            second: The second frames, same shape and dtype.

        Returns:
            (B, 2, H, W) float32, pixels, x then y, from first to second, on the CPU or the estimator's device.
        """

    @property
    def on_gpu(self) -> bool:
        """Whether `estimate` runs on a GPU in this process; data loader workers always use the CPU."""
        return False

    def prepare(self) -> None:  # noqa: B027, an estimator without weights has nothing to prepare
        """Load the weights, so that a missing file is reported before the work starts.

        Raises:
            UserError: The weights cannot be loaded.
        """

    @property
    def fingerprint(self) -> str:
        """Folder name that identifies the settings and weights: ``<name>-<hash>``."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        return f"{self.settings['name']}-{digest[:12]}"

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Estimate flow for a batch of frame pairs of any size.

        Args:
            first: (B, 3, H, W) uint8 RGB.
            second: The second frames, same shape and dtype.

        Returns:
            (B, 2, H, W) float32, pixels of the input grid, x then y, from first to second; on the input's device.

        Raises:
            UserError: Wrong shape or dtype, or the two batches differ in size.
        """
        if first.ndim != 4 or first.shape[1] != 3 or first.dtype != torch.uint8 or 0 in first.shape:
            raise UserError(f"flow: expected frames (B, 3, H, W) uint8, got {tuple(first.shape)} {first.dtype}")
        if first.shape != second.shape or first.dtype != second.dtype:
            raise UserError(
                f"flow: the two frames differ, {tuple(first.shape)} {first.dtype} and {tuple(second.shape)} "
                f"{second.dtype}; all frames of a video must have the same size: resize or re-export them"
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
    """Validate the flow direction and frame gap.

    Raises:
        UserError: Unknown direction, or the gap is not a positive integer.
    """
    if direction not in DIRECTIONS:
        raise UserError(f"flow.direction={direction!r}: unknown direction; {nearest(str(direction), DIRECTIONS)}")
    if isinstance(gap, bool) or not isinstance(gap, int) or gap < 1:
        raise UserError(f"flow.gap={gap!r}: must be an integer number of frames, 1 or more")


def partner(index: int, count: int, direction: str = "forward", gap: int = 1) -> tuple[int, int]:
    """Choose the second frame of a flow pair, and the sign of the flow.

    Normally this is the frame ``gap`` steps away in the given direction. Near the end of the video it is the frame
    ``gap`` steps in the opposite direction, with the flow negated. If neither exists, it is the first or last frame,
    whichever is farther away (on a tie, the one in the given direction). A one-frame video is paired with itself: zero
    flow.

    Args:
        index: Frame index, 0 to ``count - 1``.
        count: Number of frames in the video.
        direction: ``forward`` or ``backward``.
        gap: Distance between the two frames, in frames.

    Returns:
        Index of the second frame, and the sign (+1 or -1) to multiply the flow with.
    """
    step = gap if direction == "forward" else -gap
    if 0 <= index + step < count:
        return index + step, 1
    if 0 <= index - step < count:
        return index - step, -1
    ahead, behind = (count - 1, 0) if step > 0 else (0, count - 1)
    return (ahead, 1) if abs(ahead - index) >= abs(behind - index) else (behind, -1)


def pair_flow(first: np.ndarray, second: np.ndarray, estimator: FlowEstimator) -> np.ndarray:
    """Flow of one pair of frames as NumPy arrays.

    Args:
        first: (H, W, 3) uint8 RGB.
        second: (H, W, 3) uint8 RGB.
        estimator: The flow estimator.

    Returns:
        (H, W, 2) float32, pixels, x then y, from first to second.
    """
    return batch_flow([first], [second], estimator)[0]


def batch_flow(firsts: list[np.ndarray], seconds: list[np.ndarray], estimator: FlowEstimator) -> list[np.ndarray]:
    """Flow of several frame pairs as NumPy arrays, in one call to the estimator.

    Args:
        firsts: First frames, each (H, W, 3) uint8 RGB, all of one size.
        seconds: Second frames, same format.
        estimator: The flow estimator.

    Returns:
        One (H, W, 2) float32 per pair, pixels, x then y, from first to second.

    Raises:
        UserError: The frames differ in size.
    """
    sizes = {frame.shape[:2] for frame in (*firsts, *seconds)}
    if len(sizes) > 1:
        shown = " and ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise UserError(f"frames of {shown} pixels in one video: all must have the same size; resize or re-export them")
    flow = estimator(*(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) for frames in (firsts, seconds)))
    return list(np.ascontiguousarray(flow.permute(0, 2, 3, 1).cpu().numpy()))


def stream_flow(
    frames: Iterable[np.ndarray], estimator: FlowEstimator, direction: str = "forward", gap: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Flow of a stream of frames, each read once; `partner` chooses the pairs.

    Buffers about ``3 * gap`` frames, whatever the length of the video.

    Args:
        frames: Frames in temporal order, each (H, W, 3) uint8 RGB, all of one size.
        estimator: The flow estimator.
        direction: ``forward`` or ``backward``.
        gap: Distance between the two frames, in frames.

    Yields:
        Each frame and its flow, (H, W, 2) float32, pixels, x then y.

    Raises:
        UserError: Invalid direction or gap, or the frames differ in size.
    """
    check_direction(direction, gap)
    buffer: dict[int, np.ndarray] = {}
    current = 0

    def emit(count: int) -> tuple[np.ndarray, np.ndarray]:
        frame = buffer[current]
        other, sign = partner(current, count, direction, gap)
        flow = pair_flow(frame, buffer[other], estimator) * np.float32(sign) if other != current else zero_flow(frame)
        buffer.pop(current - 2 * gap, None)
        return frame, flow

    arrived = 0
    for frame in frames:
        buffer[arrived] = frame
        arrived += 1
        while current + gap < arrived or (direction == "backward" and gap <= current < arrived):
            yield emit(arrived)
            current += 1
    while current < arrived:
        yield emit(arrived)
        current += 1


def zero_flow(frame: np.ndarray) -> np.ndarray:
    """(H, W, 2) float32 zeros for a frame (H, W, 3)."""
    return np.zeros((*frame.shape[:2], 2), np.float32)


def _resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(frames.float(), size, mode="bilinear", align_corners=False, antialias=True)
    return resized.round_().clamp_(0, 255).byte()

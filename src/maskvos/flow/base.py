"""The flow estimator interface, the choice of frame pairs, and flow of a stream of frames."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import cv2
import numpy as np
from PIL import Image

from maskvos.errors import UserError
from maskvos.settings.table import check_settings

DIRECTIONS = ("forward", "backward")
"""Forward: from a frame to a later one. Backward: from a frame to an earlier one."""


class FlowEstimator(ABC):
    """Base class of optical flow estimators; subclasses implement `estimate` and `settings`.

    Flow maps are at the size at which they are estimated, in pixels of their own grid; see `resize_flow`.

    Args:
        max_size: Longest side in pixels at which flow is estimated; larger frames are downscaled first. None: estimate
            at full resolution.

    Raises:
        UserError: ``max_size`` is below `min_size`.
    """

    min_size: int = 32
    """Shortest side in pixels that `estimate` supports; smaller frames are upscaled first."""

    def __init__(self, max_size: int | None = None) -> None:
        check_settings(max_size, "flow.estimator.max_size")
        if max_size is not None and max_size < self.min_size:
            raise UserError(f"flow.estimator.max_size={max_size}: must be at least {self.min_size} pixels, or null")
        self.max_size = max_size

    @property
    @abstractmethod
    def settings(self) -> dict[str, str | int | float | None]:
        """Everything that the flow depends on, as plain values; must contain ``name``."""

    @abstractmethod
    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Estimate flow; may be called from several threads.

        Args:
            first: (B, ...) stacked results of `preprocess`.
            second: The second frames, same shape.

        Returns:
            (B, h, w, 2) float32, pixels, x then y, from first to second.
        """

    def preprocess(self, frame: np.ndarray) -> np.ndarray:
        """Resize a frame to the size at which flow is estimated; done once per frame, not once per pair.

        Args:
            frame: (H, W, 3) uint8 RGB.

        Returns:
            (h, w, 3) uint8 RGB, sides at least `min_size`.
        """
        return self._resize(frame)

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
        # Version 0.1 stored maps at the frame's size also where they were estimated at another.
        grid = {} if self.max_size is None else {"grid": "estimated"}
        digest = hashlib.sha256(json.dumps({**self.settings, **grid}, sort_keys=True).encode()).hexdigest()
        return f"{self.settings['name']}-{digest[:12]}"

    def __call__(self, first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
        """Estimate the flow of frame pairs.

        Args:
            first: First frames, each (H, W, 3) uint8 RGB, all of one size.
            second: Second frames, same format.

        Returns:
            (B, h, w, 2) float32, pixels of this grid, x then y, from first to second.

        Raises:
            UserError: A frame has another shape or dtype, or the frames differ in size.
        """
        for frame in (*first, *second):
            check_frame(frame, first[0].shape)
        return self.estimate(*(np.stack([self.preprocess(frame) for frame in frames]) for frames in (first, second)))

    def _resize(self, frame: np.ndarray) -> np.ndarray:
        """Resize (H, W) or (H, W, 3) uint8 to the working size, bilinearly with antialiasing."""
        height, width = frame.shape[:2]
        scale = min(1.0, self.max_size / max(height, width)) if self.max_size else 1.0
        size = max(round(width * scale), self.min_size), max(round(height * scale), self.min_size)
        if size == (width, height):
            return frame
        return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))


def check_frame(frame: np.ndarray, shape: tuple[int, ...]) -> None:
    """Validate a frame.

    Raises:
        UserError: It is not (H, W, 3) uint8, or not of the given shape.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
        raise UserError(f"flow: expected frames (H, W, 3) uint8, got {frame.shape} {frame.dtype}")
    if frame.shape != shape:
        shown = " and ".join(f"{width}x{height}" for height, width in sorted({frame.shape[:2], shape[:2]}))
        raise UserError(f"frames of {shown} pixels in one video: all must have the same size; resize or re-export them")


def resize_flow(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a flow map and scale its vectors to pixels of the new grid.

    Args:
        flow: (H, W, 2) float32, pixels of its own grid, x then y.
        size: New height and width, pixels.

    Returns:
        (height, width, 2) float32, pixels of the new grid.
    """
    height, width = flow.shape[:2]
    if (height, width) == tuple(size):
        return flow
    resized = cv2.resize(flow, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.multiply(resized, np.array([size[1] / width, size[0] / height], dtype=np.float32), out=resized)


def check_direction(direction: str, gap: int) -> None:
    """Validate the flow direction and frame gap.

    Raises:
        UserError: Unknown direction, or the gap is not a positive integer.
    """
    check_settings({"direction": direction, "gap": gap}, "flow")


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
    """Flow of one pair of frames at their own size.

    Args:
        first: (H, W, 3) uint8 RGB.
        second: (H, W, 3) uint8 RGB.
        estimator: The flow estimator.

    Returns:
        (H, W, 2) float32, pixels, x then y, from first to second.
    """
    return resize_flow(estimator([first], [second])[0], (first.shape[0], first.shape[1]))


FlowOf = Callable[[], np.ndarray]
"""Computes the flow of a frame, (h, w, 2) float32, pixels, x then y; may be called in any thread."""


def stream_flow(
    frames: Iterable[np.ndarray], estimator: FlowEstimator, direction: str = "forward", gap: int = 1
) -> Iterator[tuple[np.ndarray, FlowOf]]:
    """Flow of a stream of frames, each read and preprocessed once; `partner` chooses the pairs.

    Buffers about ``3 * gap`` frames, whatever the length of the video.

    Args:
        frames: Frames in temporal order, each (H, W, 3) uint8 RGB, all of one size.
        estimator: The flow estimator.
        direction: ``forward`` or ``backward``.
        gap: Distance between the two frames, in frames.

    Yields:
        Each frame, and a function that computes its flow.

    Raises:
        UserError: Invalid direction or gap, or the frames differ in size.
    """
    check_direction(direction, gap)
    buffer: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    current = 0

    def emit(count: int) -> tuple[np.ndarray, FlowOf]:
        frame, first = buffer[current]
        other, sign = partner(current, count, direction, gap)
        flow = partial(_signed_flow, estimator, first, None if other == current else buffer[other][1], sign)
        buffer.pop(current - 2 * gap, None)
        return frame, flow

    arrived = 0
    shape: tuple[int, ...] | None = None
    for frame in frames:
        shape = shape or frame.shape
        check_frame(frame, shape)
        buffer[arrived] = frame, estimator.preprocess(frame)
        arrived += 1
        while current + gap < arrived or (direction == "backward" and gap <= current < arrived):
            yield emit(arrived)
            current += 1
    while current < arrived:
        yield emit(arrived)
        current += 1


def _signed_flow(estimator: FlowEstimator, first: np.ndarray, second: np.ndarray | None, sign: int) -> np.ndarray:
    """Flow between two preprocessed frames; zero without a second one."""
    if second is None:
        return zero_flow(first)
    return estimator.estimate(first[None], second[None])[0] * np.float32(sign)


def zero_flow(frame: np.ndarray) -> np.ndarray:
    """(H, W, 2) float32 zeros for a frame (H, W, ...)."""
    return np.zeros((*frame.shape[:2], 2), np.float32)

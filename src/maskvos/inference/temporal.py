"""Masks made consistent in time: parts of the object that vanish for a few frames are filled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from maskvos.inference.segmenter import SegmentedFrame

_Window = list[tuple["SegmentedFrame", np.ndarray]]  # frames, and their masks at the size of the flow, (h, w) float32

GAP = 2
"""Frames that a gap may last by default. On held-out training sequences, longer gaps gain no more."""

# Probability below which a pixel is not filled, whatever comes before and after.
_LOW = 0.1


def fill_gaps(
    frames: Generator[SegmentedFrame, None, None],
    longest: int,
    velocity: float,
    threshold: float,
) -> Generator[SegmentedFrame, None, None]:
    """Fill parts of the object that are missing in a few frames, but there before and after: hysteresis in time.

    A pixel is filled where the object is found within few frames before and after it, at the places that it has by its
    optical flow at constant velocity, and where the network finds the object at least possible (probability above
    0.1). Each frame is yielded ``longest`` frames later than it comes.

    Args:
        frames: Frames of one video, in order.
        longest: The longest gap, in frames.
        velocity: What ``flow`` is multiplied with to give the motion to the next frame: 1 for forward flow, -1 for
            backward flow, divided by the number of frames between the two.
        threshold: Logit above which a pixel belongs to the object.

    Yields:
        The frames; where something is filled, with new ``mask`` and ``logits``.
    """
    window: _Window = []  # up to `longest` frames on both sides of the one at `place`
    place = 0
    with closing(frames):
        for frame in frames:
            size = frame.flow.shape[1::-1]
            window.append((frame, cv2.resize(frame.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)))
            if len(window) - place > longest:
                yield _filled(window, place, longest, velocity, threshold)
                place += 1
            if place > longest:
                window.pop(0)
                place -= 1
    for remaining in range(place, len(window)):
        yield _filled(window, remaining, longest, velocity, threshold)


def _filled(window: _Window, place: int, longest: int, velocity: float, threshold: float) -> SegmentedFrame:
    frame, _ = window[place]
    motion = frame.flow * np.float32(velocity)
    before = _distance(window, place, -1, longest, motion)
    after = _distance(window, place, 1, longest, motion)
    gap = (before + after <= longest + 1).astype(np.uint8)
    if not gap.any():
        return frame
    height, width = frame.mask.shape
    gap = cv2.resize(gap, (width, height), interpolation=cv2.INTER_NEAREST) > 0
    filled = gap & ~frame.mask & (frame.logits > math.log(_LOW / (1 - _LOW)))
    if not filled.any():
        return frame
    logits = np.where(filled, np.float32(threshold) + np.float32(1e-3), frame.logits)
    return dataclasses.replace(frame, logits=logits, mask=logits > threshold)


def _distance(window: _Window, place: int, direction: int, longest: int, motion: np.ndarray) -> np.ndarray:
    """Frames from each pixel to the nearest frame in which it belongs to the object; (h, w), large if there is none."""
    found = np.full(motion.shape[:2], 2 * longest + 2, np.int32)
    rows, columns = np.indices(motion.shape[:2], np.float32)
    for steps in range(longest, 0, -1):
        other = place + direction * steps
        if 0 <= other < len(window):
            x, y = columns + direction * steps * motion[..., 0], rows + direction * steps * motion[..., 1]
            found[cv2.remap(window[other][1], x, y, cv2.INTER_LINEAR) > 0.5] = steps
    return found

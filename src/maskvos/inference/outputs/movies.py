"""Kinds that are a movie, at the rate and with the sound of the video."""

from __future__ import annotations

import cv2
import numpy as np

from maskvos.inference.outputs.base import Draw, Look, Target
from maskvos.inference.outputs.images import object_of
from maskvos.inference.segmenter import SegmentedFrame
from maskvos.media.draw import draw_fill, draw_overlay, side_by_side
from maskvos.media.encode import Codec, VideoWriter
from maskvos.media.video import probe


class Movie:
    """A movie of the frames, drawn. See `Output`."""

    def __init__(self, target: Target, draw: Draw, codec: Codec) -> None:
        self.times, self.look, self.draw = target.times, target.look, draw
        source = target.video.file
        display = None if source is None else probe(source).display
        sound = source if codec.sounds else None
        self.writer = VideoWriter(target.path, target.times.rate, codec=codec, sound=sound, display=display)

    def add(self, frame: SegmentedFrame) -> None:
        """See `Output`."""
        uneven = self.times.uneven is not None
        self.writer.write(self.draw(frame, self.look), self.times.at(frame.index) if uneven else None)

    def finish(self) -> None:
        """See `Output`."""
        self.writer.close()

    def abort(self) -> None:
        """See `Output`."""
        self.writer.abort()


def draw_overlays(frame: SegmentedFrame, look: Look) -> np.ndarray:
    """The object tinted and outlined."""
    return draw_overlay(frame.image, frame.mask, look.colour, look.opacity, look.outline, look.outline_colour)


def draw_side_by_side(frame: SegmentedFrame, look: Look) -> np.ndarray:
    """Frame, optical flow, mask."""
    return side_by_side([frame.image, draw_flow(frame.flow, frame.mask.shape), frame.mask])


def draw_matte(frame: SegmentedFrame, look: Look) -> np.ndarray:
    """The transparency in grey."""
    _, alpha = object_of(frame, look)
    return cv2.cvtColor(alpha, cv2.COLOR_GRAY2RGB)


def draw_alpha(frame: SegmentedFrame, look: Look) -> np.ndarray:
    """RGBA for editors."""
    return draw_fill(*object_of(frame, look))


def draw_flow(flow: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Draw the network's input flow at the frame's size.

    Args:
        flow: (h, w, 2) float32, pixels of the network's input, x then y.
        size: Height and width of the frame, pixels.

    Returns:
        (H, W, 3) uint8 RGB, the colours of the Middlebury wheel.
    """
    from maskvos.flow.colours import flow_to_rgb  # imports torch, which the other kinds do not need

    # Another aspect ratio changes directions: undo that before they become colours.
    scale = np.array([size[1] / flow.shape[1], size[0] / flow.shape[0]], np.float32)
    return cv2.resize(flow_to_rgb(flow * scale), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)

"""Kinds that are a folder of PNGs, one for each frame."""

from __future__ import annotations

import numpy as np

from maskvos.inference.outputs.base import Draw, Look, Target
from maskvos.inference.segmenter import SegmentedFrame
from maskvos.media.draw import draw_cutout
from maskvos.media.images import write_image


class Images:
    """A PNG for each frame, under the frame's name. See `Output`."""

    def __init__(self, target: Target, draw: Draw) -> None:
        self.folder, self.look, self.draw = target.path, target.look, draw

    def add(self, frame: SegmentedFrame) -> None:
        """See `Output`."""
        write_image(self.folder / f"{frame.name}.png", self.draw(frame, self.look))

    def finish(self) -> None:
        """See `Output`; every image is whole already."""

    def abort(self) -> None:
        """See `Output`; what is whole is kept."""


def draw_masks(frame: SegmentedFrame, look: Look) -> np.ndarray:
    """0 background, 255 object."""
    return frame.mask.astype(np.uint8) * 255


def draw_soft(frame: SegmentedFrame, look: Look) -> np.ndarray:
    """Probability times 255."""
    return np.round(np.clip(frame.probability, 0, 1) * 255).astype(np.uint8)


def draw_cutouts(frame: SegmentedFrame, look: Look) -> np.ndarray:
    """RGBA, transparent outside of the object."""
    return draw_cutout(*object_of(frame, look))


def object_of(frame: SegmentedFrame, look: Look) -> tuple[np.ndarray, np.ndarray]:
    """Colours (H, W, 3) and opacity (H, W) of the object, uint8; the same for all kinds with transparency."""
    if look.soft_edges:
        return frame.foreground, frame.alpha
    return frame.image, draw_masks(frame, look)

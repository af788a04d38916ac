"""The interface of what prediction writes, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from maskvos.data.streams import FrameTimes
from maskvos.inference.segmenter import SegmentedFrame
from maskvos.media.draw import Colour
from maskvos.types import Video


class Look(NamedTuple):
    """How results are drawn.

    Attributes:
        colour: Tint of the overlay, as the next three see `draw_overlay`.
        opacity: Of the tint.
        outline: Its width, pixels.
        outline_colour: RGB; None: that of the tint.
        background: RGB of the green screen.
        soft_edges: Transparency follows the picture at the edge; otherwise it is the mask.
    """

    colour: Colour
    opacity: float
    outline: int
    outline_colour: Colour | None
    background: Colour
    soft_edges: bool = True


class Target(NamedTuple):
    """Where and of what an output is made.

    Attributes:
        path: The file or folder; the folder around it exists.
        video: The video.
        times: When its frames are shown.
        look: How it is drawn.
    """

    path: Path
    video: Video
    times: FrameTimes
    look: Look


Draw = Callable[[SegmentedFrame, Look], np.ndarray]
"""Draws a frame: (H, W), (H, W, 3) or (H, W, 4) uint8."""


class Output(Protocol):
    """One kind of result of one video: frames in order, then `finish` or `abort`; in one thread."""

    def add(self, frame: SegmentedFrame) -> None:
        """Write a frame."""

    def finish(self) -> None:
        """All frames have come: the result gets its name."""

    def abort(self) -> None:
        """Remove what is unfinished."""


class Kind(NamedTuple):
    """A kind of result.

    Attributes:
        place: Name of the file, or of a folder with a PNG for each frame, in the folder of the video.
        open: Begins it.
    """

    place: str
    open: Callable[[Target], Output]

    @property
    def is_file(self) -> bool:
        """Whether it is one file."""
        return "." in self.place

"""The interface of what prediction writes, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from maskvos.data.streams import FrameTimes
from maskvos.inference.segmenter import SegmentedFrame
from maskvos.media.background import parse_background, parse_colour
from maskvos.media.draw import Colour
from maskvos.types import Video


class Look(NamedTuple):
    """How results are drawn.

    Attributes:
        colour: Tint of the overlay, as the next three see `draw_overlay`.
        opacity: Of the tint.
        outline: Its width, pixels.
        outline_colour: RGB; None: that of the tint.
        background: A colour, `BLUR`, `AUTO`, or a picture or movie.
        soft_edges: Transparency follows the picture at the edge; otherwise it is the mask.
    """

    colour: Colour
    opacity: float
    outline: int
    outline_colour: Colour | None
    background: Colour | Path | str
    soft_edges: bool

    @classmethod
    def of(
        cls,
        colour: str | Sequence[int],
        opacity: float,
        outline: int,
        outline_colour: str | Sequence[int] | None,
        background: str | Path | Sequence[int],
        soft_edges: bool,
    ) -> Look:
        """From the settings of the writer.

        Raises:
            UserError: A colour or background is none.
        """
        return cls(
            parse_colour(colour, "writer.colour"),
            opacity,
            outline,
            None if outline_colour is None else parse_colour(outline_colour, "writer.outline_colour"),
            parse_background(background, "writer.background"),
            soft_edges,
        )

    def settings(self) -> dict[str, Any]:
        """What results depend on, in plain values."""
        found = self._asdict()
        if isinstance(self.background, Path):
            status = self.background.stat()
            found["background"] = [self.background.name, status.st_size, status.st_mtime_ns]
        return found


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

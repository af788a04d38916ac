"""Kinds that are a movie of the object on another background."""

from __future__ import annotations

import logging

import numpy as np

from maskvos.inference.outputs.base import Look, Target
from maskvos.inference.outputs.images import object_of
from maskvos.inference.outputs.movies import Movie
from maskvos.inference.segmenter import SegmentedFrame
from maskvos.media.background import AUTO, Plain, open_background
from maskvos.media.draw import Colour, draw_background
from maskvos.media.encode import H264

log = logging.getLogger(__name__)

# Share of an object in the key's colour above which a keyer makes visible holes.
_HOLES = 0.02


class OnBackground(Movie):
    """The object on another background. See `Output`.

    Args:
        target: The movie.
        colour: RGB of the background; None: what `Look.background` says.
    """

    def __init__(self, target: Target, colour: Colour | None = None) -> None:
        self.background = open_background(colour or target.look.background)
        self.name = target.video.name
        super().__init__(target, self._drawn, H264)

    def _drawn(self, frame: SegmentedFrame, look: Look) -> np.ndarray:
        colours, alpha = object_of(frame, look)
        return draw_background(colours, alpha, self.background.at(frame.image, alpha, frame.time))

    def finish(self) -> None:
        """See `Output`; warns if the object has the background's colour."""
        super().finish()
        if isinstance(self.background, Plain) and self.background.similar > _HOLES:
            log.warning(
                "%s: %.0f%% of the object has about the colour of the background, and a keyer would cut it out; "
                "choose another background, or %s",
                self.name,
                100 * self.background.similar,
                AUTO,
            )

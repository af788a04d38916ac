"""The network's output of a clip, kept on disk: another threshold or kind needs no second pass of the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from maskvos.data.streams import FrameTimes, read_frames
from maskvos.inference.postprocess import resize_logits
from maskvos.inference.segmenter import SegmentedFrame, Segmenter
from maskvos.media.video import Reading
from maskvos.types import Video


class Recording:
    """Segments a clip with the network the first time, and from what is recorded after that.

    Args:
        segmenter: The network.
        path: Where its output is kept, 16 bits for each pixel of the network.
        watch: Called with each frame.
    """

    def __init__(self, segmenter: Segmenter, path: Path, watch: Callable[[SegmentedFrame], None]) -> None:
        self.segmenter, self.watch = segmenter, watch
        self.threshold = segmenter.threshold
        self._path = path
        self._shape: tuple[int, ...] = ()
        self._complete = False

    def stream_video(self, video: Video, times: FrameTimes, reading: Reading) -> Iterator[SegmentedFrame]:
        """As `Segmenter.stream_video`, with `threshold`."""
        cut = math.log(self.threshold / (1 - self.threshold))
        for frame in (self._replay if self._complete else self._record)(video, times, reading):
            frame = replace(frame, mask=frame.logits > cut)
            frame = frame.refined() if self.segmenter.refine else frame
            self.watch(frame)
            yield frame

    def _record(self, video: Video, times: FrameTimes, reading: Reading) -> Iterator[SegmentedFrame]:
        with self._path.open("wb") as file:
            for frame in self.segmenter.stream_video(video, times, reading):
                assert frame.coarse is not None
                self._shape = frame.coarse.shape
                file.write(frame.coarse.astype(np.float16).tobytes())
                yield frame
        self._complete = True

    def _replay(self, video: Video, times: FrameTimes, reading: Reading) -> Iterator[SegmentedFrame]:
        with self._path.open("rb") as file:
            for index, image in enumerate(read_frames(video, reading)):
                coarse = np.frombuffer(file.read(2 * math.prod(self._shape)), np.float16).reshape(self._shape)
                logits = resize_logits(coarse.astype(np.float32), (image.shape[0], image.shape[1]))
                time, still = float(times.at(index)), np.zeros((*self._shape, 2), np.float32)
                yield SegmentedFrame(image, logits, logits > 0, index, time, f"{index:05d}", still, coarse)

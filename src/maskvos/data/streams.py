"""Videos read once, frame by frame in temporal order: frames with their times and optical flow."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maskvos.errors import UserError
from maskvos.flow.base import FlowOf, stream_flow
from maskvos.flow.store import FlowStore
from maskvos.media.images import read_image
from maskvos.media.live import LiveSource
from maskvos.media.video import Reading, probe, read_video, variable_timestamps
from maskvos.settings.table import check_settings
from maskvos.types import Video

FRAME_RATE = 24
"""Frames per second of a video that has no rate of its own: a folder of images, or arrays."""


class FrameTimes(NamedTuple):
    """When the frames of a video are shown.

    Attributes:
        rate: Frames per second; the average where frames are unevenly spaced.
        uneven: Seconds of each frame after the first; None at a constant rate.
    """

    rate: Fraction
    uneven: Sequence[Fraction | float] | None = None

    def at(self, index: int) -> Fraction:
        """Seconds of a frame after the first one."""
        if self.uneven is None:
            return index / self.rate
        if index < len(self.uneven):
            return Fraction(self.uneven[index])
        # A decoder may yield more frames than the container lists; they follow at the average rate.
        return Fraction(self.uneven[-1]) + (index - len(self.uneven) + 1) / self.rate


def times_of(video: Video, rate: Fraction | float = FRAME_RATE) -> FrameTimes:
    """When the frames of a video are shown.

    Args:
        video: A movie has its own rate.
        rate: Frames per second of a folder of frames.

    Raises:
        UserError: The movie cannot be read.
    """
    if video.file is None:
        return FrameTimes(Fraction(rate).limit_denominator(100_000))
    return FrameTimes(probe(video.file).fps, variable_timestamps(video.file))


def live_times(source: LiveSource) -> FrameTimes:
    """When the frames of a live source are shown: as they arrive."""
    return FrameTimes(source.rate, source.times)


def read_frames(video: Video, reading: Reading | None = None) -> Iterator[np.ndarray]:
    """Decode the frames of a video one after the other.

    Args:
        video: A movie or a folder of frames.
        reading: Is kept up to date.

    Yields:
        (H, W, 3) uint8 RGB, all of one size.

    Raises:
        UserError: The video cannot be read, or its frames differ in size.
    """
    reading = reading or Reading()
    if video.file is not None:
        yield from read_video(video.file, reading)
        return
    reading.expected = len(video.frames)
    shape: tuple[int, ...] | None = None
    for frame in video.frames:
        image = read_image(frame.image)
        shape = shape or image.shape
        if image.shape != shape:
            raise UserError(
                f"{frame.image} is {image.shape[1]}x{image.shape[0]} and {video.frames[0].image.name} "
                f"{shape[1]}x{shape[0]} (width x height); the frames of a video must have the same size"
            )
        reading.frames += 1
        yield image
    reading.ended = True


@dataclass(frozen=True)
class StreamFrame:
    """A frame of a stream. Its flow is not computed yet, so that this can be done in another thread.

    Attributes:
        name: Name of the frame: of its file, or its number with five digits.
        index: Number of the frame, from 0.
        time: Seconds after the first frame.
        image: (H, W, 3) uint8 RGB.
        flow: Computes its optical flow.
        tta_flow: Computes a second flow map for test-time augmentation.
        still: The motion encoder reads the RGB frame instead of flow (motion as option).
    """

    name: str
    index: int
    time: float
    image: np.ndarray
    flow: FlowOf
    tta_flow: FlowOf | None = None
    still: bool = False


@dataclass(frozen=True)
class FrameStream:
    """Reads frames with their flow in temporal order; memory does not grow with the length of the video.

    Args:
        flow: Source of optical flow.
        motion_as_option: As in `FrameDataset`; a number makes the motion encoder read the RGB frame of a video of one
            frame, None shows it zero flow.
        tta_flow: Source of a second flow map per frame, for test-time augmentation.
    """

    flow: FlowStore
    motion_as_option: float | None = None
    tta_flow: FlowStore | None = None

    def of_video(
        self, video: Video, times: FrameTimes | None = None, reading: Reading | None = None
    ) -> Iterator[StreamFrame]:
        """Frames of a video on disk.

        Args:
            video: A movie or a folder of frames.
            times: When its frames are shown; looked up by default.
            reading: Is kept up to date: how many frames were read, and what is damaged.

        Raises:
            UserError: The video cannot be read, is empty, or has frames of several sizes.
        """
        names = (frame.name for frame in video.frames) if video.frames else _numbers()
        empty = True
        for frame in self._stream(video, read_frames(video, reading), times or times_of(video), names):
            empty = False
            yield frame
        if empty:
            raise UserError(f"the video {video.file} has no frame that can be decoded; check that it plays")

    def of_arrays(self, frames: Iterable[np.ndarray], rate: float = FRAME_RATE) -> Iterator[StreamFrame]:
        """Frames from memory or a camera: one is yielded as soon as its flow can be computed.

        With forward flow over one frame that is when the next frame has come; with backward flow there is no delay.

        Args:
            frames: Each (H, W, 3) uint8 RGB, all of one size; a `LiveSource` also says when they arrived.
            rate: Frames per second, where the frames do not say it.

        Raises:
            UserError: A frame has another shape or dtype, the rate is out of range, or flow is precomputed.
        """
        check_settings(rate, "writer.frame_rate")
        times = live_times(frames) if isinstance(frames, LiveSource) else FrameTimes(Fraction(rate))
        yield from self._stream(None, map(_checked, frames), times, _numbers())

    def _stream(
        self, video: Video | None, frames: Iterator[np.ndarray], times: FrameTimes, names: Iterator[str]
    ) -> Iterator[StreamFrame]:
        still = False
        if self.motion_as_option is not None:
            still, frames = _is_still(frames)
        flows: Iterator[tuple[np.ndarray, FlowOf, FlowOf | None]]
        if self.tta_flow is None:
            flows = ((image, flow, None) for image, flow in _stream(self.flow, video, frames))
        else:
            first, second = _twice(frames)
            streams = zip(_stream(self.flow, video, first), _stream(self.tta_flow, video, second), strict=True)
            sign = same_direction(self.flow, self.tta_flow)
            flows = ((image, flow, partial(_times, sign, tta)) for (image, flow), (_, tta) in streams)
        # The frames first: they have to be read to their end, where it is noted that this was all.
        for index, ((image, flow, tta_flow), name) in enumerate(zip(flows, names, strict=False)):
            yield StreamFrame(name, index, float(times.at(index)), image, flow, tta_flow, still)


def _numbers() -> Iterator[str]:
    return (f"{number:05d}" for number in itertools.count())


def _times(sign: np.float32, flow: FlowOf) -> np.ndarray:
    return sign * flow()


def _stream(flow: FlowStore, video: Video | None, frames: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, FlowOf]]:
    if video is not None:
        return flow.stream(video, frames)
    if flow.estimator is None:
        raise UserError("flow=precomputed: frames from memory have no precomputed flow; choose flow=dis")
    return stream_flow(frames, flow.estimator, flow.direction, flow.gap)


def same_direction(flow: FlowStore, other: FlowStore) -> np.float32:
    """Sign, 1 or -1, that aligns the other store's flow with this one's direction, assuming constant velocity."""
    return np.float32(1 if flow.direction == other.direction else -1)


def _checked(frame: np.ndarray) -> np.ndarray:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        given = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise UserError(f"frame: got {given}; expected a uint8 array (H, W, 3), RGB")
    return frame


def _twice(frames: Iterator[np.ndarray]) -> tuple[Iterator[np.ndarray], Iterator[np.ndarray]]:
    """Two iterators over the same frames that are advanced alternately.

    Holds only the frames that one of them has not seen yet; `itertools.tee` would hold 57 and more.
    """
    held: tuple[deque[np.ndarray], deque[np.ndarray]] = deque(), deque()

    def reader(own: deque[np.ndarray]) -> Iterator[np.ndarray]:
        while True:
            if not own:
                frame = next(frames, None)
                if frame is None:
                    return
                for queue in held:
                    queue.append(frame)
                del frame
            yield own.popleft()

    return reader(held[0]), reader(held[1])


def _is_still(frames: Iterator[np.ndarray]) -> tuple[bool, Iterator[np.ndarray]]:
    """Whether there is a single frame only, which a movie does not say in advance; and all frames."""
    head = list(itertools.islice(frames, 2))
    return len(head) == 1, itertools.chain(head, frames)


def single_video(videos: list[Video], source: str | Path) -> Video:
    """The only video of a source.

    Raises:
        UserError: There are several.
    """
    if len(videos) > 1:
        raise UserError(f"{source} holds {len(videos)} videos; stream one of them, or write all with maskvos.segment")
    return videos[0]

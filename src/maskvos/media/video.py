"""Read video files frame by frame, with display rotation and variable frame rates; what is damaged is noticed.

Reads every format that PyAV's FFmpeg decodes. `VideoWriter` writes H.264.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from maskvos.errors import UserError, out_of_memory
from maskvos.media.encode import VideoWriter
from maskvos.media.images import check_size

__all__ = ["Reading", "VideoInfo", "VideoWriter", "probe", "read_video", "variable_timestamps"]

log = logging.getLogger(__name__)

# Encoders rarely let more frames than these refer to a later one.
_HELD = 8
_DEFAULT_RATE = Fraction(25)


@dataclass(frozen=True)
class VideoInfo:
    """Metadata of a video file.

    Attributes:
        width: Displayed width in pixels, after rotation.
        height: Displayed height in pixels, after rotation.
        fps: Frames per second; the average of a variable rate.
        frames: Number of frames; None if the file does not state it.
        seconds: Duration; None if the file does not state it.
        codec: FFmpeg's name of the codec.
        rotation: Degrees, counterclockwise, by which stored frames are rotated for display.
    """

    width: int
    height: int
    fps: Fraction
    frames: int | None
    seconds: float | None
    codec: str
    rotation: int


@dataclass
class Reading:
    """What is noticed while a video is read.

    Attributes:
        frames: Number of frames read so far.
        damaged: Number of frames with errors: shown as well as they could be decoded, or left out.
        expected: Number of frames that the whole video has, once it is read.
        ended: The video was read to its end.
    """

    frames: int = 0
    damaged: int = 0
    expected: int | None = None
    ended: bool = False

    @property
    def short(self) -> bool:
        """The video ends earlier than its file says."""
        return self.expected is not None and self.frames < self.expected

    @property
    def problem(self) -> str:
        """What is wrong with the video, for people; empty where nothing is."""
        damaged = f"{self.damaged} of {self.frames} frames have errors" if self.damaged else ""
        short = f"it ends after {self.frames} of about {self.expected} frames" if self.short else ""
        return " and ".join(filter(None, (short, damaged)))


def read_video(path: str | Path, reading: Reading | None = None) -> Iterator[np.ndarray]:
    """Decode a video frame by frame, in constant memory.

    Damaged frames are shown as well as they can be decoded, and a truncated file is read up to the cut, as players do;
    a warning says so. All frames are scaled to the size of the first.

    Args:
        path: Video file.
        reading: Is kept up to date.

    Yields:
        (H, W, 3) uint8 RGB, with the display rotation applied.

    Raises:
        UserError: The file is missing, not a video, or has no frame that can be decoded.
    """
    path, reading = Path(path), reading or Reading()
    size: tuple[int, int] | None = None
    for picture in _pictures(path, reading):
        size = size or (picture.width, picture.height)
        try:
            rgb = picture.to_ndarray(format="rgb24", width=size[0], height=size[1])
        except (av.error.FFmpegError, ValueError) as error:
            if out_of_memory(error):
                raise
            raise UserError(f"the video {path} cannot be converted to RGB ({error}); convert it to H.264") from error
        turns = _turns(picture)
        reading.frames += 1
        yield np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb
    if size is None:
        raise _no_frame(path)
    reading.expected = max(reading.expected or 0, reading.frames)
    reading.ended = True
    if reading.problem:
        log.warning("%s is damaged: %s", path, reading.problem)


def probe(path: str | Path) -> VideoInfo:
    """Read a video's metadata; decodes its first frame.

    Raises:
        UserError: As in `read_video`.
    """
    with _open(Path(path)) as container:
        stream = _video_stream(container, Path(path))
        picture = next(_decode(container, stream, Path(path), Reading()), None)
        if picture is None:
            raise _no_frame(Path(path))
        turns = _turns(picture)
        width, height = (picture.height, picture.width) if turns % 2 else (picture.width, picture.height)
        seconds = _seconds(container, stream)
        return VideoInfo(
            width=width,
            height=height,
            fps=_rate(stream),
            frames=stream.frames or None,
            seconds=None if seconds is None else float(seconds),
            codec=stream.codec_context.name,
            rotation=turns * 90,
        )


def variable_timestamps(path: str | Path) -> list[Fraction] | None:
    """The timestamp of each frame of a variable-frame-rate (VFR) video, without decoding it.

    Args:
        path: Video file.

    Returns:
        Seconds after the first frame, ascending; None if the frame rate is constant or timestamps are missing.

    Raises:
        UserError: The file is missing or not a video.
    """
    with _open(Path(path)) as container:
        stream = _video_stream(container, Path(path))
        try:
            ticks = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
        except av.error.FFmpegError as error:
            log.warning("%s: damaged (%s); a constant frame rate is assumed", path, error)
            return None
        base = stream.time_base
    known = sorted(tick for tick in ticks if tick is not None)
    if base is None or len(known) < 3 or len(known) < len(ticks):
        return None
    steps = np.diff(known)
    # Containers with millisecond timestamps cannot represent 1/60 s exactly: ignore the rounding.
    if float(np.abs(steps - np.median(steps)).max()) <= max(0.2 * float(np.median(steps)), 1.0):
        return None
    return [(tick - known[0]) * base for tick in known]


def _open(path: Path) -> InputContainer:
    if not path.is_file():
        raise UserError(f"video file {path} not found; check the path")
    try:
        return av.open(str(path.absolute()))  # "a:b.mp4" alone would be an address
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(
            f"the video {path} cannot be read ({error.strerror or error}); check that it plays and is complete"
        ) from error


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    # Cover art of an audio file is also a video stream, of one image.
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise UserError(f"{path} has no video stream; give a video, or a folder of frames")
    if streams[0].codec_context is None:
        raise UserError(f"{path}: FFmpeg has no decoder for its video; convert it, for example to H.264")
    check_size(path, streams[0].codec_context.width, streams[0].codec_context.height)
    return streams[0]


class _Damaged(Exception):
    """The first sign of damage."""


def _pictures(path: Path, reading: Reading) -> Iterator[av.VideoFrame]:
    """Decode all frames that can be.

    Threads, each with a frame of its own, decode damaged frames differently every time and may lose some behind them:
    from the first damage on, one thread decodes. Frames before it may have been decoded from the damaged one, so they
    are held back until others have come.
    """
    count = 0
    for threads in (True, False):
        with _open(path) as container:
            stream = _video_stream(container, path)
            stream.thread_type = "AUTO" if threads else "NONE"
            held: deque[av.VideoFrame] = deque()
            try:
                for picture in itertools.islice(_decode(container, stream, path, reading, threads), count, None):
                    held.append(picture)
                    if len(held) > _HELD * threads:
                        count += 1
                        yield held.popleft()
                yield from held
                return
            except _Damaged:
                continue


def _decode(
    container: InputContainer, stream: VideoStream, path: Path, reading: Reading, strict: bool = False
) -> Iterator[av.VideoFrame]:
    """Decode all frames that can be, and note what is wrong.

    Raises:
        _Damaged: Something is, and ``strict`` is set.
        UserError: The file cannot be read on.
    """

    def damaged() -> None:
        if strict:
            raise _Damaged
        reading.damaged += 1

    packets, end, last = container.demux(stream), 0, False
    while not last:
        try:
            packet = next(packets, None)
            last = packet is None or (not packet.size and packet.dts is None)  # what remains in the decoder
            if packet is not None and packet.pts is not None:
                end = max(end, packet.pts + (packet.duration or 0))
            if packet is not None and packet.is_corrupt and strict:
                raise _Damaged
            pictures = stream.decode(packet)
        except av.error.InvalidDataError:
            damaged()
            continue
        except av.error.FFmpegError as error:
            raise UserError(f"reading the video {path} failed ({error.strerror or error}); check the file") from error
        for picture in pictures:
            if picture.is_corrupt:
                damaged()
            yield picture
    reading.expected = _expected(container, stream, end)


def _expected(container: InputContainer, stream: VideoStream, end: int) -> int | None:
    """Number of frames that the file says it has, if its packets end (in ticks) clearly before the time it says."""
    base, rate = stream.time_base or Fraction(0), _rate(stream)
    if stream.duration:
        missing = (stream.duration + (stream.start_time or 0) - end) * base
    else:  # Matroska says when the last frame ends
        stated = _end(stream) or (_seconds(container, stream) if len(container.streams) == 1 else None)
        missing = (stated or Fraction(0)) - end * base
    # Only in MP4 and MOV does each frame say how long it lasts.
    tolerance = Fraction(3, 2) / rate if "mp4" in container.format.name else Fraction(1, 2)
    return stream.frames or round((missing + end * base) * rate) if missing > tolerance else None


def _seconds(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Duration that the file states, of the video or else of everything in it."""
    if stream.duration and stream.time_base:
        return Fraction(stream.duration * stream.time_base)
    return Fraction(container.duration, av.time_base) if container.duration else None


def _end(stream: VideoStream) -> Fraction | None:
    """Second at which a video in Matroska ends, which it has as text."""
    texts = [text for name, text in stream.metadata.items() if name.startswith("DURATION")]
    found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", texts[0]) if texts else None
    if found is None:
        return None
    hours, minutes, seconds = map(Fraction, found.groups())
    return 3600 * hours + 60 * minutes + seconds


def _turns(picture: av.VideoFrame) -> int:
    """Counterclockwise quarter turns from the stored to the displayed frame."""
    return round(picture.rotation / 90) % 4


def _rate(stream: VideoStream) -> Fraction:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate <= 1000:
            return Fraction(rate)
    return _DEFAULT_RATE


def _no_frame(path: Path) -> UserError:
    return UserError(f"no frame of the video {path} can be decoded; check that it plays and is complete")

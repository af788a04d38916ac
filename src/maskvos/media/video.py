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
from maskvos.media.encode import Display, VideoWriter
from maskvos.media.images import check_size

__all__ = ["Reading", "VideoInfo", "VideoWriter", "probe", "read_video", "variable_timestamps"]

log = logging.getLogger(__name__)

# Encoders rarely let more frames than these refer to a later one.
_HELD = 8
DEFAULT_RATE = Fraction(25)
# Codes of ITU-T H.273 for the matrix.
_BT709, _UNKNOWN, _BT601, _BT2020 = 1, 2, 6, 9
_MATRICES = (_BT709, 5, _BT601, _BT2020)  # 5 is that of PAL, equal to BT.601


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
        display: Colours and proportions of the pixels, as displayed.
    """

    width: int
    height: int
    fps: Fraction
    frames: int | None
    seconds: float | None
    codec: str
    rotation: int
    display: Display


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
            rgb = to_rgb(picture, size)
        except (av.error.FFmpegError, ValueError) as error:
            if out_of_memory(error):
                raise
            raise UserError(f"the video {path} cannot be converted to RGB ({error}); convert it to H.264") from error
        reading.frames += 1
        yield rgb
    if size is None:
        raise _no_frame(path)
    reading.expected = max(reading.expected or 0, reading.frames)
    reading.ended = True
    if reading.problem:
        log.warning("%s is damaged: %s", path, reading.problem)


def to_rgb(picture: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
    """Convert a decoded frame as it is displayed.

    Args:
        picture: The frame.
        size: Width and height to which it is scaled before the display rotation, pixels; by default its own.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    width, height = size or (picture.width, picture.height)
    matrix = None if picture.colorspace != _UNKNOWN else _usual_matrix(picture)
    rgb = picture.to_ndarray(format="rgb24", width=width, height=height, src_colorspace=matrix)
    turns = _turns(picture)
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def probe(path: str | Path) -> VideoInfo:
    """Read a video's metadata; decodes its first frame.

    Raises:
        UserError: As in `read_video`.
    """
    with _open(Path(path)) as container:
        stream = video_stream(container, Path(path))
        picture = next(_decode(container, stream, Path(path), Reading()), None)
        if picture is None:
            raise _no_frame(Path(path))
        turns = _turns(picture)
        width, height = (picture.height, picture.width) if turns % 2 else (picture.width, picture.height)
        seconds = _seconds(container, stream)
        return VideoInfo(
            width=width,
            height=height,
            fps=frame_rate(stream),
            frames=stream.frames or None,
            seconds=None if seconds is None else float(seconds),
            codec=stream.codec_context.name,
            rotation=turns * 90,
            display=_display(stream, picture),
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
        stream = video_stream(container, Path(path))
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
        return av.open(str(path.absolute()), metadata_errors="replace")  # "a:b.mp4" alone would be an address
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(
            f"the video {path} cannot be read ({error.strerror or error}); check that it plays and is complete"
        ) from error


def video_stream(container: InputContainer, path: Path | str) -> VideoStream:
    """The first video of a file or stream; ``path`` is for messages.

    Raises:
        UserError: There is none, FFmpeg cannot decode it, or its frames are too large.
    """
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
            stream = video_stream(container, path)
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
    base, rate = stream.time_base or Fraction(0), frame_rate(stream)
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


def _usual_matrix(picture: av.VideoFrame) -> int:
    """What players take the matrix of a video for that does not state it: BT.709 in high definition, else BT.601."""
    return _BT709 if picture.height >= 720 or picture.width >= 1280 else _BT601


def _display(stream: VideoStream, picture: av.VideoFrame) -> Display:
    """Colours as the file states them, where they are stated and can be written, and BT.709 otherwise."""
    primaries, transfer = (
        _BT709 if code in (0, _UNKNOWN) else int(code) for code in (picture.color_primaries, picture.color_trc)
    )
    matrix = int(picture.colorspace) if picture.colorspace in _MATRICES else _BT709
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    return Display(primaries, transfer, matrix, 1 / aspect if _turns(picture) % 2 else aspect)


def _turns(picture: av.VideoFrame) -> int:
    """Counterclockwise quarter turns from the stored to the displayed frame."""
    return round(picture.rotation / 90) % 4


def frame_rate(stream: VideoStream) -> Fraction:
    """Frames per second that a stream states, else `DEFAULT_RATE`."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate <= 1000:
            return Fraction(rate)
    return DEFAULT_RATE


def _no_frame(path: Path) -> UserError:
    return UserError(f"no frame of the video {path} can be decoded; check that it plays and is complete")

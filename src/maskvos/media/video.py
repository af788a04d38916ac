"""Read and write video files frame by frame, with display rotation, variable frame rates and atomic writes.

Reads every format that PyAV's FFmpeg decodes; writes H.264 MP4 that plays in browsers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from maskvos.errors import UserError
from maskvos.media.files import cannot_write, ensure_writable

log = logging.getLogger(__name__)

_DEFAULT_RATE = Fraction(25)
# Timestamp ticks per second of a video with a variable frame rate.
_CLOCK = 90_000
_BT709 = 1  # FFmpeg's code in colorspace, color_primaries and color_trc
_LIMITED = 1  # FFmpeg's code for limited range: luma from 16 to 235


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


# -------------------------------------------------------------------- reading


def read_video(path: str | Path) -> Iterator[np.ndarray]:
    """Decode a video frame by frame, in constant memory.

    Damaged frames are skipped with a warning, and a truncated file is read up to the cut, as players do. All frames
    are scaled to the size of the first.

    Args:
        path: Video file.

    Yields:
        (H, W, 3) uint8 RGB, with the display rotation applied.

    Raises:
        UserError: The file is missing, not a video, or has no frame that can be decoded.
    """
    with _open(Path(path)) as container:
        stream = _video_stream(container, Path(path))
        size: tuple[int, int] | None = None
        for picture in _decode(container, stream, Path(path)):
            size = size or (picture.width, picture.height)
            rgb = picture.to_ndarray(format="rgb24", width=size[0], height=size[1])
            turns = _turns(picture)
            yield np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb
    if size is None:
        raise _no_frame(Path(path))


def probe(path: str | Path) -> VideoInfo:
    """Read a video's metadata; decodes its first frame.

    Raises:
        UserError: As in `read_video`.
    """
    with _open(Path(path)) as container:
        stream = _video_stream(container, Path(path))
        picture = next(_decode(container, stream, Path(path)), None)
        if picture is None:
            raise _no_frame(Path(path))
        turns = _turns(picture)
        width, height = (picture.height, picture.width) if turns % 2 else (picture.width, picture.height)
        seconds = None
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration:
            seconds = container.duration / av.time_base
        return VideoInfo(
            width=width,
            height=height,
            fps=_rate(stream),
            frames=stream.frames or None,
            seconds=seconds,
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
        return av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(
            f"the video {path} cannot be read ({error.strerror or error}); check that it plays and is complete"
        ) from error


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    # Cover art of an audio file is also a video stream, of one image.
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise UserError(f"{path} has no video stream; give a video, or a folder of frames")
    streams[0].thread_type = "AUTO"
    return streams[0]


def _decode(container: InputContainer, stream: VideoStream, path: Path) -> Iterator[av.VideoFrame]:
    """Decode all intact frames; log one warning if any are damaged."""
    packets = container.demux(stream)
    damaged = 0
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            pictures = packet.decode()
        except av.error.InvalidDataError as error:
            damaged += 1
            if damaged == 1:
                log.warning("%s: damaged (%s); frames that cannot be decoded are skipped", path, error.strerror)
            continue
        except av.error.FFmpegError as error:
            raise UserError(f"reading the video {path} failed ({error.strerror or error}); check the file") from error
        yield from pictures


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


# -------------------------------------------------------------------- writing


class VideoWriter:
    """Writes an H.264 video (yuv420p, BT.709, fast start) that plays in browsers.

    The file is written under a temporary name in the same folder and renamed on `close`, or on leaving the ``with``
    block without an error; otherwise it is removed. 4:2:0 needs even sides: an odd width or height is padded by
    repeating the last column or row.

    Args:
        path: Destination, ``.mp4``.
        fps: Frames per second.
        crf: Constant rate factor, 0 (lossless) to 51; 18 is visually close to lossless.

    Raises:
        UserError: The folder is not writable, or the frame rate is out of range.
    """

    def __init__(self, path: str | Path, fps: Fraction | float, crf: int = 18) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f".{self.path.stem}.partial{self.path.suffix}")
        self.fps = Fraction(fps).limit_denominator(100_000)
        if not 0 < self.fps <= 1000:
            raise UserError(f"{path}: {fps} frames per second; choose a rate above 0 and up to 1000")
        self.crf = crf
        self.count = 0
        self._size: tuple[int, ...] = ()
        self._last = -1
        self._tick = 1 / self.fps
        ensure_writable(self.path.parent)
        try:
            self._container = av.open(str(self.partial), "w", format="mp4", options={"movflags": "+faststart"})
        except (av.error.FFmpegError, OSError) as error:
            raise cannot_write(self.path, error) from error
        self._stream: VideoStream | None = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, rgb: np.ndarray, time: Fraction | None = None) -> None:
        """Append a frame.

        Args:
            rgb: (H, W, 3) uint8, the same size for all frames.
            time: Timestamp in seconds after the first frame, for a variable frame rate; for all frames or for none.

        Raises:
            UserError: Writing failed, for example because the disk is full.
            ValueError: The size differs from the first frame's.
        """
        if self._stream is None:
            self._start(rgb, time is not None)
        if rgb.shape != self._size:
            raise ValueError(f"{self.path}: a frame of shape {rgb.shape} after frames of {self._size}")
        # Damaged files repeat timestamps; the encoder needs increasing ones.
        pts = self.count if time is None else max(round(time / self._tick), self._last + 1)
        height, width = rgb.shape[:2]
        if height % 2 or width % 2:
            rgb = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="itu709")
        picture.pts, picture.time_base = pts, self._tick
        self._mux(picture)
        self._last = pts
        self.count += 1

    def close(self) -> None:
        """Finish the file and rename it to its final name; without frames, no file is written.

        Raises:
            UserError: Writing failed, for example because the disk is full.
        """
        if self._stream is None:
            self.abort()
            return
        self._mux(None)
        try:
            self._container.close()
            os.replace(self.partial, self.path)
        except (av.error.FFmpegError, OSError) as error:
            self.partial.unlink(missing_ok=True)
            raise cannot_write(self.path, error) from error

    def abort(self) -> None:
        """Discard the video and remove the temporary file."""
        try:
            self._container.close()
        except (av.error.FFmpegError, OSError) as error:
            log.debug("%s: closing the discarded file failed: %s", self.partial, error)
        self.partial.unlink(missing_ok=True)

    def _start(self, rgb: np.ndarray, timed: bool) -> None:
        self._size = rgb.shape
        self._tick = Fraction(1, _CLOCK) if timed else 1 / self.fps
        stream = self._container.add_stream("libx264", rate=self.fps)
        stream.height, stream.width = (side + side % 2 for side in rgb.shape[:2])
        stream.pix_fmt = "yuv420p"
        stream.time_base = self._tick
        stream.codec_context.time_base = self._tick
        stream.options = {"crf": str(self.crf), "preset": "superfast"}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        self._stream = stream

    def _mux(self, picture: av.VideoFrame | None) -> None:
        if self._stream is None:
            return
        try:
            self._container.mux(self._stream.encode(picture))
        except (av.error.FFmpegError, OSError) as error:
            self.abort()
            raise cannot_write(self.path, error) from error

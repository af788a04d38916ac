"""Images and movies, in and out: streaming, turned upright, and never half a file.

Whatever FFmpeg's libraries inside PyAV can read is read; what is written plays in browsers.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from maskvos.errors import UserError
from maskvos.media.files import cannot_write, read_image, write_bytes

__all__ = [
    "VideoInfo",
    "VideoWriter",
    "ensure_writable",
    "probe",
    "read_image",
    "read_video",
    "uneven_times",
    "write_bytes",
    "write_image",
]

log = logging.getLogger(__name__)

_DEFAULT_RATE = Fraction(25)
# Ticks per second of a movie whose frames do not come at equal intervals.
_CLOCK = 90_000
_BT709 = 1  # FFmpeg's number for it in colorspace, color_primaries and color_trc
_LIMITED = 1  # FFmpeg's number for luma from 16 to 235


@dataclass(frozen=True)
class VideoInfo:
    """What a movie says about itself.

    Attributes:
        width: Pixels, as the movie is shown (a portrait film of a phone is higher than wide).
        height: Pixels, likewise.
        fps: Frames per second; the average, where the rate varies.
        frames: Number of frames, where the file tells it.
        seconds: Duration, where the file tells it.
        codec: FFmpeg's name of the codec.
        rotation: Degrees, counterclockwise, by which stored frames are turned to be shown.
    """

    width: int
    height: int
    fps: Fraction
    frames: int | None
    seconds: float | None
    codec: str
    rotation: int


# -------------------------------------------------------------------- reading movies


def read_video(path: str | Path) -> Iterator[np.ndarray]:
    """Read a movie frame by frame; memory does not grow with its length.

    A frame that is damaged is left out with a warning, as players do; the frames of a file that was cut are read up
    to the cut. All frames have the first one's size.

    Args:
        path: The movie.

    Yields:
        (H, W, 3) uint8 RGB, upright.

    Raises:
        UserError: There is no such file, it is no movie, or not one frame of it can be decoded.
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
    """Look at a movie; decodes its first frame.

    Raises:
        UserError: As `read_video`.
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


def uneven_times(path: str | Path) -> list[Fraction] | None:
    """When each frame is shown, if frames do not come at equal intervals; reads the file without decoding it.

    Args:
        path: The movie.

    Returns:
        Seconds after the first frame, in order of time; None for a movie of constant rate, and where the file does
        not tell.

    Raises:
        UserError: There is no such file or it is no movie.
    """
    with _open(Path(path)) as container:
        stream = _video_stream(container, Path(path))
        try:
            ticks = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
        except av.error.FFmpegError as error:
            log.warning("%s: damaged (%s); its frames are taken to come at equal intervals", path, error)
            return None
        base = stream.time_base
    known = sorted(tick for tick in ticks if tick is not None)
    if base is None or len(known) < 3 or len(known) < len(ticks):
        return None
    steps = np.diff(known)
    # Files that count in milliseconds cannot say 1/60 s exactly: a slight unevenness is none.
    if float(np.abs(steps - np.median(steps)).max()) <= max(0.2 * float(np.median(steps)), 1.0):
        return None
    return [(tick - known[0]) * base for tick in known]


def _open(path: Path) -> InputContainer:
    if not path.is_file():
        raise UserError(f"no movie {path}; check the path")
    try:
        return av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(
            f"the movie {path} cannot be read ({error.strerror or error}); check that it plays and was copied whole"
        ) from error


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    # The cover of a piece of music is a video stream too, of one still picture.
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise UserError(f"{path} has no video in it; give a movie, or a folder of frames")
    streams[0].thread_type = "AUTO"
    return streams[0]


def _decode(container: InputContainer, stream: VideoStream, path: Path) -> Iterator[av.VideoFrame]:
    """Decode what can be decoded, and warn once of what cannot."""
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
                log.warning("%s: damaged (%s); what cannot be decoded is left out", path, error.strerror)
            continue
        except av.error.FFmpegError as error:
            raise UserError(f"reading the movie {path} failed ({error.strerror or error}); check the file") from error
        yield from pictures


def _turns(picture: av.VideoFrame) -> int:
    """Quarter turns, counterclockwise, that bring a frame upright."""
    return round(picture.rotation / 90) % 4


def _rate(stream: VideoStream) -> Fraction:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate <= 1000:
            return Fraction(rate)
    return _DEFAULT_RATE


def _no_frame(path: Path) -> UserError:
    return UserError(f"not one frame of the movie {path} can be decoded; check that it plays and was copied whole")


# -------------------------------------------------------------------- writing movies


class VideoWriter:
    """Writes an H.264 movie (yuv420p, BT.709, index at the front) that plays in browsers.

    The movie is written under another name beside its place and gets its own name when it is whole: on `close`, or on
    leaving the ``with`` block without an error; else nothing remains. H.264 in 4:2:0 has even sides only: a movie of
    odd width or height gets one more column or row, a copy of its last.

    Args:
        path: Where the movie goes; ``.mp4``.
        fps: Frames per second.
        crf: Quality, 0 (lossless) to 51; 18 is hard to tell from the original.

    Raises:
        UserError: The folder cannot be written to.
    """

    def __init__(self, path: str | Path, fps: Fraction | float, crf: int = 18) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f".{self.path.stem}.partial{self.path.suffix}")
        self.fps = Fraction(fps).limit_denominator(100_000)
        if not 0 < self.fps <= 1000:
            raise UserError(f"{path}: {fps} frames per second; take a rate above 0 and up to 1000")
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
            rgb: (H, W, 3) uint8, of the first frame's size.
            time: Seconds after the first frame at which it is shown, for a movie of uneven rate; give it for every
                frame or for none.

        Raises:
            UserError: The disk is full or fails.
            ValueError: A frame of another size.
        """
        if self._stream is None:
            self._start(rgb, time is not None)
        if rgb.shape != self._size:
            raise ValueError(f"{self.path}: a frame of shape {rgb.shape} after frames of {self._size}")
        # Broken films have two frames at one time; the second is shown as soon as can be after the first.
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
        """Finish the movie and give it its name; without a frame there is no movie.

        Raises:
            UserError: The disk is full or fails.
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
        """Give up: nothing remains of the movie."""
        try:
            self._container.close()
        except (av.error.FFmpegError, OSError) as error:
            log.debug("%s: closing what is thrown away failed: %s", self.partial, error)
        self.partial.unlink(missing_ok=True)

    def _start(self, rgb: np.ndarray, timed: bool) -> None:
        self._size = rgb.shape
        self._tick = Fraction(1, _CLOCK) if timed else 1 / self.fps
        stream = self._container.add_stream("libx264", rate=self.fps)
        stream.height, stream.width = (side + side % 2 for side in rgb.shape[:2])
        stream.pix_fmt = "yuv420p"
        stream.time_base = self._tick
        stream.codec_context.time_base = self._tick
        stream.options = {"crf": str(self.crf), "preset": "veryfast"}
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


# -------------------------------------------------------------------- images


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write an image, whole or not at all, in the format of its suffix.

    Args:
        path: Where to; missing folders are made.
        image: (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, uint8.

    Raises:
        UserError: The disk is full, or the place cannot be written to; files written before stay.
        ValueError: Another shape or type.
    """
    path = Path(path)
    channels = 1 if image.ndim == 2 else image.shape[-1]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ValueError(f"{path}: cannot write an image of shape {image.shape} and type {image.dtype}")
    orders = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    stored = cv2.cvtColor(image, orders[channels]) if channels in orders else image
    # Little compression of runs: it is the fastest, and masks are nothing but runs.
    how = [cv2.IMWRITE_PNG_COMPRESSION, 1] if path.suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 95]
    done, data = cv2.imencode(path.suffix, stored, how)
    if not done:
        raise ValueError(f"{path}: an image of shape {image.shape} cannot be stored as {path.suffix}")
    write_bytes(path, data.tobytes())


def ensure_writable(folder: Path) -> None:
    """Make a folder and try whether files can be made in it, before any work is done for it.

    Raises:
        UserError: It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write to the folder {folder} ({error.strerror}); choose another with output=<folder>, or change "
            "its permissions"
        ) from error

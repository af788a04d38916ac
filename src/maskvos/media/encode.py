"""Encode video files frame by frame: H.264 MP4 that plays in browsers, with atomic writes."""

from __future__ import annotations

import logging
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.stream import VideoStream

from maskvos.errors import UserError
from maskvos.media.files import cannot_write, create, ensure_writable, partial

log = logging.getLogger(__name__)

# Timestamp ticks per second of a video with a variable frame rate.
_CLOCK = 90_000
_BT709 = 1  # FFmpeg's code in colorspace, color_primaries and color_trc
_LIMITED = 1  # FFmpeg's code for limited range: luma from 16 to 235
# The number of threads and the processor's instructions choose among encodings; mbtree does so by their timing.
_REPEATABLE = {"threads": "4", "x264-params": "mbtree=0:cpu-independent=1"}


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
        self.partial = partial(self.path.absolute())
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
            create(self.partial)
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
        stream.options = {"crf": str(self.crf), "preset": "superfast", **_REPEATABLE}
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

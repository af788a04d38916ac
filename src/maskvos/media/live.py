"""Live sources: frames of a camera, network stream or pipe as they arrive; frames are dropped rather than delayed."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from array import array
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import TypeAlias

import av
import cv2
import numpy as np

from maskvos.errors import UserError
from maskvos.media.container import open_input
from maskvos.media.video import DEFAULT_RATE, Reading, frame_rate, to_rgb, video_stream

log = logging.getLogger(__name__)

# FFmpeg looks at 5 s of a stream before it begins, unless told otherwise; it ignores what a protocol does not have.
_OPTIONS = {"analyzeduration": "1000000", "rtsp_transport": "tcp"}
# Seconds without data after which a network stream has failed.
_TIMEOUT = 10.0

_Picture: TypeAlias = Callable[[], np.ndarray]
"""Converts a decoded frame to (H, W, 3) uint8 RGB; that is left to the reader's side, since many are dropped."""


class LiveSource:
    """Frames of a camera or stream as they arrive; those that arrive while the caller is busy are dropped.

    A thread reads and keeps the newest frame only, so what is yielded is never older than one frame, however slow the
    caller is. It can be iterated over once. A source that breaks off ends as if it had been stopped.

    Args:
        address: Number of a camera, from 0, or what FFmpeg opens: ``rtsp://...``, ``http://...``, ``pipe:0``, a file.
        drop: Drop frames; False: the source waits for the caller, as a recording on a server can.

    Attributes:
        address: As given.
        times: Seconds of each yielded frame after the first: when it arrived, or where none is dropped its timestamp.
        reading: How many frames were yielded, and whether the source has ended.
        rate: Frames per second that the source states; 25 if it states none.
        dropped: Number of frames dropped so far.

    Example:
        >>> with LiveSource(0) as camera:
        ...     for frame in model.stream(camera):
        ...         print(f"{camera.latency(frame.index):.3f} s")
    """

    def __init__(self, address: int | str, drop: bool = True) -> None:
        self.address = address
        self.drop = drop
        self.times = array("d")
        self.reading = Reading()
        self.rate = DEFAULT_RATE
        self.dropped = 0
        self._arrivals = array("d")
        self._newest: tuple[_Picture, float, float | None] | None = None
        self._change = threading.Condition()
        self._stopped = self._ended = False
        self._error: UserError | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the iteration after the frame that the caller has; may be called from a thread or a signal handler."""
        self._stopped = True

    def latency(self, index: int) -> float:
        """Seconds since a frame arrived, by its number."""
        return time.monotonic() - self._arrivals[index]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield (H, W, 3) uint8 RGB frames of one size.

        Raises:
            UserError: The source cannot be opened, or has no frame.
        """
        if self._thread is not None:
            raise RuntimeError(f"{self.address}: a live source can be read once")
        # A daemon, since reading from a pipe or a camera may block for ever.
        self._thread = threading.Thread(target=self._read, name="live", daemon=True)
        self._thread.start()
        size: tuple[int, int] | None = None
        begin = 0.0
        try:
            while (taken := self._take()) is not None:
                picture, arrived, stamp = taken
                image = picture()
                moment = arrived if self.drop or stamp is None else stamp
                if size is None:
                    size, begin = (image.shape[1], image.shape[0]), moment
                elif (image.shape[1], image.shape[0]) != size:
                    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                self._arrivals.append(arrived)
                self.times.append(moment - begin)
                self.reading.frames += 1
                yield image
        finally:
            self.stop()
        self.reading.ended = True
        if size is None:
            raise self._error or UserError(f"{self.address}: ended before its first frame")
        if self._error is not None:
            log.warning("%s; it is taken to have ended", self._error)

    def _take(self) -> tuple[_Picture, float, float | None] | None:
        """Wait for the newest frame; None at the end."""
        with self._change:
            # Woken now and then, since a signal handler only sets the flag.
            while self._newest is None and not self._ended and not self._stopped:
                self._change.wait(0.1)
            taken, self._newest = self._newest, None
            self._change.notify_all()
            return None if self._stopped else taken

    def _put(self, picture: _Picture, stamp: float | None) -> None:
        with self._change:
            while self._newest is not None and not self.drop and not self._stopped:
                self._change.wait(0.1)
            self.dropped += self._newest is not None
            self._newest = picture, time.monotonic(), stamp
            self._change.notify_all()

    def _read(self) -> None:
        pictures = _camera(self.address) if isinstance(self.address, int) else self._stream(self.address)
        try:
            with contextlib.closing(pictures):
                for picture, stamp in pictures:
                    if self._stopped:
                        break
                    self._put(picture, stamp)
        except UserError as error:
            self._error = error
        finally:
            with self._change:
                self._ended = True
                self._change.notify_all()

    def _stream(self, address: str) -> Generator[tuple[_Picture, float | None], None, None]:
        try:
            with open_input(address, options=_OPTIONS, timeout=_TIMEOUT) as container:
                stream = video_stream(container, address)
                # Threads with a frame each would delay every frame by their number.
                stream.thread_type = "SLICE"
                self.rate = frame_rate(stream)
                for packet in container.demux(stream):
                    try:
                        pictures = stream.decode(packet)
                    except av.error.InvalidDataError:
                        self.reading.damaged += 1
                        continue
                    for picture in pictures:
                        yield partial(to_rgb, picture), picture.time
        except (av.error.FFmpegError, OSError) as error:
            raise UserError(
                f"{address}: cannot be read ({error.strerror or error}); check the address, and that FFmpeg can play it"
            ) from error


def _camera(index: int) -> Generator[tuple[_Picture, float | None], None, None]:
    # Silent: OpenCV reports each driver that it tries. Its older versions have the function elsewhere.
    (cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)
    camera = cv2.VideoCapture(index)
    try:
        while True:
            found, bgr = camera.read()
            if not found:
                raise UserError(
                    f"camera {index}: no frame comes; check that it is connected, that no other program uses it, and "
                    "that this one may"
                )
            yield partial(cv2.cvtColor, bgr, cv2.COLOR_BGR2RGB), None
    finally:
        camera.release()

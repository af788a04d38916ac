"""Live sources: frames are dropped rather than delayed, and a source that breaks off has simply ended."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from maskvos.errors import UserError
from maskvos.media.live import LiveSource

RATE = 25


def grey(index: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), 20 + 4 * index, np.uint8)


def number(image: np.ndarray) -> int:
    """The index of a frame of `grey`, after a lossy codec."""
    return round((float(image.mean()) - 20) / 4)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """An MPEG transport stream of 40 frames, in as many pieces."""
    path = tmp_path_factory.mktemp("live") / "a.ts"
    options = {"preset": "ultrafast", "tune": "zerolatency", "g": "5"}
    with av.open(str(path), "w", options={"flush_packets": "1"}) as container:
        video = container.add_stream("libx264", rate=RATE, options=options)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        ends = []
        for index in range(40):
            picture = av.VideoFrame.from_ndarray(grey(index), format="rgb24")
            container.mux(video.encode(picture))
            ends.append(path.stat().st_size)
        container.mux(video.encode(None))
    data = path.read_bytes()
    return [data[first:last] for first, last in zip([0, *ends], [*ends, len(data)], strict=True)]


def paced(pieces: list[bytes], descriptor: int) -> threading.Thread:
    """Write pieces into a pipe at the rate of the frames."""

    def write() -> None:
        with os.fdopen(descriptor, "wb", buffering=0) as pipe:
            for piece in pieces:
                pipe.write(piece)
                time.sleep(1 / RATE)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_frames_are_dropped_rather_than_delayed(stream: list[bytes]) -> None:
    read, write = os.pipe()
    writer = paced(stream, write)
    source = LiveSource(f"pipe:{read}")
    seen, latencies = [], []
    for index, image in enumerate(source):
        seen.append(number(image))
        latencies.append(source.latency(index))
        time.sleep(4 / RATE)  # slower than the frames come
    writer.join()
    assert seen == sorted(set(seen))
    assert seen[-1] == 39
    assert len(seen) + source.dropped == 40
    assert source.dropped > 10
    # Had frames waited for their turn, the last would be five seconds old.
    assert max(latencies) < 1
    assert source.reading.frames == len(seen)
    assert source.reading.ended
    assert list(source.times) == sorted(source.times)


def test_without_dropping_the_source_waits(stream: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_bytes(b"".join(stream))
    source = LiveSource(str(tmp_path / "a.ts"), drop=False)
    seen = []
    for image in source:
        seen.append(number(image))
        time.sleep(0.001)
    assert seen == list(range(40))
    assert source.dropped == 0
    assert source.times == pytest.approx([index / RATE for index in range(40)])


class Camera:
    """What OpenCV gives for a camera: three frames, then nothing."""

    frames: Iterator[np.ndarray]

    def __init__(self, index: int) -> None:
        self.frames = iter([grey(1), grey(2, (24, 32)), grey(3)] if index == 0 else [])

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.05)
        image = next(self.frames, None)
        return image is not None, None if image is None else image + np.array([0, 0, 9], np.uint8)

    def release(self) -> None:
        pass


def test_a_camera(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    with caplog.at_level(logging.WARNING):
        images = list(LiveSource(0))
    assert [image.shape for image in images] == [(48, 64, 3)] * 3  # all of the size of the first
    np.testing.assert_array_equal(images[0][0, 0], [33, 24, 24])  # red, green, blue
    assert "camera 0: no frame comes" in caplog.text  # it was unplugged
    with pytest.raises(UserError, match="camera 1: no frame comes; check that it is connected"):
        list(LiveSource(1))


def test_it_ends_when_it_is_stopped(stream: list[bytes]) -> None:
    read, write = os.pipe()
    source = LiveSource(f"pipe:{read}")
    threading.Timer(0.3, source.stop).start()
    begin = time.monotonic()
    os.write(write, b"".join(stream[:5]))  # and no more: the pipe stays open
    with pytest.raises(UserError, match="ended before its first frame"):
        list(source)
    assert time.monotonic() - begin < 2
    os.close(write)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("rtsp://127.0.0.1:9/camera", "Connection refused"),
        ("http://127.0.0.1:9/camera", "Connection refused"),
        ("nonsense://camera", "Protocol not found"),
    ],
)
def test_an_address_that_cannot_be_opened(address: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"{address}: cannot be read \({message}\)"):
        list(LiveSource(address))

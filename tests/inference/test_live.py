"""Live prediction: a paced stream over HTTP, its results, its latency, and how it is ended."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest

import fakes
import rtsp
from brightness import Brightness, manifest, segmenter
from maskvos.data.sources import opened
from maskvos.errors import UserError
from maskvos.flow.dis import DIS
from maskvos.flow.store import FlowStore
from maskvos.inference.live import write_source
from maskvos.inference.segmenter import Segmenter
from maskvos.inference.writer import PredictionWriter

RATE, FRAMES = 25, 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serves a file in real time on loopback; ``/endless`` pauses for ever at its end."""
    path = tmp_path_factory.mktemp("live") / "a.ts"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "tune": "zerolatency"})
        video.height, video.width = fakes.SIZE
        video.pix_fmt = "yuv420p"
        for index in range(FRAMES):
            container.mux(video.encode(av.VideoFrame.from_ndarray(fakes.frame(index), format="rgb24")))
        container.mux(video.encode(None))
    data = path.read_bytes()

    class Paced(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            if self.path == "/nothing":
                return
            size = -(-len(data) // FRAMES)
            try:
                for start in range(0, len(data), size):
                    self.wfile.write(data[start : start + size])
                    time.sleep(1 / RATE)
                while self.path == "/endless":
                    self.wfile.write(b"\0" * 188)  # padding, as cameras send it
                    time.sleep(0.1)
            except OSError:
                pass  # the other side has gone

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Paced) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


class Slow(Brightness):
    """Takes as long as three frames do to come."""

    def __call__(self, rgb: np.ndarray, flow: np.ndarray, motion: np.ndarray | None = None) -> np.ndarray:
        time.sleep(3 / RATE)
        return super().__call__(rgb, flow, motion)


def record(address: str, output: Path, model: Segmenter, **options: object) -> PredictionWriter:
    writer = PredictionWriter(output, settings=model.settings, **options)  # type: ignore[arg-type]
    with opened(address) as source:
        write_source(model, source, writer, progress=False)
    return writer


def test_a_stream_is_segmented_as_it_comes(server: str, tmp_path: Path) -> None:
    model = Segmenter(Slow(), (32, 48), FlowStore(DIS()), fill_gaps=None)
    writer = record(f"{server}/camera.ts", tmp_path, model, kinds=["masks", "overlay"])
    [(name, frames)] = writer.finished
    assert re.fullmatch(r"camera_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", name)
    assert 2 <= frames < FRAMES
    made = manifest(tmp_path / name)
    assert made["complete"]
    assert "fill_gaps" not in made["settings"]
    assert made["source"] == f"{server}/camera.ts"
    assert len(list((tmp_path / name / "masks").glob("*.png"))) == frames
    # The overlay has the length of what was seen, though frames are missing.
    with av.open(str(tmp_path / name / "overlay.mp4")) as container:
        shown = [picture.time for picture in container.decode(video=0)]
    assert len(shown) == frames
    assert 0.15 < shown[-1] < 2
    found = re.search(r"median (\d+) ms, 95 % below (\d+) ms; (\d+) of (\d+) frames dropped", writer.summary())
    assert found is not None
    median, late, dropped, came = map(int, found.groups())
    assert 120 <= median <= late < 1500
    assert dropped == came - frames > 0


def test_an_rtsp_camera_is_segmented_until_it_hangs_up(tmp_path: Path) -> None:
    units = rtsp.encoded([fakes.frame(index) for index in range(FRAMES)], RATE)
    with rtsp.served(units, RATE) as address:
        writer = record(address, tmp_path, segmenter(), kinds=["masks"])
    [(name, frames)] = writer.finished
    assert name.startswith("camera_")
    made = manifest(tmp_path / name)
    assert (made["complete"], made["damaged"], made["source"]) == (True, 0, address)
    assert made["frames"] == frames == len(list((tmp_path / name / "masks").glob("*.png")))
    found = re.search(r"(\d+) of (\d+) frames dropped", writer.summary())
    assert found is not None
    assert int(found[2]) == FRAMES == int(found[1]) + frames


def test_ctrl_c_ends_a_recording_and_keeps_it(server: str, tmp_path: Path) -> None:
    def interrupt() -> None:
        while not list(tmp_path.glob("*/masks/00003.png")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    before = signal.getsignal(signal.SIGINT)
    writer = record(f"{server}/endless", tmp_path, segmenter(), kinds=["masks", "mask_movie"])
    [(name, frames)] = writer.finished
    assert frames >= 4
    assert manifest(tmp_path / name)["complete"]
    with av.open(str(tmp_path / name / "masks.mkv")) as container:
        assert sum(1 for _ in container.decode(video=0)) == frames
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("address", ["rtsp://127.0.0.1:9/none", "99", "{server}/nothing"])
def test_a_source_that_shows_nothing_leaves_nothing(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str, exists: bool
) -> None:
    address = address.format(server=server)
    output = tmp_path / "new" / "out"
    if exists:
        output.mkdir(parents=True)
    with pytest.raises(UserError, match=re.escape(address)):
        record(address, output, segmenter())
    assert "resume" not in capsys.readouterr().out
    assert [path.name for path in tmp_path.rglob("*")] == (["new", "out"] if exists else [])


def test_a_recording_that_fails_after_its_first_frame_is_kept(server: str, tmp_path: Path) -> None:
    model = segmenter()
    model.engine.fail_at = 3  # type: ignore[attr-defined]
    with pytest.raises(MemoryError):
        record(f"{server}/endless", tmp_path / "out", model, kinds=["masks"])
    [name] = [path.name for path in (tmp_path / "out").iterdir()]
    assert not manifest(tmp_path / "out" / name)["complete"]
    assert list((tmp_path / "out" / name / "masks").glob("*.png"))

"""task=predict: how it ends."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

import fakes
from maskvos.media.images import read_image
from maskvos.media.video import VideoWriter, read_video
from maskvos.run import compose, run


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, None)])
def test_a_signal_ends_it_soon_and_what_is_written_is_whole(tmp_path: Path, number: int, status: int | None) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25) as movie:
        for index in range(120):
            movie.write(fakes.frame(index, (120, 200)))
    out = tmp_path / "out" / "a"
    sent = []

    def send() -> None:
        while not (out / "masks" / "00003.png").exists():
            time.sleep(0.02)
        sent.append(time.monotonic())
        os.kill(os.getpid(), number)

    cfg = compose(["task=predict", f"input={tmp_path / 'a.mp4'}", f"output={tmp_path / 'out'}"], tmp_path)
    threading.Thread(target=send, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit if status else KeyboardInterrupt) as caught:
        run(cfg)
    assert getattr(caught.value, "code", None) == status
    assert time.monotonic() - sent[0] < 5
    assert signal.getsignal(signal.SIGTERM) is before
    masks = sorted((out / "masks").iterdir())
    assert 4 <= len(masks) < 120
    assert all(read_image(mask).shape == (120, 200, 3) for mask in masks)
    assert json.loads((out / "manifest.json").read_text())["complete"] is False
    assert sorted(path.name for path in out.iterdir()) == [".lock", "manifest.json", "masks"]
    if status:
        run(cfg)
        assert len(list((out / "masks").iterdir())) == len(list(read_video(out / "overlay.mp4"))) == 120

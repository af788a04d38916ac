"""task=predict on Ray: the results of one process, whatever becomes of a worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fakes
from maskvos.environment import cores, limit_cores
from maskvos.errors import UserError
from maskvos.media.video import VideoWriter
from maskvos.run import compose, run


def predict(root: Path, output: str, *settings: str) -> dict[str, float]:
    overrides = ["task=predict", f"input={root / 'clips'}", f"output={root / output}", "writer.kinds=[masks,coco]"]
    return run(compose([*overrides, "data.size=[64,96]", "trainer.enable_progress_bar=false", *settings], root))


def results(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "manifest.json")
    }


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for name, frames in {"a": 3, "b": 5, "c": 2, "d": 4}.items():
        (tmp_path / "clips").mkdir(exist_ok=True)
        with VideoWriter(tmp_path / "clips" / f"{name}.mp4", 25) as movie:
            for index in range(frames):
                movie.write(fakes.frame(index, (64, 96)))
    return tmp_path


def test_a_process_uses_at_most_the_cores_that_it_was_given() -> None:
    limit_cores(1)
    try:
        assert cores() == 1
    finally:
        limit_cores(None)


def test_without_the_package_it_says_what_to_install(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskvos.errors.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install ray"):
        predict(clips, "out", "ray.workers=2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray with two cores on this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray[data]'")
    ray.init(num_cpus=2, log_to_driver=False)
    yield
    ray.shutdown()


def kill_a_worker(folder: Path) -> None:
    """Kill a worker of Ray once results come."""
    while not any(folder.glob("*/manifest.json")):
        time.sleep(0.02)
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        if status.exists() and status.read_bytes().startswith(b"ray::MapWorker"):
            os.kill(int(status.parent.name), signal.SIGKILL)
            break


@pytest.mark.slow
@pytest.mark.parametrize("lose", [False, True])
@pytest.mark.usefixtures("cluster")
def test_workers_write_what_one_process_writes(clips: Path, lose: bool) -> None:
    (clips / "clips" / "bad.mp4").write_bytes(b"not a movie")
    with pytest.raises(UserError, match="1 of 5 videos could not be segmented"):
        predict(clips, "one")
    if lose:
        threading.Thread(target=kill_a_worker, args=(clips / "ray",), daemon=True).start()
    with pytest.raises(UserError, match="1 of 5 videos could not be segmented:\n  bad: "):
        predict(clips, "ray", "ray.workers=2")
    assert results(clips / "ray") == results(clips / "one")
    (clips / "clips" / "bad.mp4").unlink()
    assert predict(clips, "ray", "ray.workers=2")["predict/skipped"] == 4

"""What goes wrong while videos are segmented: nothing half-done is called done, and one bad video spares the others."""

from __future__ import annotations

import contextlib
import csv
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fakes
from brightness import Brightness, manifest, predict, segmenter
from maskvos.data.datasets.folder import folder
from maskvos.data.streams import FrameTimes
from maskvos.errors import UserError
from maskvos.flow.dis import DIS
from maskvos.flow.store import FlowStore
from maskvos.inference.segmenter import SegmentedFrame, Segmenter
from maskvos.inference.writer import PredictionWriter, write_predictions
from maskvos.media.files import locked
from maskvos.media.video import Reading, VideoWriter, read_video
from maskvos.types import Video


def movie(path: Path, frames: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, 25) as writer:
        for index in range(frames):
            writer.write(fakes.frame(index))
    return path


def _in_the_engine(model: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    model.engine.fail_at = 3  # type: ignore[attr-defined]


def _in_the_flow(model: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = DIS.estimate, []

    def estimate(self: DIS, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return real(self, first, second)

    monkeypatch.setattr(DIS, "estimate", estimate)


def _in_reading(model: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    from maskvos.data import streams

    def fail(path: Path) -> np.ndarray:
        if path.stem == "00005":
            raise MemoryError
        return real(path)

    real = streams.read_image
    monkeypatch.setattr(streams, "read_image", fail)


def _in_writing(model: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("maskvos.inference.outputs.movies.draw_overlay", fail)


@pytest.mark.parametrize("fail", [_in_the_engine, _in_the_flow, _in_reading, _in_writing])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_full_memory_is_not_taken_for_the_end(tmp_path: Path, monkeypatch, fail, workers: int) -> None:
    fakes.write_folder(tmp_path / "a", frames=8)
    model = segmenter(workers)
    fail(model, monkeypatch)
    with pytest.raises(UserError, match="video 'a': the memory is full"):
        predict(tmp_path / "a", tmp_path / "out", model)
    assert manifest(tmp_path / "out" / "a")["complete"] is False
    assert not list((tmp_path / "out" / "a").glob("*.mp4"))
    monkeypatch.undo()
    predict(tmp_path / "a", tmp_path / "out", segmenter(workers))
    assert manifest(tmp_path / "out" / "a")["complete"] is True
    assert len(list((tmp_path / "out" / "a" / "masks").iterdir())) == 8


class Losing(Segmenter):
    """Loses frames, and says nothing."""

    lost: tuple[int, ...] = ()

    def stream_video(self, video: Video, times: FrameTimes, reading: Reading | None = None) -> Iterator[SegmentedFrame]:
        for frame in super().stream_video(video, times, reading):
            if frame.index not in self.lost:
                yield frame


@pytest.mark.parametrize(("lost", "says"), [((3,), "frame 4 came instead of frame 3"), ((7,), "8 frames read, but 7")])
def test_a_lost_frame_is_noticed(tmp_path: Path, lost: tuple[int, ...], says: str) -> None:
    fakes.write_folder(tmp_path / "a", frames=8)
    model = Losing(Brightness(), (32, 48), FlowStore(DIS()))
    model.lost = lost
    with pytest.raises(RuntimeError, match=says):
        predict(tmp_path / "a", tmp_path / "out", model)
    assert manifest(tmp_path / "out" / "a")["complete"] is False


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_folders_are_complete_with_either_flow(tmp_path: Path, direction: str, frames: int) -> None:
    fakes.write_folder(tmp_path / "a", frames=frames)
    model = Segmenter(Brightness(), (32, 48), FlowStore(DIS(), direction=direction))
    predict(tmp_path / "a", tmp_path / "out", model)
    assert manifest(tmp_path / "out" / "a")["complete"] is True
    assert len(list((tmp_path / "out" / "a" / "masks").iterdir())) == frames


@pytest.mark.parametrize("exists", [False, True])
def test_a_bad_video_alone_leaves_nothing(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no movie")
    (tmp_path / "out").mkdir() if exists else None
    with pytest.raises(UserError, match=r"bad\.mp4"):
        predict(tmp_path / "bad.mp4", tmp_path / "out" / "deep")
    assert sorted(path.name for path in tmp_path.rglob("*")) == (["bad.mp4", "out"] if exists else ["bad.mp4"])


def test_a_video_that_has_become_bad_keeps_its_results(tmp_path: Path) -> None:
    fakes.write_folder(tmp_path / "a", frames=3)
    predict(tmp_path / "a", tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (tmp_path / "a" / "00000.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="00000"):
        predict(tmp_path / "a", tmp_path / "out", existing="overwrite")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_one_bad_video_of_several_does_not_end_the_run(tmp_path: Path) -> None:
    fakes.write_folder(tmp_path / "in" / "a")
    (tmp_path / "in" / "bad.mp4").write_bytes(b"no movie")
    movie(tmp_path / "in" / "c.mp4")
    fakes.write_folder(tmp_path / "in" / "d", frames=4)
    (tmp_path / "in" / "d" / "00002.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2 of 4 videos could not be segmented:\n  bad: .*bad\.mp4.*\n  d: .*00002"):
        predict(tmp_path / "in", tmp_path / "out", segmenter())
    assert [manifest(tmp_path / "out" / name)["complete"] for name in ("a", "bad", "c", "d")] == [1, 0, 1, 0]
    assert "bad.mp4" in manifest(tmp_path / "out" / "bad")["error"]
    assert not list(tmp_path.rglob("*.part"))
    # Repaired, they are segmented, though the input is another; the others are not touched.
    movie(tmp_path / "in" / "bad.mp4")
    fakes.write_folder(tmp_path / "in" / "d", frames=3)
    (tmp_path / "in" / "d" / "00003.jpg").unlink()
    writer = predict(tmp_path / "in", tmp_path / "out", segmenter())
    assert [name for name, _ in writer.finished] == ["bad", "d"]
    assert writer.skipped == 2
    assert len(list((tmp_path / "out" / "d" / "masks").iterdir())) == 3
    assert all(manifest(tmp_path / "out" / name)["complete"] for name in ("a", "bad", "c", "d"))


def test_the_first_bad_video_ends_the_run_if_asked(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_bytes(b"no movie")
    with pytest.raises(UserError, match=r"a\.mp4"):
        predict(tmp_path, tmp_path / "out", segmenter(), on_error="fail")
    assert not (tmp_path / "out" / "b").exists()
    with pytest.raises(UserError, match="did you mean 'skip'"):
        PredictionWriter(tmp_path / "out", on_error="skp")


def test_a_cut_movie_is_not_called_complete(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = movie(tmp_path / "cut.mp4", 60).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    predict(tmp_path / "cut.mp4", tmp_path / "out", segmenter())
    made = manifest(tmp_path / "out" / "cut")
    assert made["complete"] is False
    assert made["expected"] == 60
    assert 10 < made["frames"] < 60
    assert len(list((tmp_path / "out" / "cut" / "masks").iterdir())) == made["frames"]
    assert len(list(read_video(tmp_path / "out" / "cut" / "overlay.mp4"))) == made["frames"]
    (line,) = [record.message for record in caplog.records if "it ends after" in record.message]
    assert f"{made['frames']} of about 60 frames" in line
    # All that there is has been segmented.
    assert predict(tmp_path / "cut.mp4", tmp_path / "out", segmenter()).skipped == 1


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    movie(tmp_path / "in" / "a.mp4", 30)
    movie(tmp_path / "in" / "b.mp4", 4)
    inside, go_on = threading.Event(), threading.Event()

    class Slow(Brightness):
        def __call__(self, rgb: np.ndarray, flow: np.ndarray, motion: np.ndarray | None = None) -> np.ndarray:
            inside.set()
            go_on.wait(20)
            return super().__call__(rgb, flow, motion)

    def first() -> None:
        slow = Segmenter(Slow(), (32, 48), FlowStore(DIS()), batch_size=2)
        done.append(predict(tmp_path / "in", tmp_path / "out", slow))

    done: list[PredictionWriter] = []
    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(20)
    threading.Timer(1.0, go_on.set).start()
    second = predict(tmp_path / "in", tmp_path / "out", segmenter())
    thread.join(20)
    # The second has taken what was free, waited for the other, and found it complete.
    assert [name for name, _ in second.finished] == ["b"]
    assert second.skipped == 1
    assert [name for name, _ in done[0].finished] == ["a"]
    assert done[0].skipped == 1
    for name, count in {"a": 30, "b": 4}.items():
        assert manifest(tmp_path / "out" / name)["complete"] is True
        assert len(list(read_video(tmp_path / "out" / name / "overlay.mp4"))) == count


def test_what_a_dead_process_left_is_segmented_again(tmp_path: Path) -> None:
    movie(tmp_path / "a.mp4", 4)
    out = tmp_path / "out" / "a"
    with locked(out) as mine, locked(out, wait=False) as other:
        assert (mine, other) == (True, False)
    (out / "masks").mkdir()
    for left in (out / ".overlay.mp4.0.part", out / "masks" / ".00000.png.0.part"):
        left.write_bytes(b"half")
    predict(tmp_path / "a.mp4", tmp_path / "out", segmenter(), existing="overwrite")
    assert not list(out.rglob("*.part"))
    assert manifest(out)["complete"] is True


@pytest.mark.parametrize("name", ["../beside", "..", ".", "", "a/../../b", "/b"])
def test_nothing_is_written_outside_of_the_output(tmp_path: Path, name: str) -> None:
    fakes.write_folder(tmp_path / "a", frames=1)
    [video] = folder(tmp_path / "a")
    bad = Video(name, video.frames)
    writer = PredictionWriter(tmp_path / "out" / "deep")
    with pytest.raises(UserError, match=r"its name cannot be that of a folder"):
        write_predictions(segmenter(), [bad], writer, progress=False)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_dir()) == ["a"]


def test_a_run_leaves_a_table_of_all_videos(tmp_path: Path) -> None:
    fakes.write_folder(tmp_path / "in" / "b", frames=6)
    (tmp_path / "in" / "a.mp4").write_bytes(b"no movie")
    fakes.write_folder(tmp_path / "in" / "c", frames=2)
    videos = folder(tmp_path / "in")
    for mine in (videos[:2], videos[2:]):  # two processes
        writer = PredictionWriter(tmp_path / "out", frame_rate=12)
        with contextlib.suppress(UserError):
            write_predictions(segmenter(), mine, writer, progress=False, listed=videos)
    with (tmp_path / "out" / "videos.csv").open(newline="") as file:
        rows = {row["video"]: row for row in csv.DictReader(file)}
    assert next(iter(rows)) == "a"
    assert "a.mp4" in rows["a"]["problem"]
    assert (rows["b"]["frames"], rows["b"]["seconds"]) == ("6", "0.5")
    assert 0 < float(rows["b"]["foreground"]) < 1
    assert 0 <= float(rows["b"]["confidence"]) <= 1
    assert manifest(tmp_path / "out" / "b")["confidence"] == float(rows["b"]["confidence"])


@pytest.mark.parametrize(
    "name",
    ["ñ.mp4", "clip (1).mp4", "it's.mp4", "a&b.mp4", "a,b.mp4", "2024", "a:b.mp4", "%03d.mp4", "#?.mp4", "...mp4"],
)
def test_videos_of_any_name_are_segmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    movie(tmp_path / "in" / "a.mp4", 3).rename(tmp_path / "in" / name)
    monkeypatch.chdir(tmp_path / "in")
    predict(Path(name), Path("../out"), segmenter(), kinds=["masks", "overlay", "webm", "coco"])
    [place] = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert place.name in (name, name.removesuffix(".mp4"))
    assert len(list((place / "masks").iterdir())) == len(list(read_video(place / "overlay.mp4"))) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == [name]


def test_no_thread_is_left_of_videos_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        fakes.write_folder(tmp_path / "in" / name, frames=8)
    before = threading.active_count()
    _in_writing(segmenter(), monkeypatch)
    with pytest.raises(UserError, match="2 of 2 videos could not be segmented:\n  a: video 'a': the memory is full"):
        predict(tmp_path / "in", tmp_path / "out", segmenter(3))
    assert threading.active_count() == before

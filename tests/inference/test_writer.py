"""Predictions on disk: the right files, whole or not at all, resumed or refused."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from maskvos.data.streams import FrameTimes, read_frames
from maskvos.errors import UserError
from maskvos.flow.colours import flow_to_rgb
from maskvos.inference.outputs.movies import draw_flow
from maskvos.inference.segmenter import SegmentedFrame
from maskvos.inference.writer import PredictionWriter, write_predictions
from maskvos.media.files import create
from maskvos.media.images import write_image
from maskvos.media.video import Reading, VideoWriter, probe, read_video, variable_timestamps
from maskvos.types import Frame, Video

SIZE = (36, 52)
# To the right, on a grid of other proportions than the frame's.
FLOW = np.broadcast_to(np.array([2.0, 0.0], np.float32), (16, 16, 2))


class Bright:
    """Stands in for a `Segmenter`: what is bright is the object; ``weight`` makes two of them differ."""

    def __init__(self, weight: float = 0.0, stop_at: int | None = None, error: type[BaseException] = KeyboardInterrupt):
        self.settings = {"weights": str(weight)}
        self.stop_at, self.error, self.seen = stop_at, error, 0
        self.read: list[str] = []

    def probability(self, frame: np.ndarray) -> np.ndarray:
        return frame.mean(axis=-1).astype(np.float32) / 255

    def stream_video(self, video: Video, times: FrameTimes, reading: Reading) -> Iterator[SegmentedFrame]:
        self.read.append(video.name)
        for index, frame in enumerate(read_frames(video, reading)):
            self.seen += 1
            if self.stop_at is not None and self.seen > self.stop_at:
                raise self.error
            name = video.frames[index].name if video.frames else f"{index:05d}"
            probability = self.probability(frame)
            time = float(times.at(index))
            logits = np.log(probability.clip(1e-6, 1 - 1e-6) / (1 - probability.clip(1e-6, 1 - 1e-6)))
            yield SegmentedFrame(frame, logits, probability > 0.5, index, time, name, FLOW)


def image(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    rgb = np.full((*size, 3), 40, np.uint8)
    rgb[8:20, 5 + index : 25 + index] = (240, 230, 220)
    return rgb


def frames_video(root: Path, name: str, count: int = 4) -> Video:
    frames = []
    for index in range(count):
        path = root / name / f"shot_{index}.png"
        write_image(path, image(index))
        frames.append(Frame(f"shot_{index}", path))
    return Video(name, tuple(frames))


def movie(root: Path, name: str, count: int = 6, fps: Fraction = Fraction(30000, 1001), times: Any = None) -> Video:
    root.mkdir(exist_ok=True)
    with VideoWriter(root / f"{name}.mp4", fps) as writer:
        for index in range(count):
            writer.write(image(index), times[index] if times else None)
    return Video(name, file=root / f"{name}.mp4")


def predict(output: Path, videos: list[Video], model: Bright | None = None, **options: Any) -> PredictionWriter:
    """Write predictions; ``settings`` add to those of the model."""
    model = model or Bright()
    settings = {**model.settings, **options.pop("settings", {})}
    writer = PredictionWriter(output, settings=settings, **options)
    write_predictions(model, videos, writer, progress=False)  # type: ignore[arg-type]
    return writer


def names_read(output: Path, videos: list[Video], **options: Any) -> list[str]:
    """Videos that a repeated run segments."""
    model = Bright()
    predict(output, videos, model, **options)
    return model.read


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_all_kinds_of_a_folder_of_frames(tmp_path: Path) -> None:
    video = frames_video(tmp_path, "walk")
    writer = predict(tmp_path / "out", [video], kinds=["masks", "soft", "overlay", "cutout"], frame_rate=12)
    folder = tmp_path / "out" / "walk"
    assert sorted(os.listdir(folder)) == [".lock", "cutout", "manifest.json", "masks", "overlay.mp4", "soft"]
    for kind in ("masks", "soft", "cutout"):
        assert sorted(os.listdir(folder / kind)) == [f"shot_{index}.png" for index in range(4)]
    for index in range(4):
        rgb = image(index)
        bright = rgb[..., 0] > 128
        mask = cv2.imread(str(folder / "masks" / f"shot_{index}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, bright * np.uint8(255))
        soft = cv2.imread(str(folder / "soft" / f"shot_{index}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(soft, np.where(bright, 230, 40))
        cut = cv2.imread(str(folder / "cutout" / f"shot_{index}.png"), cv2.IMREAD_UNCHANGED)
        assert cut.shape == (*SIZE, 4)
        np.testing.assert_array_equal(cut[bright], np.broadcast_to((220, 230, 240, 255), cut[bright].shape))
        assert not cut[~bright].any()
    drawn = list(read_video(folder / "overlay.mp4"))
    assert len(drawn) == 4
    assert drawn[0].shape == (*SIZE, 3)
    assert probe(folder / "overlay.mp4").fps == 12
    # Red over white inside, untouched far outside.
    assert drawn[0][14, 15, 0] > drawn[0][14, 15, 1] + 40
    assert np.abs(drawn[0][32, 45].astype(int) - 40).max() < 12
    printed = writer.summary()
    assert "segmented 1 video, 4 frames" in printed
    assert "frames/s" in printed
    assert str(folder) in printed
    metrics = writer.metrics()
    assert metrics["predict/frames"] == 4
    assert metrics["predict/videos"] == 1
    assert metrics["predict/frames_per_second"] > 0


def test_side_by_side_shows_frame_flow_and_mask_at_the_movies_rate(tmp_path: Path) -> None:
    video = movie(tmp_path / "in", "clip")
    predict(tmp_path / "out", [video], kinds=["side_by_side", "masks"])
    path = tmp_path / "out" / "clip" / "side_by_side.mp4"
    assert sorted(os.listdir(path.parent)) == [".lock", "manifest.json", "masks", "side_by_side.mp4"]
    assert probe(path).fps == Fraction(30000, 1001)
    rows = list(read_video(path))
    assert len(rows) == 6
    height, width = SIZE
    assert rows[0].shape == (height, 3 * width + 8, 3)
    for index, row in enumerate(rows):
        frame, flow, mask = (row[:, place : place + width].astype(int) for place in (0, width + 4, 2 * width + 8))
        assert np.abs(frame - image(index))[2:-2, 2:-2].mean() < 8
        assert np.abs(flow - flow_to_rgb(np.full((1, 1, 2), (2.0, 0.0), np.float32)))[4:-4, 4:-4].max() < 12
        assert np.abs(mask[..., 0] - 255 * (image(index)[..., 0] > 128)).mean() < 6
    assert names_read(tmp_path / "out", [video], kinds=["side_by_side", "masks"]) == []
    path.unlink()
    assert names_read(tmp_path / "out", [video], kinds=["side_by_side", "masks"]) == ["clip"]


def test_flow_is_drawn_in_the_directions_that_it_has_on_the_frame() -> None:
    # One pixel right and one down on a grid that is half as wide as the frame: two right and one down on the frame.
    drawn = draw_flow(np.ones((10, 10, 2), np.float32), (10, 20))
    assert drawn.shape == (10, 20, 3)
    np.testing.assert_array_equal(drawn[5, 5], flow_to_rgb(np.full((1, 1, 2), (2.0, 1.0), np.float32))[0, 0])


def atoms(path: Path) -> list[str]:
    """The names of an mp4 file's outermost parts, in order."""
    data, place, names = path.read_bytes(), 0, []
    while place < len(data):
        names.append(data[place + 4 : place + 8].decode())
        place += int.from_bytes(data[place : place + 4], "big")
    return names


def test_movies_are_made_for_browsers(tmp_path: Path) -> None:
    predict(tmp_path / "out", [frames_video(tmp_path, "a")], kinds=["overlay", "side_by_side"])
    for name in ("overlay.mp4", "side_by_side.mp4"):
        path = tmp_path / "out" / "a" / name
        names = atoms(path)
        assert names.index("moov") < names.index("mdat")  # plays while it is loaded
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")


def test_the_overlay_keeps_a_movies_rate_and_size(tmp_path: Path) -> None:
    video = movie(tmp_path / "in", "clip")
    predict(tmp_path / "out", [video])
    info = probe(tmp_path / "out" / "clip" / "overlay.mp4")
    assert info.fps == Fraction(30000, 1001)
    assert (info.height, info.width) == SIZE
    assert sorted(os.listdir(tmp_path / "out" / "clip" / "masks")) == [f"{index:05d}.png" for index in range(6)]


def test_the_overlay_keeps_variable_timestamps(tmp_path: Path) -> None:
    times = [Fraction(t, 1000) for t in (0, 40, 80, 300, 340, 700)]
    video = movie(tmp_path / "in", "clip", times=times)
    predict(tmp_path / "out", [video], kinds=["overlay"])
    written = variable_timestamps(tmp_path / "out" / "clip" / "overlay.mp4")
    assert written is not None
    np.testing.assert_allclose([float(t) for t in written], [float(t) for t in times], atol=1e-3)


def test_several_videos_are_not_mixed(tmp_path: Path) -> None:
    videos = [frames_video(tmp_path, "a", 4), movie(tmp_path, "b", 5), frames_video(tmp_path, "c", 1)]
    writer = predict(tmp_path / "out", videos)
    assert writer.metrics()["predict/videos"] == 3
    counts = {v.name: len(os.listdir(tmp_path / "out" / v.name / "masks")) for v in videos}
    assert counts == {"a": 4, "b": 5, "c": 1}
    for video in videos:
        manifest = json.loads((tmp_path / "out" / video.name / "manifest.json").read_text())
        assert manifest["complete"]
        assert manifest["frames"] == counts[video.name]
        assert manifest["size"] == list(SIZE)


def test_complete_videos_are_skipped_without_being_read(tmp_path: Path) -> None:
    videos = [frames_video(tmp_path, "a"), frames_video(tmp_path, "b")]
    predict(tmp_path / "out", videos[:1])
    before = everything(tmp_path / "out" / "a")
    model = Bright()
    again = predict(tmp_path / "out", videos, model)
    assert model.read == ["b"]
    assert again.metrics()["predict/skipped"] == 1
    assert "skipped 1" in again.summary()
    assert everything(tmp_path / "out" / "a") == before
    assert names_read(tmp_path / "out", videos) == []


def test_a_video_with_a_missing_file_is_segmented_again(tmp_path: Path) -> None:
    videos = [frames_video(tmp_path, "a")]
    predict(tmp_path / "out", videos)
    (tmp_path / "out" / "a" / "masks" / "shot_2.png").unlink()
    assert names_read(tmp_path / "out", videos) == ["a"]
    assert len(os.listdir(tmp_path / "out" / "a" / "masks")) == 4
    (tmp_path / "out" / "a" / "overlay.mp4").unlink()
    assert names_read(tmp_path / "out", videos) == ["a"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_complete_files_and_resumes(
    tmp_path: Path, error: type[BaseException], capsys: pytest.CaptureFixture
) -> None:
    videos = [frames_video(tmp_path, "a"), frames_video(tmp_path, "b", 8)]
    with pytest.raises(error):
        predict(tmp_path / "out", videos, Bright(stop_at=9, error=error))
    assert "stopped in 'b'; 1 videos of this run are complete" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "out" / "a")) == [".lock", "manifest.json", "masks", "overlay.mp4"]
    assert sorted(os.listdir(tmp_path / "out" / "b")) == [".lock", "manifest.json", "masks"]
    left = sorted(os.listdir(tmp_path / "out" / "b" / "masks"))
    assert left == [f"shot_{index}.png" for index in range(5)]
    for name in left:
        assert cv2.imread(str(tmp_path / "out" / "b" / "masks" / name), cv2.IMREAD_UNCHANGED).shape == SIZE
    assert names_read(tmp_path / "out", videos) == ["b"]
    predict(tmp_path / "fresh", videos)
    assert everything(tmp_path / "out") == everything(tmp_path / "fresh")


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    video = frames_video(tmp_path, "a")
    with pytest.raises(RuntimeError):
        predict(tmp_path / "out", [video], Bright(stop_at=3, error=RuntimeError))
    (tmp_path / "out" / "a" / "masks" / ".shot_0.png.123.part").write_bytes(b"half")
    (tmp_path / "out" / "a" / ".overlay.mp4.123.part").write_bytes(b"half")
    (tmp_path / "out" / "a" / ".overlay.partial.mp4").write_bytes(b"half")
    predict(tmp_path / "out", [video])
    assert {path.name for path in (tmp_path / "out").rglob(".*")} == {".lock"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"outline": 3}, "with outline=2, which is 3 now"),
        ({"kinds": ["masks"]}, "with kinds="),
        ({"settings": {"flow": {"gap": 2}}}, "with flow.gap=None, which is 2 now"),
        ({"model": 1.0}, "with weights="),
        ({"count": 5}, "with input="),
    ],
)
@pytest.mark.parametrize("broken_off", [False, True])
def test_results_of_other_settings_are_not_mixed(tmp_path: Path, change: dict, named: str, broken_off: bool) -> None:
    video = frames_video(tmp_path, "a")
    if broken_off:
        with pytest.raises(RuntimeError):
            predict(tmp_path / "out", [video], Bright(stop_at=3, error=RuntimeError))
    else:
        predict(tmp_path / "out", [video])
    before = everything(tmp_path / "out")
    change = dict(change)
    weight = change.pop("model", 0.0)
    video = frames_video(tmp_path / "other", "a", change.pop("count", 0)) if "count" in change else video
    with pytest.raises(UserError, match=named + r".*existing=overwrite"):
        predict(tmp_path / "out", [video], Bright(weight), **change)
    assert everything(tmp_path / "out") == before
    predict(tmp_path / "out", [video], Bright(weight), existing="overwrite", **change)
    model = Bright(weight)
    predict(tmp_path / "out", [video], model, **change)
    assert model.read == []


def test_overwriting_removes_all_old_results_and_nothing_else(tmp_path: Path) -> None:
    predict(tmp_path / "out", [frames_video(tmp_path, "a", 6)], kinds=["masks", "soft"])
    (tmp_path / "out" / "a" / "notes.txt").write_text("mine")
    video = frames_video(tmp_path / "shorter", "a", 3)
    predict(tmp_path / "out", [video], kinds=["masks"], existing="overwrite")
    assert len(os.listdir(tmp_path / "out" / "a" / "masks")) == 3
    assert list((tmp_path / "out" / "a" / "soft").iterdir()) == []
    assert (tmp_path / "out" / "a" / "notes.txt").read_text() == "mine"


def test_a_folder_in_place_of_an_old_result_is_named(tmp_path: Path) -> None:
    video = frames_video(tmp_path, "a", 2)
    (tmp_path / "out" / "a" / "masks" / "00001.png").mkdir(parents=True)
    with pytest.raises(UserError, match=r"00001\.png could not be written \(Is a directory\)"):
        predict(tmp_path / "out", [video], existing="overwrite")


def test_existing_results_are_refused_with_existing_error(tmp_path: Path) -> None:
    video = frames_video(tmp_path, "a")
    predict(tmp_path / "out", [video], existing="error")
    with pytest.raises(UserError, match=r"results in .*a already"):
        predict(tmp_path / "out", [video], existing="error")


def test_files_of_unknown_origin_are_not_taken_for_results(tmp_path: Path) -> None:
    (tmp_path / "out" / "a" / "masks").mkdir(parents=True)
    with pytest.raises(UserError, match=r"without a manifest\.json"):
        predict(tmp_path / "out", [frames_video(tmp_path, "a")])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"a": 1}', '{"settings": "a", "input": {}, "frames": 1, "complete": true}']
)
def test_a_corrupt_manifest_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json"):
        predict(tmp_path / "out", [frames_video(tmp_path, "a")])


def test_a_full_disk_leaves_complete_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = frames_video(tmp_path, "a", 8)
    count = []

    def full(path: Path, data: bytes) -> None:
        count.append(path)
        if len(count) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        create(path, data)

    monkeypatch.setattr("maskvos.media.files.create", full)
    with pytest.raises(UserError, match="disk is full"):
        predict(tmp_path / "out", [video])
    assert sorted(os.listdir(tmp_path / "out" / "a")) == [".lock", "manifest.json", "masks"]
    # The manifest and three masks came before the full disk, and nothing after it, though frames were waiting.
    assert len(os.listdir(tmp_path / "out" / "a" / "masks")) == 3
    assert not json.loads((tmp_path / "out" / "a" / "manifest.json").read_text())["complete"]
    monkeypatch.undo()
    predict(tmp_path / "out", [video])
    assert len(os.listdir(tmp_path / "out" / "a" / "masks")) == 8


def test_errors_of_the_last_file_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: VideoWriter) -> None:
        raise UserError("the movie could not be closed")

    monkeypatch.setattr(VideoWriter, "close", fail)
    with pytest.raises(UserError, match="could not be closed"):
        predict(tmp_path / "out", [frames_video(tmp_path, "a")])
    assert not json.loads((tmp_path / "out" / "a" / "manifest.json").read_text())["complete"]
    assert not list((tmp_path / "out" / "a").glob("*.mp4"))
    assert [path.name for path in (tmp_path / "out" / "a").glob(".*")] == [".lock"]


def test_an_output_that_cannot_be_written_stops_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = Bright()
    with pytest.raises(UserError, match="output=<folder>"):
        predict(tmp_path / "file", [frames_video(tmp_path, "a")], model)
    assert model.seen == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": None}, "output=<folder>"),
        ({"kinds": ["mask"]}, "did you mean 'masks'"),
        ({"kinds": []}, r"kinds=\[\]"),
        ({"existing": "overwite"}, "did you mean 'overwrite'"),
        ({"opacity": -1}, "opacity=-1"),
        ({"colour": (1, 2)}, "red, green, blue"),
        ({"outline_colour": (0, 0, 256)}, "outline_colour="),
        ({"frame_rate": 0}, "frame_rate=0"),
        ({"outline": -1}, "outline=-1"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PredictionWriter(**{"output": tmp_path, **change})


def resident() -> int:
    """Bytes of memory that this process holds, in C libraries too."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here to read the memory in use from")
@pytest.mark.slow
def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    with VideoWriter(tmp_path / "long.mp4", 25) as movie_writer:
        for _ in range(2000):
            movie_writer.write(frame)
    levels: dict[int, int] = {}

    class Watched(Bright):
        def probability(self, frame: np.ndarray) -> np.ndarray:
            if self.seen in (300, 1980):
                levels[self.seen] = resident()
            return super().probability(frame)

    predict(tmp_path / "out", [Video("long", file=tmp_path / "long.mp4")], Watched())
    assert len(os.listdir(tmp_path / "out" / "long" / "masks")) == 2000
    # 1,680 frames of 41 kB are 70 MB.
    assert levels[1980] - levels[300] < 20_000_000

"""Videos as streams of frames: order, names, times, flow, and constant memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import fakes
from maskvos.data.datasets.folder import folder
from maskvos.data.streams import FrameStream, FrameTimes, StreamFrame, single_video, times_of
from maskvos.errors import UserError
from maskvos.flow.dis import DIS
from maskvos.flow.store import FlowStore
from maskvos.media.video import VideoWriter
from maskvos.types import Video

TIMES = FrameTimes(Fraction(25))


@pytest.fixture
def flow() -> FlowStore:
    return FlowStore(DIS())


def stream(flow: FlowStore, video: Video, **options: object) -> list[StreamFrame]:
    return list(FrameStream(flow, **options).of_video(video, TIMES))  # type: ignore[arg-type]


def test_every_frame_comes_in_order_with_its_name_time_and_flow(tmp_path: Path, flow: FlowStore) -> None:
    fakes.write_folder(tmp_path / "a", frames=4)
    [video] = folder(tmp_path / "a")
    frames = stream(flow, video)
    assert [(frame.name, frame.index) for frame in frames] == [(f"{i:05d}", i) for i in range(4)]
    assert [frame.time for frame in frames] == [0, 0.04, 0.08, 0.12]
    for index, frame in enumerate(frames):
        assert frame.image.shape == (*fakes.SIZE, 3)
        np.testing.assert_array_equal(frame.flow(), flow.load(video, index))  # as the store gives it by index


@pytest.mark.parametrize(("direction", "gap", "sign"), [("backward", 1, -1), ("backward", 2, -1), ("forward", 2, 1)])
def test_tta_flow_points_as_the_flow_does(tmp_path: Path, flow: FlowStore, direction: str, gap: int, sign: int) -> None:
    fakes.write_folder(tmp_path / "a", frames=4)
    [video] = folder(tmp_path / "a")
    other = flow.joining(direction, gap)
    for index, sample in enumerate(stream(flow, video, tta_flow=other)):
        assert sample.tta_flow is not None
        np.testing.assert_array_equal(sample.tta_flow(), sign * other.load(video, index))
        np.testing.assert_array_equal(sample.flow(), flow.load(video, index))


def test_a_still_image_has_zero_flow(tmp_path: Path, flow: FlowStore) -> None:
    fakes.write_frame(tmp_path / "one.png", 0)
    [sample] = stream(flow, *folder(tmp_path / "one.png"), tta_flow=flow.joining("backward"))
    assert sample.tta_flow is not None
    assert not sample.flow().any()
    assert not sample.tta_flow().any()
    assert sample.name == "one"


@pytest.mark.parametrize("count", [1, 2])
def test_motion_as_option_shows_the_image_of_a_movie_of_one_frame(
    flow: FlowStore, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr("maskvos.data.streams.read_video", lambda path, reading: map(fakes.frame, range(count)))
    samples = stream(flow, Video("film", file=Path("film.mp4")), motion_as_option=0.0)
    assert [sample.still for sample in samples] == [count == 1] * count


def test_frames_of_several_sizes_are_refused(tmp_path: Path, flow: FlowStore) -> None:
    fakes.write_folder(tmp_path / "a", frames=2)
    fakes.write_frame(tmp_path / "a" / "00002.jpg", 2, (20, 30))
    with pytest.raises(UserError, match=r"00002.jpg is 30x20 and 00000.jpg 80x48"):
        stream(flow, *folder(tmp_path / "a"))


def test_few_frames_of_a_movie_are_held_at_a_time(flow: FlowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[weakref.ref] = []
    alive: list[int] = []

    def movie(path: Path, reading: object) -> Iterator[np.ndarray]:
        for index in range(60):
            frame = fakes.frame(index)
            read.append(weakref.ref(frame))
            alive.append(sum(ref() is not None for ref in read))
            yield frame

    monkeypatch.setattr("maskvos.data.streams.read_video", movie)
    names = []
    samples = FrameStream(flow, tta_flow=flow.joining("backward", 2))
    for sample in samples.of_video(Video("film", file=Path("film.mp4")), TIMES):
        names.append(sample.name)
        del sample
    assert names == [f"{i:05d}" for i in range(60)]
    assert 1 < max(alive) < 12


def test_a_movie_without_frames_is_named(flow: FlowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskvos.data.streams.read_video", lambda path, reading: iter(()))
    with pytest.raises(UserError, match=r"film.mp4 has no frame"):
        stream(flow, Video("film", file=Path("film.mp4")))


@pytest.mark.parametrize(("direction", "latency"), [("forward", 1), ("backward", 0)])
def test_arrays_are_taken_no_earlier_than_needed(direction: str, latency: int) -> None:
    taken = []

    def camera() -> Iterator[np.ndarray]:
        for index in range(5):
            taken.append(index)
            yield fakes.frame(index)

    samples = FrameStream(FlowStore(DIS(), direction=direction)).of_arrays(camera())
    ahead = [len(taken) - 1 - index for index, _ in enumerate(samples)]
    # The first frame has no earlier one, so its backward flow is taken from the next.
    assert ahead[1:-1] == [latency] * 3
    assert len(ahead) == 5


@pytest.mark.parametrize("frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), [[0]]])
def test_arrays_of_another_kind_are_refused(flow: FlowStore, frame: object) -> None:
    with pytest.raises(UserError, match=r"expected a uint8 array \(H, W, 3\)"):
        list(FrameStream(flow).of_arrays([frame]))  # type: ignore[list-item]


def test_an_impossible_frame_rate_is_refused(flow: FlowStore) -> None:
    with pytest.raises(UserError, match="frame_rate=0"):
        list(FrameStream(flow).of_arrays([fakes.frame(0)], 0))


def test_precomputed_flow_needs_frames_on_disk() -> None:
    with pytest.raises(UserError, match="flow=dis"):
        list(FrameStream(FlowStore(None)).of_arrays([fakes.frame(0)]))


def test_times_are_those_of_the_movie(tmp_path: Path) -> None:
    times = [Fraction(t, 1000) for t in (0, 40, 80, 300, 340, 700)]
    with VideoWriter(tmp_path / "a.mp4", 25) as even, VideoWriter(tmp_path / "b.mp4", 25) as uneven:
        for index, time in enumerate(times):
            even.write(fakes.frame(index))
            uneven.write(fakes.frame(index), time)
    assert times_of(Video("a", file=tmp_path / "a.mp4")) == FrameTimes(Fraction(25))
    found = times_of(Video("b", file=tmp_path / "b.mp4"))
    assert [float(found.at(index)) for index in range(6)] == pytest.approx([float(t) for t in times], abs=1e-3)
    assert found.at(7) > found.at(6) > found.at(5)
    fakes.write_folder(tmp_path / "c", frames=2)
    assert times_of(folder(tmp_path / "c")[0], 12.5).at(1) == Fraction(2, 25)


def test_a_stream_needs_a_single_video(tmp_path: Path) -> None:
    for name in "ab":
        fakes.write_folder(tmp_path / name, frames=1)
    with pytest.raises(UserError, match="holds 2 videos"):
        single_video(folder(tmp_path), tmp_path)

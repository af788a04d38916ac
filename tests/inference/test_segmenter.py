"""The segmenter: the same masks from files, arrays and cameras, in order, and without threads left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fakes
from maskvos.data.datasets.folder import folder
from maskvos.data.streams import FrameTimes
from maskvos.errors import UserError
from maskvos.flow.dis import DIS
from maskvos.flow.store import FlowStore
from maskvos.inference.postprocess import refine_edges
from maskvos.inference.segmenter import SegmentedFrame, Segmenter
from maskvos.inference.tta import TTA
from maskvos.types import Video


class Brightness:
    """An engine whose logits are the red channel around its middle."""

    digest = "0"

    def __init__(self, broken: bool = False, workers: int = 1) -> None:
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.broken = broken
        self.workers = workers

    def __call__(self, rgb: np.ndarray, flow: np.ndarray, motion: np.ndarray | None = None) -> np.ndarray:
        self.batches.append(len(rgb))
        self.threads.add(threading.get_ident())
        time.sleep(0.01 if self.workers > 1 else 0)
        return rgb[:, :1] * np.float32("nan" if self.broken else 1) - np.float32(0.5)

    def alone(self) -> Brightness:
        return self


def segmenter(engine: Brightness | None = None, **options: object) -> Segmenter:
    return Segmenter(engine or Brightness(), (32, 48), FlowStore(DIS()), **options)  # type: ignore[arg-type]


def frames(count: int = 5) -> np.ndarray:
    return np.stack([fakes.frame(index) for index in range(count)])


def test_refined_masks_follow_the_picture_as_the_scored_ones_do(tmp_path: Path) -> None:
    fakes.write_folder(tmp_path / "a", frames=3)
    coarse = [Segmenter(Brightness(), (8, 12), FlowStore(DIS()), refine=refine) for refine in (False, True)]
    plain, refined = (list(model.stream(tmp_path / "a")) for model in coarse)
    for before, after in zip(plain, refined, strict=True):
        truth = fakes.mask(after.index) > 0
        wrong = [np.count_nonzero(frame.mask != truth) for frame in (before, after)]
        assert wrong[1] < wrong[0]
        np.testing.assert_array_equal(after.alpha, before.alpha)
        np.testing.assert_array_equal(after.mask, after.alpha > 127)
        scored = refine_edges(before.probability, before.image)
        np.testing.assert_array_equal(scored > 0.5, after.mask)
        same = before.mask == after.mask
        np.testing.assert_array_equal(scored[same], before.probability[same])
    assert "refine" in segmenter(refine=True).settings


def test_a_folder_is_segmented_in_batches_frame_by_frame(tmp_path: Path) -> None:
    fakes.write_folder(tmp_path / "a", frames=5)
    engine = Brightness()
    found = list(segmenter(engine, batch_size=2).stream(tmp_path / "a", frame_rate=10))
    assert engine.batches == [2, 2, 1]
    assert [frame.index for frame in found] == list(range(5))
    assert [frame.name for frame in found] == [f"{i:05d}" for i in range(5)]
    assert [frame.time for frame in found] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    for frame in found:
        assert frame.image.shape == (*fakes.SIZE, 3)
        assert frame.probability.shape == frame.mask.shape == fakes.SIZE
        assert frame.flow.shape == (32, 48, 2)
        np.testing.assert_array_equal(frame.mask, frame.probability > 0.5)
    # The bright rectangle is found where it is.
    assert found[0].mask[fakes.mask(0) > 0].mean() > 0.9


def test_batches_of_large_frames_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.write_folder(tmp_path / "a", frames=7)
    engine = Brightness()
    model = segmenter(engine, batch_size=64)
    whole = [frame.logits for frame in model.stream(tmp_path / "a")]
    monkeypatch.setattr("maskvos.inference.segmenter._BATCH_BYTES", 3 * frames(1).nbytes + 1)
    np.testing.assert_array_equal(whole, [frame.logits for frame in model.stream(tmp_path / "a")])
    monkeypatch.setattr("maskvos.inference.segmenter._BATCH_BYTES", 1)
    list(model.stream(tmp_path / "a"))
    assert engine.batches == [7, 3, 3, 1, *[1] * 7]


def test_frames_are_segmented_in_parallel_and_stay_in_order(tmp_path: Path) -> None:
    fakes.write_folder(tmp_path / "a", frames=9)
    engine = Brightness(workers=3)
    found = list(segmenter(engine).stream(tmp_path / "a"))
    assert engine.batches == [1] * 9
    assert len(engine.threads) == 3
    assert [frame.index for frame in found] == list(range(9))
    for frame, one in zip(found, segmenter().stream(tmp_path / "a"), strict=True):
        np.testing.assert_array_equal(frame.logits, one.logits)
        np.testing.assert_array_equal(frame.image, one.image)


@pytest.mark.parametrize("workers", [1, 2])
def test_few_frames_are_decoded_ahead(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []

    def movie(path: Path, reading: object) -> Iterator[np.ndarray]:
        for index in range(60):
            decoded.append(index)
            yield fakes.frame(index % 20)

    monkeypatch.setattr("maskvos.data.streams.read_video", movie)
    video = Video("film", file=Path("film.mp4"))
    model = segmenter(Brightness(workers=workers), batch_size=2)
    for frame in model.stream_video(video, FrameTimes(Fraction(25))):
        assert len(decoded) - frame.index <= 9
    assert len(decoded) == 60


@pytest.mark.parametrize("flow", [0.5, "backward", {}, {"gap": 1}, {"direction": "backward", "gap": 0.5}, {"way": 1}])
def test_a_flow_of_test_time_augmentation_that_is_no_frame_pair_is_named(flow: Any) -> None:
    with pytest.raises(UserError, match=r"gap|^tta\.flow: .*give direction"):
        segmenter(tta=TTA(True, flow))


def test_arrays_and_files_give_the_same(tmp_path: Path) -> None:
    fakes.write_folder(tmp_path / "a", frames=5, suffix=".png")
    model = segmenter(tta=TTA(True, {"direction": "backward"}))
    from_files = np.stack([frame.probability for frame in model.stream(tmp_path / "a")])
    np.testing.assert_allclose(model(frames()), from_files, atol=1e-6)
    np.testing.assert_allclose(model(list(frames())), from_files, atol=1e-6)


def test_a_camera_frame_is_returned_when_the_next_arrives() -> None:
    taken = []

    def camera() -> Iterator[np.ndarray]:
        for index, frame in enumerate(frames()):
            taken.append(index)
            yield frame

    engine = Brightness()
    behind = [len(taken) - 1 - frame.index for frame in segmenter(engine).stream(camera())]
    assert behind == [1, 1, 1, 1, 0]
    assert engine.batches == [1] * 5


def test_the_threshold_applies_to_the_mask() -> None:
    low, high = (segmenter(threshold=value).stream(iter(frames(2))) for value in (0.4, 0.6))
    assert next(low).mask.mean() > next(high).mask.mean()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stream_that_is_left_early_ends_its_threads(tmp_path: Path, workers: int) -> None:
    fakes.write_folder(tmp_path / "a", frames=20)
    before = threading.active_count()
    stream = segmenter(Brightness(workers=workers), batch_size=1).stream(tmp_path / "a")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_frames_before_an_error_are_not_lost(tmp_path: Path, workers: int) -> None:
    fakes.write_folder(tmp_path / "a", frames=4)
    (tmp_path / "a" / "00003.jpg").write_bytes(b"no image")
    stream = segmenter(Brightness(workers=workers), batch_size=1).stream(tmp_path / "a")
    assert [next(stream).name, next(stream).name] == ["00000", "00001"]
    with pytest.raises(UserError, match=r"00003\.jpg"):  # which the flow of 00002 needs
        next(stream)


def test_wrong_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="eval_batch_size=0"):
        segmenter(batch_size=0)
    with pytest.raises(UserError, match=r"threshold=1\.5"):
        segmenter(threshold=1.5)
    with pytest.raises(UserError, match=r"frames: there are none"):
        segmenter()(np.zeros((0, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"nowhere\.mp4"):
        list(segmenter().stream(tmp_path / "nowhere.mp4"))
    for name in "ab":
        fakes.write_folder(tmp_path / name, frames=1)
    assert len(folder(tmp_path)) == 2
    with pytest.raises(UserError, match="holds 2 videos"):
        list(segmenter().stream(tmp_path))


def test_a_network_that_diverges_is_named(tmp_path: Path) -> None:
    fakes.write_folder(tmp_path / "a", frames=1)
    with pytest.raises(UserError, match=r"frame 00000: .*not finite.*trainer\.precision=32-true"):
        list(segmenter(Brightness(broken=True)).stream(tmp_path / "a"))


def test_confidence_is_the_overlap_of_a_cautious_and_a_generous_mask(tmp_path: Path) -> None:
    def found(logits: np.ndarray) -> SegmentedFrame:
        return SegmentedFrame(
            np.zeros((*logits.shape, 3), np.uint8), logits, logits > 0, 0, 0.0, "0", np.zeros((1, 1, 2))
        )

    logits = np.full((8, 10), -9, np.float32)
    assert found(logits).confidence == 0  # nothing is found
    logits[:4] = 1  # probability 0.73
    assert found(logits).confidence == 0
    logits[:3] = 9
    assert found(logits).confidence == 0.75
    logits[:4] = 9
    assert found(logits).confidence == 1

"""Validation of datasets: statistics per split, and every problem once, with its path."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

import fakes
from maskvos.data.check import DataReport, check
from maskvos.data.datasets.davis import davis
from maskvos.data.datasets.triplets import triplets
from maskvos.errors import UserError
from maskvos.flow.dis import DIS
from maskvos.flow.store import FlowStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fakes.write_davis(tmp_path / "DAVIS")
    return tmp_path / "DAVIS"


def look(root: Path, flow: FlowStore | None = None) -> DataReport:
    sources = {
        "train": partial(davis, root, "train"),
        "test": partial(davis, root, "val"),
        "val": None,
        "predict": None,
    }
    return check(sources, flow or FlowStore(DIS()))


def test_valid_dataset(root: Path) -> None:
    report = look(root)
    assert report.problems == []
    train, test = report.splits
    assert (train.name, train.videos, train.frames, train.annotated) == ("train", 1, 3, 3)
    assert (test.name, test.videos, test.frames, test.sizes) == ("test", 2, 6, {fakes.SIZE: 6})
    expected = np.mean([(fakes.mask(index) > 0).mean() for index in range(3)])
    assert np.mean(test.foreground) == pytest.approx(expected)
    lines = report.table().splitlines()
    assert lines[0].split() == ["split", "videos", "frames", "annotated", "size", "flow", "on", "disk", "foreground"]
    assert lines[3].split()[:5] == ["test", "2", "6", "6", f"{fakes.SIZE[1]}x{fakes.SIZE[0]}"]
    assert lines[-1] == "no problems"


def test_unreadable_files_are_reported_once_with_path_and_expectation(root: Path) -> None:
    images, masks = root / "JPEGImages/480p", root / "Annotations/480p"
    (images / "cows/00000.jpg").write_bytes(b"")
    (masks / "cows/00001.png").write_bytes(b"junk")
    fakes.write_frame(images / "blackswan/00001.jpg", 1, (30, 50))
    fakes.write_mask(masks / "cows/00002.png", fakes.mask(2, (20, 20)))
    fakes.write_frame(images / "cows/00009.jpg", 9)
    for index in range(3):
        fakes.write_mask(masks / f"bear/{index:05d}.png", np.zeros(fakes.SIZE, np.uint8))
    problems = look(root).problems
    expected = {
        str(images / "cows/00000.jpg"): "0 bytes",
        str(masks / "cows/00001.png"): "not a complete image",
        str(masks / "cows/00002.png"): "is 20x20 and its frame 80x48",
        str(masks / "blackswan/00001.png"): "is 80x48 and its frame 50x30",
        str(images / "blackswan/00001.jpg"): "must have the same size for flow",
        str(masks / "bear/00000.png"): "no mask of 'bear' has foreground",
        "'cows': 1 frames are in its folder but not in the list": "00009",
    }
    assert len(problems) == len(expected), problems
    for place, text in expected.items():
        assert sum(place in problem and text in problem for problem in problems) == 1, (place, problems)


def test_missing_files_are_reported_together(root: Path) -> None:
    gone = [root / f"Annotations/480p/cows/0000{index}.png" for index in (0, 2)]
    for path in gone:
        path.unlink()
    report = look(root)
    assert [split.name for split in report.splits] == ["train"]
    assert len(report.problems) == 2
    assert all(str(path) in problem for path, problem in zip(gone, report.problems, strict=True))
    assert "2 problems:" in report.table()


def test_all_missing_files_are_reported(tmp_path: Path) -> None:
    fakes.write_davis(tmp_path / "DAVIS", frames=50)
    for path in (tmp_path / "DAVIS/Annotations/480p/cows").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"\.\.\. and \d\d more"):
        davis(tmp_path / "DAVIS", "val")
    report = look(tmp_path / "DAVIS")
    assert len(report.problems) >= 50
    assert not any("... and" in problem for problem in report.problems)


def test_a_missing_dataset_is_one_problem(tmp_path: Path) -> None:
    report = look(tmp_path / "DAVIS")
    assert len(report.problems) == 1
    assert "no folder 'DAVIS' under" in report.problems[0]
    assert report.splits == []


def test_testing_on_training_videos_is_a_problem(root: Path) -> None:
    source = partial(davis, root, "val")
    problems = check({"train": source, "test": source}, FlowStore(DIS())).problems
    assert ["is in both train and test" in problem for problem in problems] == [True, True]


def test_flow_cache_coverage(root: Path, tmp_path: Path) -> None:
    store = FlowStore(DIS(), cache=tmp_path / "cache")
    store.load(davis(root, "val")[0], 1)
    report = look(root, store)
    assert [split.flow for split in report.splits] == [0, 1]
    assert "1/6" in report.table()
    assert report.problems == []


def test_unreadable_image_with_a_flow_cache(root: Path, tmp_path: Path) -> None:
    image = root / "JPEGImages/480p/cows/00001.jpg"
    image.unlink()
    image.symlink_to(tmp_path / "gone.jpg")
    report = look(root, FlowStore(DIS(), cache=tmp_path / "cache"))
    assert [split.frames for split in report.splits] == [3, 6]
    assert len(report.problems) == 1
    assert str(image) in report.problems[0]


def test_precomputed_flow_is_read(tmp_path: Path) -> None:
    fakes.write_triplets(tmp_path)
    flows = tmp_path / "TestSet/DAVIS/cows/Flow"
    (flows / "00000.png").unlink()
    (flows / "00001.png").write_bytes(b"")
    fakes.write_frame(flows / "00002.png", 2, (50, 50))
    report = check({"test": partial(triplets, tmp_path, "TestSet", ["DAVIS"])}, FlowStore(None))
    assert report.splits[0].flow == 4
    assert len(report.problems) == 3
    assert str(flows / "00001.png") in report.problems[0]
    assert "is 50x50 and its frame 80x48" in report.problems[1]
    image = tmp_path / "TestSet/DAVIS/cows/Frame/00000.jpg"
    assert f"1 of 3 frames of 'cows' have no flow, e.g. {image}" in report.problems[2]


def test_a_long_list_of_problems_is_truncated() -> None:
    report = DataReport([], [f"problem {number}" for number in range(DataReport.SHOWN + 5)])
    lines = report.table().splitlines()
    assert lines[-1] == "  ... and 5 more"
    assert len(lines) < DataReport.SHOWN + 8


def test_nothing_to_check() -> None:
    with pytest.raises(UserError, match="no train, val or test videos"):
        check({"predict": list}, FlowStore(DIS()))


@pytest.mark.shared
@pytest.mark.slow
def test_real_davis_is_valid(shared: Path) -> None:
    root = shared / "data" / "DAVIS"
    names = {"train": "train", "val": "held_out", "test": "val"}
    report = check({split: partial(davis, root, name) for split, name in names.items()}, FlowStore(DIS()))
    assert report.problems == []
    assert [split.frames for split in report.splits] == [1794, 285, 708]

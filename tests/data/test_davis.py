"""DAVIS in both layouts: lists, splits, names and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

import fakes
from maskvos.data.datasets.davis import HOLD_OUT, davis
from maskvos.data.datasets.listing import ExtraDataWarning, ListingError
from maskvos.errors import UserError


@pytest.mark.parametrize("year", [2016, 2017])
def test_lists_sequences_with_masks_of_the_same_name(tmp_path: Path, year: int) -> None:
    fakes.write_davis(tmp_path, year)
    videos = davis(tmp_path, "val", year)
    assert [video.name for video in videos] == ["blackswan", "cows"]
    for video in videos:
        assert video.dataset == f"DAVIS-{year}"
        assert [frame.name for frame in video.frames] == ["00000", "00001", "00002"]
        for frame in video.frames:
            assert frame.image == tmp_path / "JPEGImages/480p" / video.name / f"{frame.name}.jpg"
            assert frame.mask == tmp_path / "Annotations/480p" / video.name / f"{frame.name}.png"


def test_held_out_sequences_are_in_neither_train_nor_val(tmp_path: Path) -> None:
    fakes.write_davis(tmp_path)
    names = {split: {video.name for video in davis(tmp_path, split)} for split in ("train", "held_out", "val")}
    assert names == {"train": {"bear"}, "held_out": {"bus", "dance-jump"}, "val": {"blackswan", "cows"}}
    assert {video.name for video in davis(tmp_path, "train", hold_out=[])} == {"bear", "bus", "dance-jump"}


def test_2016_split_with_the_list_of_the_2017_release(tmp_path: Path) -> None:
    fakes.write_davis(tmp_path, 2017)
    (tmp_path / "ImageSets/2017").rename(tmp_path / "ImageSets/2016")
    assert [video.name for video in davis(tmp_path, "val", 2016)] == ["blackswan", "cows"]


@pytest.mark.parametrize(("year", "name"), [(2016, "1080p"), (2017, "Full-Resolution")])
def test_full_resolution_folder_of_each_release(tmp_path: Path, year: int, name: str) -> None:
    fakes.write_davis(tmp_path, year, name)
    assert davis(tmp_path, "val", year, "full")[0].frames[0].image.parts[-3] == name


def test_select_sequences(tmp_path: Path) -> None:
    fakes.write_davis(tmp_path)
    assert [video.name for video in davis(tmp_path, "val", sequences=["cows"])] == ["cows"]
    with pytest.raises(UserError, match="no sequence 'cow'; did you mean 'cows'"):
        davis(tmp_path, "val", sequences=["cow"])


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"DAVIS-2016: no folder 'nowhere' under .*expected .*JPEGImages/480p.*README"):
        davis(tmp_path / "nowhere")
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(UserError, match="no folder 'JPEGImages/480p' under"):
        davis(tmp_path)
    fakes.write_davis(tmp_path)
    with pytest.raises(UserError, match="no folder 'JPEGImages/1080p' under"):
        davis(tmp_path, resolution="full")
    with pytest.raises(UserError, match=r"no list of split 'trainval'.*ImageSets/480p/trainval.txt"):
        davis(tmp_path, "trainval")


@pytest.mark.parametrize("year", [2016, 2017])
@pytest.mark.parametrize("kind", ["JPEGImages", "Annotations"])
def test_all_missing_files_are_reported_with_their_path(tmp_path: Path, year: int, kind: str) -> None:
    fakes.write_davis(tmp_path, year)
    suffix = "jpg" if kind == "JPEGImages" else "png"
    gone = [tmp_path / kind / "480p" / name / f"00001.{suffix}" for name in fakes.DAVIS_SPLITS["val"]]
    for path in gone:
        path.unlink()
    with pytest.raises(UserError) as error:
        davis(tmp_path, "val", year)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    for line, path in zip(lines, gone, strict=True):
        # Without a list, a missing frame is detected by its mask.
        assert str(path) in line or (year == 2017 and str(path.parent) in line and "'00001'" in line)


def test_frames_and_masks_are_matched_by_name(tmp_path: Path) -> None:
    fakes.write_davis(tmp_path, 2017, frames=4)
    for path in (tmp_path / "JPEGImages/480p/cows/00001.jpg", tmp_path / "Annotations/480p/cows/00001.png"):
        path.unlink()
    cows = davis(tmp_path, "val", 2017, sequences=["cows"])[0]
    assert [frame.name for frame in cows.frames] == ["00000", "00002", "00003"]
    assert all(frame.mask is not None and frame.mask.stem == frame.image.stem for frame in cows.frames)


def test_unlisted_frames_are_reported(tmp_path: Path) -> None:
    fakes.write_davis(tmp_path)
    fakes.write_frame(tmp_path / "JPEGImages/480p/cows/00007.jpg", 7)
    with pytest.warns(ExtraDataWarning, match="'cows': 1 frames .*00007"):
        videos = davis(tmp_path, "val")
    assert [len(video.frames) for video in videos] == [3, 3]


def test_invalid_lists_are_rejected(tmp_path: Path) -> None:
    fakes.write_davis(tmp_path)
    file = tmp_path / "ImageSets/480p/val.txt"
    file.write_text("/JPEGImages/480p/cows/00000.jpg /Annotations/480p/cows/00001.png\n")
    with pytest.warns(ExtraDataWarning), pytest.raises(UserError, match="pairs the frame"):
        davis(tmp_path, "val")
    file.write_text("/JPEGImages/480p/cows/00000.jpg\n")
    with pytest.raises(UserError, match=r"val.txt, line 1: .* has no mask"):
        davis(tmp_path, "val")
    file.write_text("\n")
    with pytest.raises(UserError, match=r"val.txt is empty"):
        davis(tmp_path, "val")


def test_a_listed_name_that_is_too_long_for_the_disk_is_reported(tmp_path: Path) -> None:
    fakes.write_davis(tmp_path, 2017)
    (tmp_path / "ImageSets/2017/val.txt").write_text("cows\n" + 300 * "n" + "\n")
    with pytest.raises(ListingError, match="nnn"):
        davis(tmp_path, "val", 2017)


def test_masks_are_optional_in_the_test_split(tmp_path: Path) -> None:
    fakes.write_davis(tmp_path, 2017)
    (tmp_path / "ImageSets/2017/test-dev.txt").write_text("cows\n")
    for index in (1, 2):
        (tmp_path / f"Annotations/480p/cows/0000{index}.png").unlink()
    video = davis(tmp_path, "test-dev", 2017)[0]
    assert len(video.frames) == 3
    assert [frame.name for frame in video.annotated] == ["00000"]


def test_unknown_year_and_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown year 2018"):
        davis(tmp_path, year=2018)
    with pytest.raises(UserError, match="unknown split 'vall'; did you mean 'val'"):
        davis(tmp_path, "vall")


@pytest.mark.shared
def test_real_davis(shared: Path) -> None:
    root = shared / "data" / "DAVIS"
    train, held_out, val = (davis(root, split) for split in ("train", "held_out", "val"))
    assert (len(train), len(held_out), len(val)) == (26, 4, 10)
    assert sum(len(video.frames) for video in train + held_out) == 2079
    assert sorted(video.name for video in held_out) == sorted(HOLD_OUT)

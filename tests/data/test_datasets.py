"""Tests specific to single datasets; for those common to all see test_data_configs.py."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import fakes
from maskvos.data.dataset import read_mask
from maskvos.data.datasets.fbms import fbms
from maskvos.data.datasets.image_saliency import image_saliency
from maskvos.data.datasets.listing import ExtraDataWarning, files_by_name
from maskvos.data.datasets.long_videos import long_videos
from maskvos.data.datasets.mixture import divide, mixture
from maskvos.data.datasets.triplets import triplets
from maskvos.data.datasets.video_saliency import video_saliency
from maskvos.data.datasets.youtube_objects import youtube_objects
from maskvos.data.datasets.youtube_vos import youtube_vos
from maskvos.errors import UserError
from maskvos.text import natural
from maskvos.types import Frame, Video


def masks(video: Video) -> dict[str, np.ndarray]:
    return {frame.name: read_mask(frame.mask, fakes.SIZE, video.masks) for frame in video.annotated if frame.mask}


# ---------------------------------------------------------------------- FBMS


def test_fbms_merges_objects_on_white_and_on_black(tmp_path: Path) -> None:
    fakes.write_fbms(tmp_path)
    videos = {video.name: video for video in fbms(tmp_path)}
    assert list(videos) == ["bear01", "cars1", "cars2", "tennis"]
    for name, stems in (("bear01", ("bear01_0001", "bear01_0003")), ("tennis", ("tennis001", "tennis003"))):
        assert len(videos[name].frames) == 4
        found = masks(videos[name])
        assert tuple(found) == stems
        np.testing.assert_array_equal(found[stems[1]], fakes.mask(2, objects=2) > 0)


def test_fbms_static_objects_are_background(tmp_path: Path) -> None:
    fakes.write_fbms(tmp_path)
    marple2 = fbms(tmp_path, "test", ["marple2"])[0]
    np.testing.assert_array_equal(masks(marple2)["marple2_0001"], fakes.mask(0, objects=2) == 1)


def test_fbms_without_definition_and_with_different_zero_padding(tmp_path: Path) -> None:
    fakes.write_fbms(tmp_path)
    truth = tmp_path / "Trainingset/bear01/GroundTruth"
    (truth / "bear01Def.dat").unlink()
    expected = fakes.mask(2, objects=2) > 0
    np.testing.assert_array_equal(masks(fbms(tmp_path, sequences=["bear01"])[0])["bear01_0003"], expected)
    for path in truth.iterdir():
        path.unlink()
    Image.fromarray(fakes.mask(2, objects=2) * 100).save(truth / "003_gt.png")
    np.testing.assert_array_equal(masks(fbms(tmp_path, sequences=["bear01"])[0])["bear01_0003"], expected)


def test_fbms_reports_missing_files(tmp_path: Path) -> None:
    fakes.write_fbms(tmp_path)
    (tmp_path / "Trainingset/cars1/cars1_0003.jpg").unlink()
    for path in (tmp_path / "Trainingset/cars2/GroundTruth").iterdir():
        path.unlink()
    with pytest.raises(UserError) as error:
        fbms(tmp_path)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert "cars1_0003_gt.ppm" in lines[0]
    assert "no mask in" in lines[1]
    assert "cars2/GroundTruth" in lines[1]
    with pytest.raises(UserError, match="did you mean 'train'"):
        fbms(tmp_path, "trian")
    with pytest.raises(UserError, match=r"no folder 'Testset' under .*expected .*Testset/<sequence>"):
        fbms(tmp_path / "Trainingset", "test")


# ---------------------------------------------------------------------- other datasets


def test_youtube_objects_masks_are_resized_to_their_frames(tmp_path: Path) -> None:
    fakes.write_youtube_objects(tmp_path)
    videos = youtube_objects(tmp_path)
    assert len(videos) == 10
    cat = next(video for video in videos if video.category == "cat")
    assert cat.name == "cat_0001_002"
    found = masks(cat)
    assert list(found) == ["frame0001", "frame0011"]
    expected = fakes.mask(5, (fakes.SIZE[0] // 2, fakes.SIZE[1] // 2)).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(found["frame0011"], expected)
    assert [video.category for video in youtube_objects(tmp_path, ["dog"])] == ["dog"]
    with pytest.raises(UserError, match="unknown class 'cats'; did you mean 'cat'"):
        youtube_objects(tmp_path, ["cats"])


def test_youtube_objects_with_frames_in_a_separate_tree(tmp_path: Path) -> None:
    fakes.write_youtube_objects(tmp_path / "labels")
    before = youtube_objects(tmp_path / "labels")
    for path in sorted((tmp_path / "labels").glob("*/data/*/shots/*/images")):
        apart = tmp_path / "frames" / path.parent.relative_to(tmp_path / "labels")
        apart.parent.mkdir(parents=True, exist_ok=True)
        path.rename(apart)
    after = youtube_objects(tmp_path / "labels", frames=tmp_path / "frames")
    names = [
        [(video.name, [(frame.name, frame.mask) for frame in video.frames]) for video in v] for v in (before, after)
    ]
    assert names[0] == names[1]
    with pytest.raises(UserError, match="no frame in"):
        youtube_objects(tmp_path / "labels")


def test_youtube_objects_label_without_frame(tmp_path: Path) -> None:
    fakes.write_youtube_objects(tmp_path)
    (tmp_path / "dog/data/0001/shots/002/images/frame0011.jpg").unlink()
    with pytest.raises(UserError, match=r"no frame for the mask .*dog/data/0001/shots/002/labels/00011.jpg"):
        youtube_objects(tmp_path)


def test_youtube_vos_classes_and_meta_json(tmp_path: Path) -> None:
    fakes.write_youtube_vos(tmp_path)
    videos = youtube_vos(tmp_path)
    assert [video.category for video in videos] == [None, "cat", None, "cat"]
    fakes.write_frame(tmp_path / "train/JPEGImages/extra/00000.jpg", 0)
    with pytest.warns(ExtraDataWarning, match=r"1 videos in .* are not in meta.json: \['extra'\]"):
        assert len(youtube_vos(tmp_path)) == 4
    meta = tmp_path / "train/meta.json"
    meta.write_text(meta.read_text().replace("00a70", "gone"))
    with pytest.warns(ExtraDataWarning), pytest.raises(UserError, match="names the video 'gone'"):
        youtube_vos(tmp_path)
    meta.write_text("{}")
    with pytest.raises(UserError, match=r"is not a valid meta.json"):
        youtube_vos(tmp_path)
    meta.unlink()
    with pytest.raises(UserError, match=r"no list .*meta.json"):
        youtube_vos(tmp_path)


def test_long_videos_list_all_frames(tmp_path: Path) -> None:
    fakes.write_long_videos(tmp_path)
    assert [(len(video.frames), len(video.annotated)) for video in long_videos(tmp_path)] == [(6, 2)] * 3
    (tmp_path / "Annotations/rat/00007.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"no frame for the mask .*rat/00007.png"):
        long_videos(tmp_path)


def test_video_saliency_folders_in_either_nesting(tmp_path: Path) -> None:
    fakes.write_davsod(tmp_path / "d")
    fakes.write_visal(tmp_path / "v")
    [first, _] = video_saliency(tmp_path / "d", "EasyTestSet")
    assert first.name == "EasyTestSet_0000"
    np.testing.assert_array_equal(masks(first)["0002"], fakes.mask(2))
    boat = video_saliency(tmp_path / "v", name="ViSal")[0]
    assert (boat.dataset, len(boat.frames), len(boat.annotated)) == ("ViSal", 4, 2)
    (tmp_path / "d/EasyTestSet/EasyTestSet_0001/Imgs").rename(tmp_path / "d/EasyTestSet/EasyTestSet_0001/pictures")
    with pytest.raises(UserError, match=r"'EasyTestSet_0001' has the folders \['GT_object_level', 'pictures'\]"):
        video_saliency(tmp_path / "d", "EasyTestSet")


def test_still_images_are_videos_of_one_frame(tmp_path: Path) -> None:
    fakes.write_duts(tmp_path)
    videos = image_saliency(tmp_path)
    assert [len(video.frames) for video in videos] == [1] * 6
    gone = tmp_path / "DUTS-TR/DUTS-TR-Mask/ILSVRC2012_TR_00000003.png"
    gone.unlink()
    with pytest.raises(UserError, match=f"no mask for the frame .*00000003.jpg; expected {gone}"):
        image_saliency(tmp_path)


def test_triplets_of_both_projects_have_precomputed_flow(tmp_path: Path) -> None:
    fakes.write_triplets(tmp_path)
    videos = triplets(tmp_path)
    assert [video.name for video in videos] == [
        "DAVIS_bear", "DAVIS_bus", "DAVIS_cars1", "FBMS_bear", "FBMS_bus", "FBMS_cars1",
    ]  # fmt: skip
    assert all(frame.flow is not None and frame.flow.stem == frame.name for v in videos for frame in v.frames)
    assert [len(video.annotated) for video in videos] == [3, 3, 3, 1, 1, 1]
    assert [video.name for video in triplets(tmp_path, "TestSet", ["FBMS"])] == ["cat", "cows"]
    with pytest.raises(UserError, match=r"no dataset 'DAVS' in .*; did you mean 'DAVIS'"):
        triplets(tmp_path, datasets=["DAVS"])
    (tmp_path / "TrainSet/DAVIS/bear/Flow/00009.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"no frame for the flow .*bear/Flow/00009.png"):
        triplets(tmp_path)


def test_tmo_layout_with_a_resolution_folder(tmp_path: Path) -> None:
    for part, suffix in (("JPEGImages", "jpg"), ("JPEGFlows", "jpg")):
        fakes.write_frame(tmp_path / "DAVIS" / part / "480p/bear" / f"00000.{suffix}", 0)
    fakes.write_mask(tmp_path / "DAVIS/Annotations/480p/bear/00000.png", fakes.mask(0, objects=2), palette=True)
    [bear] = triplets(tmp_path, split=None)
    assert (bear.name, bear.frames[0].flow) == ("bear", tmp_path / "DAVIS/JPEGFlows/480p/bear/00000.jpg")
    np.testing.assert_array_equal(masks(bear)["00000"], fakes.mask(0, objects=2) > 0)


# ---------------------------------------------------------------------- mixtures and held-out sequences


def some(names: list[str]) -> list[Video]:
    return [Video(name, (Frame("0", Path("0.jpg")),)) for name in names]


def test_divided_splits_are_disjoint_complete_and_stable() -> None:
    names = [f"{film}{shot}" for film in ("cars", "marple", "bear", "cats", "tennis", "people") for shot in range(4)]
    for group in (None, "[a-z]+"):
        train, held_out = (
            [video.name for video in divide(partial(some, names), split, 0.3, group)] for split in ("train", "held_out")
        )
        assert sorted(train + held_out) == sorted(names)
        assert not set(train) & set(held_out)
        reverse = divide(partial(some, names[::-1]), "held_out", 0.3, group)
        assert {video.name for video in reverse} == set(held_out)
        if group:
            assert not {name[:-1] for name in train} & {name[:-1] for name in held_out}
            assert len(held_out) == 8
        else:
            assert len(held_out) == 7


def test_invalid_splits_are_rejected() -> None:
    with pytest.raises(UserError, match="unknown split 'val'"):
        divide(partial(some, ["a"]), "val")
    with pytest.raises(UserError, match="fraction=2"):
        divide(partial(some, ["a"]), "train", 2)
    with pytest.raises(UserError, match="split 'train' of 1 videos is empty"):
        divide(partial(some, ["a"]))
    with pytest.raises(UserError, match="at least one dataset"):
        mixture([])


def test_mixtures_concatenate_datasets() -> None:
    assert [video.name for video in mixture([partial(some, ["a", "b"]), partial(some, ["a"])])] == ["a", "b", "a"]


# ---------------------------------------------------------------------- listing


def test_natural_sort_order() -> None:
    names = ["f10", "f9", "a", "10", "9", "f9b", "", "F1"]
    assert sorted(names, key=natural) == ["", "9", "10", "F1", "a", "f9", "f9b", "f10"]


@given(st.lists(st.text(), max_size=6), st.text(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_natural_sort_order_is_total_and_numeric(names: list[str], stem: str, one: int, other: int) -> None:
    ordered = sorted(names, key=natural)
    assert sorted(ordered[::-1], key=natural) == ordered or len(set(map(str, map(natural, names)))) < len(names)
    stem = stem.rstrip("0123456789") + "_"
    assert (natural(f"{stem}{one}") < natural(f"{stem}{other}")) == (one < other)


def test_files_by_name_ignores_other_files(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", ".hidden.jpg", "Thumbs.db", "c.txt"):
        (tmp_path / name).touch()
    assert list(files_by_name(tmp_path)) == ["a", "b"]
    assert files_by_name(tmp_path / "nowhere") == {}

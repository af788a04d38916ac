"""Samples from disk: what is in them, how they are reproduced, and what is said of files that do not fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image

import fakes
from maskvos.data.dataset import FrameDataset, collate, read_mask
from maskvos.data.datasets.davis import davis
from maskvos.data.datasets.folder import folder
from maskvos.data.transforms import HorizontalFlip, Transform
from maskvos.errors import UserError
from maskvos.flow.dis import DIS
from maskvos.flow.store import FlowStore
from maskvos.media.images import read_image
from maskvos.types import Frame, MaskRule, Video


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fakes.write_davis(tmp_path / "DAVIS")
    return tmp_path / "DAVIS"


@pytest.fixture
def flow() -> FlowStore:
    return FlowStore(DIS())


PLAIN = Transform((32, 48))


def test_a_training_sample(root: Path, flow: FlowStore) -> None:
    dataset = FrameDataset(davis(root, "val"), flow, PLAIN)
    assert len(dataset) == 6
    sample = dataset[4]
    assert (sample["video"], sample["frame"], sample["size"]) == ("cows", "00001", fakes.SIZE)
    assert sample["rgb"].shape == (3, 32, 48)
    assert sample["rgb"].dtype == torch.float32
    assert 0.5 < sample["rgb"].max() <= 1
    assert sample["flow"].shape == (2, 32, 48)
    assert sample["mask"].shape == (1, 32, 48)
    assert set(sample["mask"].unique().tolist()) == {0, 1}
    assert bool(sample["motion"])
    assert "truth" not in sample
    assert "image" not in sample


def test_an_evaluation_sample_has_truth_and_image_at_their_own_size(root: Path, flow: FlowStore) -> None:
    dataset = FrameDataset(davis(root, "val"), flow, PLAIN, with_truth=True, with_image=True)
    sample = dataset[2]
    np.testing.assert_array_equal(sample["truth"], fakes.mask(2) > 0)
    assert sample["truth"].dtype == bool
    assert sample["image"].shape == (*fakes.SIZE, 3)
    assert np.abs(sample["image"].astype(int) - fakes.frame(2)).mean() < 12


def test_flow_vectors_are_scaled_to_the_size_of_the_network(root: Path) -> None:
    class Constant:
        def load(self, video: Video, index: int, **options: object) -> np.ndarray:
            return np.full((*fakes.SIZE, 2), 3, np.float32)

    sample = FrameDataset(davis(root, "val"), Constant(), Transform((24, 60)))[0]  # type: ignore[arg-type]
    np.testing.assert_allclose(sample["flow"][0], 3 * 60 / 80, rtol=1e-5)
    np.testing.assert_allclose(sample["flow"][1], 3 * 24 / 48, rtol=1e-5)


def test_only_annotated_frames_count(root: Path, flow: FlowStore) -> None:
    video = davis(root, "val")[0]
    frames = (video.frames[0], Frame("00001", video.frames[1].image), video.frames[2])
    sparse = Video("sparse", frames)
    assert [FrameDataset([sparse], flow, PLAIN)[i]["frame"] for i in range(2)] == ["00000", "00002"]
    every = FrameDataset([sparse], flow, PLAIN, annotated_only=False, with_truth=True)
    assert len(every) == 3
    batch = collate([every[i] for i in range(3)])
    assert batch["truth"][1] is None
    assert "mask" not in batch
    with pytest.raises(UserError, match="no annotated frame in 1 videos"):
        FrameDataset([Video("none", frames[1:2])], flow, PLAIN)


def test_movies_are_not_trained_on(flow: FlowStore) -> None:
    with pytest.raises(UserError, match=r"'film.mp4' is a movie"):
        FrameDataset([Video("film", file=Path("film.mp4"))], flow, PLAIN)


def test_random_choices_follow_from_seed_epoch_and_index(root: Path, flow: FlowStore) -> None:
    videos = davis(root, "val")
    steps = [HorizontalFlip(p=0.5), A.ColorJitter(p=1)]

    def dataset(seed: int) -> FrameDataset:
        return FrameDataset(videos, flow, Transform((32, 48), steps), seed=seed, motion_as_option=0.5)

    one, two = dataset(0), dataset(0)
    first = [one[(epoch, index)] for epoch in range(2) for index in range(6)]
    again = [two[(epoch, index)] for epoch in (1, 0) for index in reversed(range(6))][::-1]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a["rgb"], b["rgb"])
        assert torch.equal(a["flow"], b["flow"])
        assert a["motion"] == b["motion"]
    assert not torch.equal(one[(0, 3)]["rgb"], one[(1, 3)]["rgb"])
    assert not torch.equal(one[(0, 3)]["rgb"], dataset(1)[(0, 3)]["rgb"])


def test_motion_as_option(root: Path, flow: FlowStore) -> None:
    videos = davis(root, "val")
    still = Video("still", videos[0].frames[:1])

    def motion(share: float | None, video: Video) -> list[bool]:
        dataset = FrameDataset([video], flow, PLAIN, motion_as_option=share)
        return [bool(dataset[(epoch, 0)]["motion"]) for epoch in range(40)]

    assert all(motion(None, still))
    assert all(motion(None, videos[0]))
    assert not any(motion(0.0, still))
    assert all(motion(0.0, videos[0]))
    assert 8 <= sum(motion(0.5, videos[0])) <= 32
    assert not FrameDataset([still], FlowStore(None), PLAIN)[0]["flow"].any()


# ---------------------------------------------------------------------- masks


def test_objects_are_merged(tmp_path: Path) -> None:
    labels = fakes.mask(0, objects=2)
    assert labels.max() == 2
    expected = (labels > 0).astype(np.uint8)
    fakes.write_mask(tmp_path / "palette.png", labels, palette=True)
    fakes.write_mask(tmp_path / "binary.png", labels)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    Image.fromarray(labels > 0).save(tmp_path / "bits.png")
    colours = np.array([[0, 0, 0], [0, 0, 9], [200, 0, 0]], np.uint8)[labels]
    Image.fromarray(colours).save(tmp_path / "colours.png")
    Image.fromarray(np.dstack([colours, np.full(labels.shape, 255, np.uint8)])).save(tmp_path / "alpha.png")
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(read_mask(path, fakes.SIZE), expected, err_msg=path.name)


def test_palette_index_counts_and_not_its_colour(tmp_path: Path) -> None:
    image = Image.fromarray(fakes.mask(0))
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", fakes.SIZE), fakes.mask(0))


def test_grey_maps_by_their_threshold(tmp_path: Path) -> None:
    grey = np.linspace(0, 255, fakes.SIZE[1]).astype(np.uint8)[None].repeat(fakes.SIZE[0], 0)
    Image.fromarray(grey).save(tmp_path / "g.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "p.png")
    for name in ("g.png", "p.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name, fakes.SIZE, MaskRule(above=127)), grey > 127)


def test_palettes_of_colours_are_labels_even_among_grey_maps(tmp_path: Path) -> None:
    labels = fakes.mask(0, objects=2)
    fakes.write_mask(tmp_path / "m.png", labels, palette=True)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", fakes.SIZE, MaskRule(above=127)), labels > 0)


def test_background_by_its_values(tmp_path: Path) -> None:
    labels = fakes.mask(0, objects=2)
    colours = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 9]], np.uint8)[labels]
    Image.fromarray(colours).save(tmp_path / "m.ppm")
    rule = MaskRule(background=(0xFFFFFF,))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.ppm", fakes.SIZE, rule), labels > 0)
    rule = MaskRule(background=(0xFFFFFF, 0xFF0009))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.ppm", fakes.SIZE, rule), labels == 1)
    Image.fromarray(np.array([0, 90, 200], np.uint8)[labels]).save(tmp_path / "m.pgm")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.pgm", fakes.SIZE, MaskRule(background=(0, 90))), labels == 2)


def test_mask_of_another_size(tmp_path: Path) -> None:
    fakes.write_mask(tmp_path / "m.png", fakes.mask(0, (24, 40)))
    with pytest.raises(UserError, match=r"m.png is 40x24 and its frame 80x48"):
        read_mask(tmp_path / "m.png", fakes.SIZE)
    resized = read_mask(tmp_path / "m.png", fakes.SIZE, MaskRule(any_size=True))
    np.testing.assert_array_equal(resized, fakes.mask(0, (24, 40)).repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("content", [b"", b"not an image", "half"])
def test_corrupt_files_are_named(root: Path, flow: FlowStore, content: bytes | str) -> None:
    dataset = FrameDataset(davis(root, "val"), flow, PLAIN)
    mask = root / "Annotations/480p/blackswan/00001.png"
    whole = mask.read_bytes()
    mask.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    with pytest.raises(UserError, match=r"blackswan/00001.png"):
        dataset[1]
    image = root / "JPEGImages/480p/blackswan/00000.jpg"
    image.write_bytes(b"" if isinstance(content, str) else content)
    with pytest.raises(UserError, match=r"blackswan/00000.jpg"):
        dataset[0]
    mask.unlink()
    with pytest.raises(UserError, match=r"blackswan/00001.png"):
        dataset[1]


# ---------------------------------------------------------------------- flow


@pytest.mark.parametrize(("direction", "gap", "sign"), [("backward", 1, -1), ("backward", 2, -1), ("forward", 2, 1)])
def test_tta_flow_points_as_the_flow_does(tmp_path: Path, flow: FlowStore, direction: str, gap: int, sign: int) -> None:
    fakes.write_folder(tmp_path / "a", frames=4)
    [video] = videos = folder(tmp_path / "a")
    other = flow.joining(direction, gap)
    frames = FrameDataset(videos, flow, PLAIN, annotated_only=False, tta_flow=other)
    for index in range(4):
        expected = sign * PLAIN.of_flow(other.load(video, index))
        torch.testing.assert_close(frames[index]["tta_flow"], expected)
        torch.testing.assert_close(frames[index]["flow"], PLAIN.of_flow(flow.load(video, index)))


def test_neighbouring_frames_are_decoded_once(root: Path, flow: FlowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def count(path: Path) -> np.ndarray:
        read.append(path)
        return read_image(path)

    monkeypatch.setattr("maskvos.data.dataset.read_image", count)
    dataset = FrameDataset(davis(root, "val"), flow, PLAIN, tta_flow=flow.joining("backward"))
    for index in range(len(dataset)):
        dataset[index]
    assert sorted(read) == sorted(frame.image for video in dataset.videos for frame in video.frames)


def test_training_draws_the_flow_of_several_pairs_of_frames(root: Path, flow: FlowStore) -> None:
    stores = [flow, flow.joining("backward"), flow.joining("forward", 2)]
    videos = davis(root, "val")
    dataset = FrameDataset(videos, flow, PLAIN, other_flows=stores[1:])
    known = [PLAIN.of_flow(store.load(videos[0], 0)) for store in stores]
    drawn = [[torch.equal(dataset[epoch, 0]["flow"], one) for one in known].index(True) for epoch in range(40)]
    assert min(drawn.count(store) for store in range(3)) >= 5
    assert drawn == [[torch.equal(dataset[e, 0]["flow"], one) for one in known].index(True) for e in range(40)]


def test_datasets_can_be_sent_to_workers(root: Path, flow: FlowStore) -> None:
    dataset = FrameDataset(davis(root, "val"), flow, Transform((32, 48), [HorizontalFlip()]))
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[(3, 2)]["rgb"], dataset[(3, 2)]["rgb"])


def test_a_pasted_object_brings_its_colours_and_its_motion(root: Path, flow: FlowStore) -> None:
    videos = davis(root, hold_out=())
    alone = FrameDataset(videos, flow, PLAIN)
    pasted = FrameDataset(videos, flow, PLAIN, paste=1.0)
    sources = [alone[index] for index in range(len(alone))]
    changed_any = False
    for index, before in enumerate(sources):
        sample = pasted[index]
        changed = (sample["rgb"] != before["rgb"]).any(0)
        changed_any |= bool(changed.any())
        assert (sample["mask"] >= before["mask"]).all()
        # Nothing changes but the object and, of its blended outline, one pixel around it.
        outlines = (torch.nn.functional.max_pool2d(source["mask"], 3, 1, 1)[0] > 0 for source in sources)
        assert any(not (changed & ~outline).any() for outline in outlines)
        outside = ~changed & (sample["mask"][0] == 0)
        torch.testing.assert_close(sample["flow"][:, outside], before["flow"][:, outside])
    assert changed_any


def test_pasting_is_reproducible_and_has_the_given_probability(root: Path, flow: FlowStore) -> None:
    videos = davis(root, hold_out=())
    one, two = (FrameDataset(videos, flow, PLAIN, seed=3, paste=0.5) for _ in range(2))
    alone = FrameDataset(videos, flow, PLAIN, seed=3)
    count = 0
    for epoch in range(4):
        for index in range(len(one)):
            torch.testing.assert_close(one[epoch, index]["rgb"], two[epoch, index]["rgb"])
            count += not torch.equal(one[epoch, index]["rgb"], alone[epoch, index]["rgb"])
    share = count / (4 * len(one))
    assert 0.2 < share < 0.8

"""Contract of all datasets: each config in conf/data lists a small dataset of its layout on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import configs
import fakes
from maskvos.data.datamodule import VideoDataModule
from maskvos.data.dataset import FrameDataset, read_mask
from maskvos.data.transforms import Transform
from maskvos.errors import UserError
from maskvos.media.images import read_image
from maskvos.types import Video

NAMES = configs.members("data")
SPLITS = ("train", "val", "test")

ON_DISK = sorted(set(NAMES) - {"synthetic"})
MIXED = [name for name in NAMES if configs.load("data", name).weights]

# Datasets whose masks are known exactly: no half-size masks and no static objects.
EXACT = sorted(set(NAMES) - {"synthetic", "youtube_objects", "fbms", "davis_fbms", "davis_pictures", "davis_synthetic"})


def load(name: str, root: Path, **changes: object) -> DictConfig:
    """The data node with the groups that it refers to, so that everything in it resolves."""
    small = {"num_workers": 0, "batch_size": 2, "size": [32, 48]}
    return OmegaConf.create(
        {
            "paths": {"data": str(root)},
            "flow": configs.load("flow", "dis"),
            "augment": configs.load("augment", "standard"),
            "input": None,
            "seed": 0,
            "data": OmegaConf.merge(configs.load("data", name), small, changes),
        }
    )


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A fake of each dataset, written once."""
    made = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    for name, path in made.items():
        root = load(name, path).data.root
        if root is not None:
            fakes.WRITERS[name](Path(root))
    return made


@pytest.fixture
def own_tree(name: str, trees: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the fake dataset that the test may modify."""
    return Path(shutil.copytree(trees[name], tmp_path / "own"))


@pytest.fixture
def module(name: str, trees: dict[str, Path]) -> VideoDataModule:
    return build(name, trees[name])


def build(name: str, place: Path) -> VideoDataModule:
    cfg = load(name, place)
    if name == "synthetic":
        for split in SPLITS:
            cfg.data[split].update(clips=2, frames=3)
    elif name in ("davis_synthetic", "davis_pictures"):
        cfg.data.train.parts[1].update(clips=2, frames=3, size=[32, 48])
    return hydra.utils.instantiate(cfg.data)


def splits(module: VideoDataModule) -> dict[str, list[Video]]:
    return {split: module.videos(split) for split in SPLITS if module.sources[split] is not None}


def test_every_member_has_a_fake() -> None:
    assert sorted(fakes.WRITERS) == NAMES, "add a fake of the new dataset to tests/fakes.py"


def test_videos_exist_on_disk_and_are_matched_by_name(module: VideoDataModule, name: str) -> None:
    found = splits(module)
    assert found
    for split, videos in found.items():
        assert videos, split
        assert sum(len(video.annotated) for video in videos) > 0
        for video in videos:
            assert video.dataset
            for frame in video.frames:
                assert frame.image.is_file()
                assert frame.image.stem == frame.name
                for other in (frame.mask, frame.flow):
                    assert other is None or other.is_file()
            names = [frame.name for frame in video.frames]
            assert names == sorted(names)


def test_splits_are_disjoint(module: VideoDataModule) -> None:
    images = [{frame.image for video in videos for frame in video.frames} for videos in splits(module).values()]
    for index, one in enumerate(images):
        for other in images[index + 1 :]:
            assert not one & other


def test_masks_have_foreground_and_the_size_of_their_frames(module: VideoDataModule, name: str) -> None:
    for videos in splits(module).values():
        for video in videos:
            for index, frame in enumerate(video.frames):
                if frame.mask is None:
                    continue
                size = read_image(frame.image).shape[:2]
                mask = read_mask(frame.mask, size, video.masks)
                assert mask.shape == size
                assert 0 < mask.mean() < 1
                if name in EXACT:
                    number = int("".join(filter(str.isdigit, frame.name))[-3:]) if len(video.frames) > 1 else None
                    if number is not None:
                        np.testing.assert_array_equal(mask, fakes.mask(number) > 0, err_msg=f"{frame.mask} {index}")


def test_loaders_of_all_splits_yield_batches(module: VideoDataModule) -> None:
    if module.sources["train"] is not None:
        module.setup("fit")
        batch = next(iter(module.train_dataloader()))
        assert batch["rgb"].shape[1:] == (3, 32, 48)
        assert batch["flow"].shape[1:] == (2, 32, 48)
        assert batch["mask"].shape[1:] == (1, 32, 48)
        assert torch.isfinite(batch["flow"]).all()
    for split in ("val", "test"):
        if module.sources[split] is not None:
            module.setup({"val": "validate", "test": "test"}[split])
            batch = next(iter(getattr(module, f"{split}_dataloader")()))
            assert batch["truth"][0].shape == batch["size"][0]


@pytest.mark.parametrize("name", ON_DISK, indirect=True)
def test_missing_root_is_reported_with_the_expected_layout(name: str, tmp_path: Path) -> None:
    cfg = load(name, tmp_path / "nowhere")
    module = hydra.utils.instantiate(cfg.data)
    for split in SPLITS:
        if module.sources[split] is not None:
            with pytest.raises(UserError, match=r"no folder '.*' under .*nowhere.*; expected .*README#datasets"):
                module.videos(split)


@pytest.mark.parametrize("name", ON_DISK, indirect=True)
def test_missing_frame_is_reported_with_its_path(name: str, own_tree: Path) -> None:
    split, videos = next(iter(splits(build(name, own_tree)).items()))
    frame = next(frame for video in videos for frame in video.frames if frame.mask is not None)
    frame.image.unlink()
    with pytest.raises(UserError) as error:
        build(name, own_tree).videos(split)
    assert str(frame.mask) in str(error.value) or str(frame.image) in str(error.value) or (
        str(frame.image.parent) in str(error.value)
    )  # fmt: skip


@pytest.mark.parametrize("name", ON_DISK, indirect=True)
def test_listing_opens_no_image(name: str, own_tree: Path) -> None:
    if name == "davis_pictures":
        pytest.skip("changed pictures are animated again")
    before = splits(build(name, own_tree))
    for path in own_tree.rglob("*"):
        if path.suffix in (".jpg", ".png", ".ppm", ".pgm"):
            path.write_bytes(b"")
    assert splits(build(name, own_tree)) == before


@pytest.mark.parametrize("name", MIXED, indirect=True)
def test_mixtures_contain_the_datasets_in_their_weights(module: VideoDataModule) -> None:
    assert {video.dataset for video in module.videos("train")} == set(module.weights)


def test_frames_without_annotation_are_not_in_the_evaluation(module: VideoDataModule) -> None:
    for videos in splits(module).values():
        dataset = FrameDataset(videos, module.flow, Transform((32, 48)))
        assert len(dataset) == sum(len(video.annotated) for video in videos)

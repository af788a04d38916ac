"""Moving pictures: exact flow, masks that follow the picture, the dataset on disk, invalid settings."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

import fakes
from maskvos.data.datasets.image_saliency import image_saliency
from maskvos.errors import UserError
from maskvos.media.images import read_image
from maskvos.synthetic import pictures
from maskvos.synthetic.pictures import animate, moving_pictures


def picture(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture, and an ellipse in its middle as the object."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    mask = cv2.ellipse(np.zeros((height, width), np.uint8), ((width / 2, height / 2), (50, 70), 20), 1, -1)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), mask > 0


@pytest.mark.parametrize("shape", [(120, 200), (200, 120)])
@pytest.mark.parametrize("seed", range(6))
def test_flow_maps_each_frame_onto_the_next(shape: tuple[int, int], seed: int) -> None:
    size = (96, 160)
    clip = animate(*picture(*shape), np.random.default_rng(seed), 3, size)
    assert clip.rgb.shape == (3, *size, 3)
    assert set(np.unique(clip.mask)) == {0, 1}
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    for t in range(2):
        there = x + clip.flow[t, ..., 0], y + clip.flow[t, ..., 1]
        inside = (there[0] > 8) & (there[0] < size[1] - 9) & (there[1] > 8) & (there[1] < size[0] - 9)
        inside &= (x > 8) & (x < size[1] - 9) & (y > 8) & (y < size[0] - 9)
        for images, tolerance in ((clip.rgb.astype(np.float32), 6), (clip.mask.astype(np.float32) * 255, 12)):
            warped = cv2.remap(images[t + 1], *there, cv2.INTER_LINEAR)
            error = np.abs(warped - images[t])[inside].mean()
            still = np.abs(images[t + 1] - images[t])[inside].mean()
            assert error < tolerance
            assert error < 0.7 * still or still < 2


def test_objects_move_differently_from_their_background_or_rest() -> None:
    moves = []
    for seed in range(40):
        clip = animate(*picture(120, 200), np.random.default_rng(seed), 1 + 1, (96, 160))
        mask = clip.mask[0] > 0
        core = cv2.erode(clip.mask[0], np.ones((9, 9), np.uint8)) > 0
        ring = (cv2.dilate(clip.mask[0], np.ones((15, 15), np.uint8)) > 0) & ~mask
        moves.append(np.linalg.norm(clip.flow[0][core].mean(0) - clip.flow[0][ring].mean(0)))
    assert np.mean(np.array(moves) > 0.5) > 0.4
    assert np.mean(np.array(moves) < 0.3) > 0.1


def test_the_dataset_is_reused_only_for_equal_settings_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.write_duts(tmp_path)
    made = []
    real = pictures.animate
    monkeypatch.setattr(pictures, "animate", lambda *a: made.append(a) or real(*a))
    source = partial(image_saliency, tmp_path)
    make = partial(moving_pictures, root=tmp_path / "clips", clips=2, frames=3, size=(32, 48), name="moving")
    videos = make([source])
    assert len(made) == len(videos) == 12  # six pictures
    assert {video.dataset for video in videos} == {"moving"}
    for video in videos:
        assert len(video.frames) == 3
        for frame in video.frames:
            assert frame.flow is None
            assert frame.mask is not None
            assert read_image(frame.image).shape == (32, 48, 3)
            assert cv2.imread(str(frame.mask), cv2.IMREAD_UNCHANGED).shape == (32, 48)
    assert make([source]) == videos
    assert len(made) == 12
    assert not {v.frames[0].image for v in make([source], seed=1)} & {v.frames[0].image for v in videos}
    assert len(made) == 24


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"clips": 0}, "clips=0"), ({"frames": 0}, "frames=0"), ({"seed": -1}, "seed=-1"), ({"size": (0, 4)}, "pixel")],
)
def test_invalid_settings_are_rejected(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        moving_pictures([list], tmp_path, **settings)


def test_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no picture with a mask"):
        moving_pictures([list], tmp_path)

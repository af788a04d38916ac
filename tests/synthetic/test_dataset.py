"""The dataset of procedural clips on disk: content, reuse, failed writes, invalid settings."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from maskvos.errors import UserError
from maskvos.flow.codec import read_flow
from maskvos.synthetic import dataset
from maskvos.synthetic.clips import generate_clip
from maskvos.synthetic.dataset import clip_seed, synthetic


def test_the_dataset_holds_the_generated_clips(tmp_path: Path) -> None:
    videos = synthetic(tmp_path, clips=2, frames=3, size=(48, 64), seed=1, split="val", image_format="png")
    assert [video.name for video in videos] == ["val-00000", "val-00001"]
    for index, video in enumerate(videos):
        clip = generate_clip(clip_seed(1, "val", index), 3, (48, 64))
        assert [frame.name for frame in video.frames] == ["00000", "00001", "00002"]
        for t, frame in enumerate(video.frames):
            assert frame.mask is not None
            assert frame.flow is not None
            rgb = cv2.cvtColor(cv2.imread(str(frame.image)), cv2.COLOR_BGR2RGB)
            np.testing.assert_array_equal(rgb, clip.rgb[t])
            np.testing.assert_array_equal(cv2.imread(str(frame.mask), cv2.IMREAD_UNCHANGED), clip.mask[t] * 255)
            np.testing.assert_array_equal(read_flow(frame.flow), clip.flow[t])


def test_the_dataset_is_reused_only_for_equal_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = dataset.generate_clip
    monkeypatch.setattr(dataset, "generate_clip", lambda *a, **k: made.append(a) or real(*a, **k))
    first = synthetic(tmp_path, clips=2, frames=2, size=(32, 48))
    assert len(made) == 2
    assert synthetic(tmp_path, clips=2, frames=2, size=(32, 48)) == first
    assert len(made) == 2
    for other in ({"split": "val"}, {"seed": 9}, {"frames": 3}, {"style": {"noise": 0.0}}):
        videos = synthetic(tmp_path, **{"clips": 2, "frames": 2, "size": (32, 48), **other})
        assert not {f.image for v in videos for f in v.frames} & {f.image for v in first for f in v.frames}
    assert len(made) == 10


def test_splits_and_seeds_share_no_clip() -> None:
    seeds = {clip_seed(s, split, i) for s in range(3) for split in dataset.SPLITS for i in range(5)}
    assert len(seeds) == 45
    pictures = {generate_clip(seed, 1, (32, 32)).rgb.tobytes() for seed in sorted(seeds)}
    assert len(pictures) == 45


def test_a_failed_write_leaves_no_files_and_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = dataset.write_flow, []

    def full(path: Path, flow: np.ndarray) -> None:
        calls.append(path)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        real(path, flow)

    monkeypatch.setattr(dataset, "write_flow", full)
    with pytest.raises(UserError, match="No space left"):
        synthetic(tmp_path, clips=3, frames=2, size=(32, 48))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(dataset, "write_flow", real)
    assert len(synthetic(tmp_path, clips=3, frames=2, size=(32, 48))) == 3
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "trian"}, "did you mean 'train'"),
        ({"clips": 0}, "at least one clip"),
        ({"frames": 0}, "at least 1 frame"),
        ({"size": (8, 64)}, "16x16"),
        ({"seed": -1}, "seed of 0 or more"),
        ({"style": {"nois": 1}}, "did you mean 'noise'"),
        ({"style": {"noise": 2}}, "noise=2"),
        ({"style": {"area": [0, 0.5]}}, "area="),
        ({"style": {"speed": [0.5, 0.1]}}, "speed="),
        ({"style": {"objects": 0}}, "of at least 1"),
        ({"image_format": "bmp"}, "'jpg' or 'png'"),
    ],
)
def test_invalid_settings_are_rejected(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        synthetic(tmp_path, **{"clips": 1, "frames": 2, "size": (32, 48), **settings})
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_is_a_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder"):
        synthetic(tmp_path / "file", clips=1, frames=1, size=(32, 48))

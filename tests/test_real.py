"""End-to-end tests on real video: training, test and prediction on DAVIS-2016 at native resolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig

from maskvos.data.datasets.davis import davis
from maskvos.media.images import read_image
from maskvos.media.video import VideoWriter, probe
from maskvos.run import compose, run

pytestmark = pytest.mark.shared

SEQUENCES = ["libby", "dog"]
QUIET = ["trainer.enable_progress_bar=false", "callbacks.progress=null", "data.num_workers=0"]


@pytest.fixture(scope="module")
def root(shared: Path) -> Path:
    folder = shared / "data" / "DAVIS"
    if not folder.is_dir():
        pytest.skip(f"no DAVIS under {shared / 'data'}")
    return folder


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DictConfig, dict[str, float]]:
    """A few training steps of the tiny network on the DAVIS-2016 train split."""
    few = ["trainer=smoke", "trainer.max_epochs=1", "trainer.limit_val_batches=2"]
    tiny = ["backbone=tiny", "model=maskvos_tiny", "data.size=[96,160]", "data.batch_size=2"]
    overrides = [f"paths.data={root.parent}", *tiny, *few, *QUIET]
    cfg = compose(overrides, tmp_path_factory.mktemp("real"))
    return cfg, run(cfg)


def with_checkpoint(trained, folder: Path, *overrides: str) -> DictConfig:
    cfg = trained[0]
    last = f"ckpt_path={Path(cfg.paths.run) / 'checkpoints' / 'last.ckpt'}"
    return compose(["trainer=cpu", f"paths.data={cfg.paths.data}", *QUIET, last, *overrides], folder)


def test_trains_on_the_train_split(trained) -> None:
    assert 0 < trained[1]["train/loss"] < 2


@pytest.mark.slow
def test_tests_at_native_resolution_with_the_davis_protocol(trained, tmp_path: Path) -> None:
    metrics = run(with_checkpoint(trained, tmp_path, "task=test", f"+data.test.sequences=[{SEQUENCES[0]}]"))
    rows = (tmp_path / "test" / "frames.csv").read_text().splitlines()
    assert 0 <= metrics["test/j"] <= 1
    # The first and last frame are predicted but not scored.
    assert sum("first" in row or "last" in row for row in rows[1:]) == 2


def test_predicts_a_folder_of_frames(trained, root: Path, tmp_path: Path) -> None:
    frames = tmp_path / SEQUENCES[1]
    frames.mkdir()
    for source in sorted((root / "JPEGImages" / "480p" / SEQUENCES[1]).glob("*.jpg"))[:6]:
        (frames / source.name).symlink_to(source)
    places, kinds = (f"input={frames}", f"output={tmp_path / 'out'}"), "writer.kinds=[masks,soft,overlay,cutout]"
    run(with_checkpoint(trained, tmp_path / "run", "task=predict", *places, kinds))
    out = tmp_path / "out" / SEQUENCES[1]
    for kind in ("masks", "soft", "cutout"):
        written = sorted((out / kind).glob("*.png"))
        assert [path.stem for path in written] == [f"{i:05d}" for i in range(6)]
        assert read_image(written[0]).shape[:2] == (480, 854)
    info = probe(out / "overlay.mp4")
    assert (info.width, info.height) == (854, 480)


def test_predicts_a_movie(trained, root: Path, tmp_path: Path) -> None:
    (video,) = davis(root, "val", sequences=[SEQUENCES[1]])
    with VideoWriter(tmp_path / "clip.mp4", fps=24) as writer:
        for frame in video.frames[:6]:
            writer.write(read_image(frame.image))
    clip, out = f"input={tmp_path / 'clip.mp4'}", f"output={tmp_path / 'out'}"
    run(with_checkpoint(trained, tmp_path / "run", "task=predict", clip, out))
    masks = sorted((tmp_path / "out").rglob("masks/*.png"))
    assert len(masks) == 6
    assert set(np.unique(read_image(masks[0]))) <= {0, 255}

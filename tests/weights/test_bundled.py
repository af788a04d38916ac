"""The bundled weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import maskvos
from maskvos.data.datasets.davis import davis
from maskvos.errors import UserError
from maskvos.media.images import read_image
from maskvos.metrics.functional import jaccard
from maskvos.metrics.reading import read_truth
from maskvos.run import compose, run
from maskvos.synthetic.clips import generate_clip
from maskvos.synthetic.dataset import synthetic
from maskvos.types import Video
from maskvos.weights import bundled


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of bundled weights with one file, ``light``."""
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    bundled.write(tmp_path / "light.safetensors", {"a": torch.rand(3)}, {"version": "1", "scores": {"j": 0.5}})
    return tmp_path


def test_weights_are_written_in_half_precision_with_metadata(tmp_path: Path) -> None:
    weight, count = torch.randn(4, 5), torch.tensor(70_000)
    bundled.write(tmp_path / "x.safetensors", {"weight": weight.T, "count": count}, {"command": "make it"})
    read = load_file(tmp_path / "x.safetensors")
    torch.testing.assert_close(read["weight"].float(), weight.T, atol=1e-3, rtol=1e-3)
    assert read["weight"].dtype == torch.float16
    assert read["count"] == count


def test_the_metadata_can_be_read(folder: Path) -> None:
    assert bundled.about("light") == {"version": "1", "scores": '{"j": 0.5}'}
    with pytest.raises(UserError, match="no bundled weights are named 'heavy'; available: light"):
        bundled.about("heavy")


def test_weights_that_overflow_half_precision_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weight overflows half precision"):
        bundled.write(tmp_path / "x.safetensors", {"weight": torch.tensor([1e6])}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", bundled.names())
def test_the_bundled_weights_are_small_and_say_how_they_were_made(name: str) -> None:
    path = bundled.FOLDER / f"{name}.safetensors"
    assert path.stat().st_size <= 30e6
    tensors = load_file(path)
    assert sum(tensor.numel() for tensor in tensors.values()) <= 15e6
    assert {"version", "commit", "command", "config"} <= bundled.about(name).keys()


def region(video: Video, output: Path) -> float:
    """Mean J of the masks that were written for a video."""
    masks = [read_image(output / video.name / "masks" / f"{frame.name}.png")[..., 0] > 127 for frame in video.frames]
    truths = [read_truth(frame.mask, video.masks) != 0 for frame in video.frames if frame.mask is not None]
    return float(np.mean([jaccard(mask, truth) for mask, truth in zip(masks, truths, strict=True)]))


def segment(source: Path, output: Path) -> dict[str, float]:
    quiet = ("trainer.enable_progress_bar=false", "trainer=cpu")
    return run(compose(["task=predict", f"input={source}", f"output={output}", "writer.kinds=[masks]", *quiet], output))


def test_a_moving_object_is_found_without_naming_a_checkpoint(tmp_path: Path) -> None:
    style = {"objects": 1, "area": [0.08, 0.2], "speed": [0.02, 0.03], "occluders": 0, "stop": 0, "leave": 0}
    (video,) = synthetic(tmp_path / "clips", split="test", clips=1, frames=8, size=(224, 384), style=style, seed=5)
    metrics = segment(video.frames[0].image.parent, tmp_path / "out")
    assert metrics["predict/frames_per_second"] > 0
    assert region(video, tmp_path / "out") > 0.7
    assert segment(video.frames[0].image.parent, tmp_path / "out")["predict/skipped"] == 1


def test_the_bundled_onnx_file_has_the_same_weights() -> None:
    clip = generate_clip((5,), 3, (224, 384)).rgb
    torch_masks = maskvos.load(device="cpu", backend="torch")(clip) > 0.5
    exported = maskvos.load(device="cpu", backend="onnx")
    assert torch_masks.any()
    assert (torch_masks == (exported(clip) > 0.5)).mean() > 0.999


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("sequence", ["blackswan", "car-roundabout"])
def test_the_object_of_real_unseen_videos_is_found(shared: Path, tmp_path: Path, sequence: str) -> None:
    (video,) = davis(shared / "data/DAVIS", "val", sequences=[sequence])
    segment(video.frames[0].image.parent, tmp_path / "out")
    assert region(video, tmp_path / "out") > 0.5

"""The bundled weights."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchvision.models.optical_flow import raft_small

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
from maskvos.weights.config import InferenceConfig, read_config, without_pretrained


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


@pytest.mark.parametrize("name", bundled.names())
def test_bundled_weights_are_used_as_their_experiment_says(name: str) -> None:
    found = InferenceConfig.from_config(read_config(bundled.find(name) or Path()) or {})
    own = compose([f"+experiment={name}"])
    assert (found.name, list(found.size), found.tta, found.refine) == (name, own.data.size, own.tta, own.refine)
    assert found.flow["estimator"] == own.flow.estimator


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


@pytest.fixture(scope="module")
def raft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of RAFT's weights, random ones."""
    path = tmp_path_factory.mktemp("raft") / "raft.pth"
    torch.manual_seed(0)
    torch.save(raft_small().state_dict(), path)
    return path


@pytest.mark.parametrize("name", bundled.names())
def test_the_bundled_onnx_file_has_the_same_weights(name: str, raft: Path) -> None:
    clip = generate_clip((5,), 3, (224, 384)).rgb
    weights = raft if name == "light_raft" else None
    torch_masks = maskvos.load(name, device="cpu", backend="torch", raft=weights)(clip) > 0.5
    exported = maskvos.load(name, device="cpu", backend="onnx", raft=weights)
    assert torch_masks.any()
    assert (torch_masks == (exported(clip) > 0.5)).mean() > 0.999


def test_flow_by_raft_needs_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "maskvos.flow.raft")
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", None)
    with pytest.raises(
        UserError, match=r"light_raft\.safetensors: .*RAFT' needs the package 'torchvision'.*pip install"
    ):
        maskvos.load("light_raft")


def test_the_bundled_configurations_name_no_file() -> None:
    for name in bundled.names():
        config = read_config(bundled.FOLDER / f"{name}.safetensors") or {}
        assert without_pretrained(config["model"]) == config["model"]
        assert config["flow"].get("cache") is None
        assert config["flow"]["estimator"].get("weights", "default") == "default"


def test_light_free_was_trained_on_procedural_clips_alone() -> None:
    data = (read_config(bundled.FOLDER / "light_free.safetensors") or {})["data"]
    assert data["train"]["_target_"] == "maskvos.synthetic.dataset.synthetic"


def test_weights_of_raft_are_missed_before_the_work_starts(
    raft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"flow\.estimator\.weights=.*lost\.pth: cannot be read"):
        maskvos.load("light_raft", raft=tmp_path / "lost.pth")
    with pytest.raises(UserError, match=r"raft=.*raft\.pth: light\.safetensors .* another kind; leave it out"):
        maskvos.load("light", raft=raft)

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(UserError, match=r"could not be downloaded .*no network.*save that file as .*raft_small"):
        maskvos.load("light_raft")


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("sequence", ["blackswan", "car-roundabout"])
@pytest.mark.parametrize("name", bundled.names())
def test_the_object_of_real_unseen_videos_is_found(shared: Path, tmp_path: Path, name: str, sequence: str) -> None:
    (video,) = davis(shared / "data/DAVIS", "val", sequences=[sequence])
    model = maskvos.load(name, raft=shared / "weights/raft-small.pth" if name == "light_raft" else None)
    maskvos.segment(video.frames[0].image.parent, tmp_path / "out", model=model, kinds=["masks"], progress=False)
    assert region(video, tmp_path / "out") > 0.5

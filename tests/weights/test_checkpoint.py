"""Checkpoints on their own: the configuration they carry, what may be built from it, and how they are found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from maskvos.errors import UserError
from maskvos.weights import bundled
from maskvos.weights.checkpoint import load_network
from maskvos.weights.config import InferenceConfig, find_checkpoint, migrate, read_config

TINY = {"_target_": "maskvos.models.backbones.tiny.Tiny", "pretrained": True}
FLOW = {"_target_": "maskvos.flow.store.FlowStore", "estimator": {"_target_": "maskvos.flow.dis.DIS"}, "cache": "/x"}


def config(**model: Any) -> InferenceConfig:
    return InferenceConfig(model={"rgb_encoder": dict(TINY), **model}, size=[32, 48], flow=FLOW)


def test_bundled_weights_carry_their_configuration() -> None:
    path = bundled.find("light")
    assert path is not None
    found = InferenceConfig.from_config(read_config(path) or {}).check("light")
    assert list(found.size) == [256, 448]
    assert found.tta == {"mirror": False, "flow": None}
    assert found.flow["estimator"]["max_size"] == 448
    network = load_network(path, found.model)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(5.61e6, rel=0.01)
    assert not network.training


def test_settings_of_version_0_1_are_renamed() -> None:
    old = {
        "mirror": True,
        "data": {"size": [8, 8], "second_look": {"direction": "backward", "gap": 1}},
        "train": {"checkpointing": True},
    }
    new = migrate(old)
    assert new["tta"] == {"mirror": True, "flow": {"direction": "backward", "gap": 1}}
    assert new["train"] == {"activation_checkpointing": True}
    assert "mirror" not in new
    assert "second_look" not in new["data"]
    assert migrate(new) == new
    assert old["data"]["second_look"]  # unchanged


def test_heads_of_earlier_versions_are_padded_with_zeros() -> None:
    head = {"_target_": "maskvos.models.head.SegFormerHead", "width": 64}
    assert migrate({"model": {"head": head, "shared": False}})["model"] == {
        "head": {**head, "padding": "zeros"},
        "shared": False,
    }
    replicated = {"model": {"head": {**head, "padding": "replicate"}}}
    assert migrate(replicated)["model"] == replicated["model"]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "maskvos.media.files.os.system",
        "maskvos.models.network.copy.deepcopy",
        "maskvos.models.state_dict.read_checkpoint",
        "maskvos.media.video.VideoWriter",
        "maskvos.flow.store.write_bytes",
        "maskvos.modelsevil.X",
        "torch.hub.load",
        ["os.system"],
        None,
    ],
)
@pytest.mark.parametrize("place", ["model", "flow"])
def test_nothing_but_networks_and_flow_is_built_from_a_file(target: Any, place: str) -> None:
    hostile = {"_target_": target, "command": "touch hacked"}
    flow = {**FLOW, "estimator": hostile}
    made = config(head=[hostile]) if place == "model" else InferenceConfig({}, [8, 8], flow)
    with pytest.raises(UserError, match=r"x\.ckpt: .*(refused.*trust=|cannot be imported)"):
        made.check("x.ckpt")


def test_pretrained_weights_and_flow_cache_of_a_file_are_ignored() -> None:
    found = config().check("x.ckpt")
    assert found.model["rgb_encoder"]["pretrained"] is False
    assert "cache" not in found.flow


def test_a_trusted_package_may_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_package.py").write_text("class Head:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    made = config(head={"_target_": "my_package.Head"})
    with pytest.raises(UserError, match=r"trust=\[<package>\]"):
        made.check("x.ckpt")
    assert made.check("x.ckpt", ["my_package"]).model["head"]["_target_"] == "my_package.Head"


def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import maskvos

    monkeypatch.chdir(tmp_path)
    model = {"_target_": "os.system", "command": "touch hacked"}
    full = {"model": model, "data": {"size": [8, 8]}, "flow": FLOW, "tta": {"mirror": False, "flow": None}}
    torch.save({"state_dict": {"a": torch.zeros(1)}, "maskvos": {"config": full}}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="refused"):
        maskvos.load(tmp_path / "x.ckpt")
    assert os.listdir(tmp_path) == ["x.ckpt"]


def test_a_plain_state_dict_has_no_configuration(tmp_path: Path) -> None:
    import maskvos

    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    assert read_config(tmp_path / "x.pth") is None
    with pytest.raises(UserError, match=r"carries no configuration.*\+experiment="):
        maskvos.load(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "about",
    [
        *(3, {"config": 3}, {"config": {"model": {}}}, {"config": "{"}),
        {"config": {"model": "swin", "data": {"size": [8, 8]}, "flow": FLOW, "tta": {"mirror": False, "flow": None}}},
        {"config": {"model": {}, "data": {"size": [8, 8]}, "flow": 1, "tta": {"mirror": False, "flow": None}}},
        {"config": {"model": {}, "data": {"size": [8, 8]}, "flow": FLOW, "tta": {"mirror": False, "flew": None}}},
    ],
)
def test_a_malformed_configuration_is_named(tmp_path: Path, about: Any) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "maskvos": about}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x\.ckpt: its configuration is not one of maskvos"):
        read_config(tmp_path / "x.ckpt")


def test_a_configuration_of_no_network_is_named(tmp_path: Path) -> None:
    import maskvos

    full = {
        "model": {"init": "default"},
        "data": {"size": [8, 8]},
        "flow": FLOW,
        "tta": {"mirror": False, "flow": None},
    }
    torch.save({"state_dict": {"a": torch.zeros(1)}, "maskvos": {"config": full}}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"^model: no _target_"):
        maskvos.load(tmp_path / "x.ckpt")


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"x\.safetensors' cannot be read"):
        read_config(tmp_path / "x.safetensors")
    for name in ("y.safetensors", "y.ckpt", "y.onnx"):
        with pytest.raises(UserError, match="no file"):
            read_config(tmp_path / name)


def test_checkpoints_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run, time in (("a", 1), ("b", 2)):
        path = tmp_path / "runs" / run / "checkpoints" / "best.ckpt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (time, time))
    find = lambda name, run="none": find_checkpoint(name, tmp_path / "runs" / run, tmp_path / "runs")  # noqa: E731
    assert find("best").parents[1].name == "b"
    assert find("best", "a").parents[1].name == "a"
    os.utime(tmp_path / "runs" / "a" / "checkpoints" / "best.ckpt", (2**32, 2**32))
    assert find("best").parents[1].name == "b"  # not the one from the future
    assert find("light") == bundled.find("light")
    assert find("some/x.ckpt") == Path("some/x.ckpt")
    with pytest.raises(UserError, match=r"ckpt_path=bset: .*did you mean 'best'"):
        find("bset")
    # A file of the user's own comes first, a folder does not count.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "light").mkdir()
    assert find("light") == bundled.find("light")
    (tmp_path / "best").touch()
    assert find("best") == Path("best")

"""The scripts that train the bundled weights and measure the ablations."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchvision.models.optical_flow import raft_small

import fakes
from maskvos.build import build
from maskvos.errors import UserError
from maskvos.models.backbones.tiny import Tiny
from maskvos.models.saliency import U2NetP
from maskvos.run import compose
from maskvos.synthetic.style import Style

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def call(script: str, *options: str | Path) -> str:
    """Run a script with a tiny network and little data; returns its output."""
    small = (
        "backbone=tiny",
        "model=maskvos_tiny",
        "model/fusion=concat",
        "data.size=[32,48]",
        "data.batch_size=2",
        "data.num_workers=0",
    )
    clips = ("data.train.parts.1.clips=2", "data.train.parts.1.frames=3", "data.train.parts.1.size=[32,48]")
    quiet = ("callbacks.progress=null", "trainer.enable_progress_bar=false", "trainer=cpu", "protocol=all_frames")
    process = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *map(str, options), *small, *clips, *quiet],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout + process.stderr


def test_settings_of_the_released_trainings_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    release = importlib.import_module("release_light")
    files = {name: Path(f"{name}.pth") for name in ("encoder", "raft", "saliency")}
    options = argparse.Namespace(output=Path("out"), data=Path("data"), settings=["data.batch_size=2"], **files)
    composed = [compose(release.command(number, options)) for number in release.TRAININGS]
    before = [f"out/{number}/checkpoints/last.ckpt" for number in range(1, 12)]
    free = [None, "out/14/checkpoints/last.ckpt"]
    twelfth = "out/12/checkpoints/last.ckpt"
    starts = [None, *before[:5], "out/start.ckpt", *before[6:], before[-1], *free, twelfth, twelfth]
    assert [cfg.init_from for cfg in composed] == starts
    assert all(cfg.data.batch_size == 2 for cfg in composed)
    # Released trainings have the settings of their experiments, which are stored with the weights.
    trained = dict(zip(release.TRAININGS, composed, strict=True))
    for name, numbers in release.RELEASED.items():
        if name == "light_saliency":  # not trained
            continue
        for cfg in (trained[number] for number in numbers):
            trained_as = (f"data.size={cfg.data.size}", "flow.estimator.max_size=448") if name == "light_free" else ()
            own = compose([f"+experiment={name}", *trained_as])
            assert (cfg.name, cfg.augment, cfg.tta, cfg.optim.lr) == (name, own.augment, own.tta, own.optim.lr)
            assert (cfg.data.size, cfg.flow.estimator.max_size) == (own.data.size, own.flow.estimator.max_size)


@pytest.mark.slow
def test_settings_of_the_ablations_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS / "benchmarks")
    light = importlib.import_module("light")
    plain, *others = [
        compose(["+experiment=light_scratch", *light.SHORT, *changes, *light.TTA[""]])
        for changes in light.VARIANTS.values()
    ]
    assert all(cfg != plain for cfg in others)
    light_plain, *light_others = [
        compose(["+experiment=light", *light.SHORT, *changes, *light.TESTED.get(name, []), *light.TTA[""]])
        for name, changes in light.IMAGENET.items()
    ]
    assert all(cfg != light_plain for cfg in light_others)
    for cfg in (plain, *others):
        Style.of(cfg.data.train.parts[1].style)


def test_released_weights_are_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    release = importlib.import_module("release_light")
    first, second = (
        {"global_step": step, "state_dict": {"weight": torch.tensor([float(step), 1.0]), "batches": torch.tensor(step)}}
        for step in (3, 5)
    )
    mean = release.mean([first, second])
    assert mean["state_dict"]["weight"].tolist() == [4.0, 1.0]
    assert (mean["state_dict"]["batches"], mean["global_step"]) == (3, 3)
    assert first["state_dict"]["weight"].tolist() == [3.0, 1.0]


def test_replacing_an_encoder_by_itself_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module("replace_encoder")
    for index in range(24):
        fakes.write_frame(tmp_path / f"{index}.jpg", index)
    torch.manual_seed(1)
    old, new = (build(compose(["backbone=tiny", "model=maskvos_tiny"]).model).eval() for _ in range(2))
    assert new.rgb_encoder is not None
    new.rgb_encoder.load_state_dict(old.rgb_encoder.state_dict())
    # Without the penalty and with enough pixels, the regression of features onto themselves is exact.
    monkeypatch.setattr(module, "_RIDGE", 1e-9)
    scores = module.replace_encoder(old, new, sorted(tmp_path.glob("*.jpg")), (96, 160))
    assert min(scores) > 0.99
    rgb, flow = torch.rand(1, 3, 96, 160), torch.randn(1, 2, 96, 160)
    with torch.no_grad():
        np.testing.assert_allclose(new.segment(rgb, flow), old.segment(rgb, flow), atol=0.15)


def test_replacing_an_encoder_needs_concatenation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module("replace_encoder")
    old, new = (
        build(compose(["backbone=tiny", "model=maskvos_tiny", f"model/fusion={fusion}"]).model)
        for fusion in ("concat", "sum")
    )
    with pytest.raises(UserError, match="concat"):
        module.replace_encoder(old, new, [], (32, 48))


@pytest.mark.slow
def test_released_trainings_run_in_sequence_and_finished_ones_are_skipped(tmp_path: Path) -> None:
    fakes.write_davis_pictures(tmp_path)
    networks = {"encoder": Tiny(), "raft": raft_small(), "saliency": U2NetP()}
    files: list[str | Path] = []
    for name, network in networks.items():
        torch.save(network.state_dict(), tmp_path / f"{name}.pth")
        files += [f"--{name}", tmp_path / f"{name}.pth"]
    few = ("trainer.max_steps=2", "trainer.max_epochs=-1", "++trainer.val_check_interval=1", "data.flow_pairs=null")
    options = ("--data", tmp_path, *files, "--output", tmp_path / "out", *few)
    assert "weights of step" in call("release_light.py", *options)
    for name in ("light", "light_saliency", "light_raft", "light_free"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(tmp_path / f"out/{name}.safetensors").values())
        saliency = load_file(tmp_path / f"out/{name}.safetensors").get("saliency.side.weight")
        assert (saliency is None) == (name == "light")
        if saliency is not None:
            torch.testing.assert_close(saliency.float(), networks["saliency"].side.weight, atol=1e-3, rtol=1e-3)
    times = [path.stat().st_mtime for path in sorted((tmp_path / "out").glob("*/checkpoints/last.ckpt"))]
    assert len(times) == 17
    call("release_light.py", *options)
    assert times == [path.stat().st_mtime for path in sorted((tmp_path / "out").glob("*/checkpoints/last.ckpt"))]

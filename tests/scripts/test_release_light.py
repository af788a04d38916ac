"""The scripts that train the light model: in short jobs, and as released."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

import fakes
from maskvos.errors import UserError
from maskvos.run import compose
from maskvos.synthetic.style import Style

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_light", SCRIPTS / "train_light.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkpoint() -> dict:
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(300, 100, generator=generator) for name in ("a", "b")}
    moments = {0: {"step": torch.tensor(7.0), "exp_avg": torch.randn(300, 100, generator=generator)}}
    return {"state_dict": weights, "optimizer_states": [{"state": moments}], "global_step": 7, "epoch": 1}


def test_parts_join_to_the_checkpoint(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "PART", 50_000)
    script.write_parts(checkpoint(), tmp_path)
    parts = sorted(tmp_path.glob("checkpoint.*"))
    assert len(parts) > 2
    assert max(part.stat().st_size for part in parts) <= 50_000
    (tmp_path / "joined.ckpt").write_bytes(script.read_parts(tmp_path))
    read = script.cast(torch.load(tmp_path / "joined.ckpt", weights_only=True), torch.float32)
    original = checkpoint()
    assert (read["global_step"], read["epoch"]) == (7, 1)
    for name, weight in original["state_dict"].items():
        torch.testing.assert_close(read["state_dict"][name], weight, atol=1e-3, rtol=1e-3)
    (state,) = (optimizer["state"][0] for optimizer in read["optimizer_states"])
    assert state["step"] == 7
    torch.testing.assert_close(
        state["exp_avg"], original["optimizer_states"][0]["state"][0]["exp_avg"], atol=1e-2, rtol=1e-2
    )


@pytest.mark.parametrize("damage", ["missing part", "changed part", "missing manifest"])
def test_damaged_parts_are_refused(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(script, "PART", 50_000)
    script.write_parts(checkpoint(), tmp_path)
    if damage == "missing part":
        (tmp_path / "checkpoint.01").unlink()
    elif damage == "changed part":
        (tmp_path / "checkpoint.01").write_bytes(b"x")
    else:
        (tmp_path / script.MANIFEST).unlink()
    with pytest.raises(UserError, match=r"checkpoint\.01 is missing or damaged|no parts\.json found"):
        script.read_parts(tmp_path)


def call(script: str, data: Path, output: Path, *options: str) -> str:
    """Run a script with a tiny network and little data; returns its output."""
    small = ("backbone=tiny", "model=maskvos_tiny", "data.size=[32,48]", "data.batch_size=2", "data.num_workers=0")
    clips = ("data.train.parts.1.clips=2", "data.train.parts.1.frames=3", "data.train.parts.1.size=[32,48]")
    quiet = ("callbacks.progress=null", "trainer.enable_progress_bar=false", "trainer=cpu", "protocol=all_frames")
    process = subprocess.run(
        [
            *(sys.executable, str(SCRIPTS / script), "--data", str(data), "--output", str(output), *options),
            *(*small, *clips, *quiet),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout + process.stderr


def job(tmp_path: Path, name: str, *options: str) -> str:
    return call("train_light.py", tmp_path, tmp_path / name, "--work", str(tmp_path / "work"), *options)


def test_settings_of_the_released_trainings_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    release = importlib.import_module("release_light")
    options = argparse.Namespace(output=Path("out"), data=Path("data"), settings=["data.batch_size=2"])
    composed = [compose(release.command(number, options)) for number in release.TRAININGS]
    assert [cfg.init_from for cfg in composed] == [None, *(f"out/{n}/checkpoints/last.ckpt" for n in "12345")]
    assert all(cfg.data.batch_size == 2 for cfg in composed)
    # The last training has the settings of the experiment, which are stored with the weights.
    own = compose(["+experiment=light"])
    assert (composed[-1].augment, composed[-1].train) == (own.augment, own.train)


@pytest.mark.slow
def test_settings_of_the_ablations_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS / "benchmarks")
    light = importlib.import_module("light")
    plain, *others = [
        compose(["+experiment=light", *light.SHORT, *changes, *light.TTA[""]]) for changes in light.VARIANTS.values()
    ]
    assert all(cfg != plain for cfg in others)
    for cfg in (plain, *others):
        Style.of(cfg.data.train.parts[1].style)


@pytest.mark.slow
def test_released_trainings_run_in_sequence_and_finished_ones_are_skipped(tmp_path: Path) -> None:
    fakes.write_davis(tmp_path / "DAVIS")
    few = ("trainer.max_steps=2", "trainer.max_epochs=-1", "++trainer.val_check_interval=1", "data.flow_pairs=null")
    output = call("release_light.py", tmp_path, tmp_path / "out", *few)
    assert "weights of step" in output
    assert all(torch.isfinite(tensor).all() for tensor in load_file(tmp_path / "out/light.safetensors").values())
    times = [path.stat().st_mtime for path in sorted((tmp_path / "out").glob("*/checkpoints/last.ckpt"))]
    assert len(times) == 6
    call("release_light.py", tmp_path, tmp_path / "out", *few)
    assert times == [path.stat().st_mtime for path in sorted((tmp_path / "out").glob("*/checkpoints/last.ckpt"))]


@pytest.mark.slow
def test_second_job_resumes_the_first(tmp_path: Path) -> None:
    fakes.write_davis(tmp_path / "DAVIS")
    output = job(tmp_path, "one", "--minutes", "0.25", "trainer.max_steps=100000", "trainer.max_epochs=-1")
    assert "stopped after 0.25 minutes" in output
    first = json.loads((tmp_path / "one" / "parts.json").read_text())
    assert first
    weights = load_file(tmp_path / "one/light.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    steps = int(re.findall(r"(\d+) steps done", output)[0])
    output = job(
        tmp_path, "two", "--minutes", "5", "--resume", str(tmp_path / "one"), f"trainer.max_steps={steps + 5}",
        "trainer.max_epochs=-1",
    )  # fmt: skip
    assert "stopped after" not in output, output[-3000:]
    assert f"{steps + 5} steps done" in output, output[-3000:]

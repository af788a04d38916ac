"""The same training and the same scores however the work is shared out: batches, accumulation, processes, workers."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from maskvos.run import compose, run

# Without statistics over a batch and without dropout a step is the mean of its samples. Nine frames to score: an odd
# number, of which two processes have unlike shares.
COMMON = [
    *("+experiment=smoke", "train.freeze_norms=all", "optim=sgd", "augment=published", "trainer.max_epochs=1"),
    *("data.size=[64,96]", "data.train.clips=6", "data.train.frames=4", "data.samples_per_epoch=16"),
    *("data.val.clips=3", "data.val.frames=3", "data.test.clips=3", "data.test.frames=3"),
    *("trainer.enable_progress_bar=false", "callbacks.progress=null", "trainer.limit_train_batches=1.0"),
    *("trainer.gradient_clip_val=0.05", "data.num_workers=0", "callbacks.panels=null"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def config(data: Path, folder: Path, *overrides: str) -> DictConfig:
    return compose([*COMMON, f"paths.data={data}", *overrides], folder)


def train(data: Path, folder: Path, *overrides: str) -> dict[str, torch.Tensor]:
    run(config(data, folder, *overrides))
    return weights(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    content = torch.load(next(folder.rglob("last.ckpt")), weights_only=True)
    assert content["global_step"] == 4
    return content["state_dict"]


def validation(folder: Path) -> dict[str, float]:
    with next(folder.rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/jf")]
    return {name: float(value) for name, value in rows[-1].items() if name.startswith("val/")}


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training with batches of four in one process."""
    folder = tmp_path_factory.mktemp("whole")
    train(data, folder, "data.batch_size=4")
    return folder


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6, msg=name)


def several(data: Path, folder: Path, *overrides: str) -> None:
    """The command with two processes on the CPU."""
    processes = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
    arguments = [*COMMON, *processes, f"paths.data={data}", *overrides]
    done = subprocess.run(
        [sys.executable, "-m", "maskvos.run", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_accumulated_halves_are_the_whole_batch(whole: Path, data: Path, tmp_path: Path) -> None:
    halves = train(data, tmp_path, "data.batch_size=2", "trainer.accumulate_grad_batches=2")
    assert_same(weights(whole), halves)


def test_clipping_bounds_the_step(whole: Path, data: Path, tmp_path: Path) -> None:
    free = train(data, tmp_path, "data.batch_size=4", "trainer.gradient_clip_val=null")
    assert any(not torch.allclose(value, free[name], atol=1e-5) for name, value in weights(whole).items())


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_doubled_batch(whole: Path, data: Path, tmp_path: Path) -> None:
    several(data, tmp_path, "data.batch_size=2")
    assert_same(weights(whole), weights(tmp_path))
    assert validation(tmp_path) == pytest.approx(validation(whole), abs=1e-5)


def scores(folder: Path) -> dict[str, float]:
    return json.loads(next(folder.rglob("summary.json")).read_text())["overall"]


def test_scores_depend_on_neither_batch_nor_workers_and_are_those_that_chose(
    whole: Path, data: Path, tmp_path: Path
) -> None:
    ready = ["task=test", f"ckpt_path={whole / 'checkpoints' / 'best.ckpt'}", "data.test.split=val"]
    found = []
    for batch, workers in ((1, 0), (4, 0), (2, 2)):
        folder = tmp_path / f"{batch}_{workers}"
        run(config(data, folder, *ready, f"data.eval_batch_size={batch}", f"data.num_workers={workers}"))
        found.append(scores(folder))
    assert found[1] == pytest.approx(found[0], abs=1e-6)
    assert found[2] == pytest.approx(found[0], abs=1e-6)
    chosen = validation(whole)
    assert {f"val/{name}": found[0][name] for name in ("j", "f", "jf")} == pytest.approx(
        {name: chosen[name] for name in ("val/j", "val/f", "val/jf")}, abs=1e-6
    )


@pytest.mark.slow
def test_two_processes_score_as_one(whole: Path, data: Path, tmp_path: Path) -> None:
    ready = ["task=test", f"ckpt_path={whole / 'checkpoints' / 'best.ckpt'}"]
    run(config(data, tmp_path / "one", *ready))
    (tmp_path / "two").mkdir()
    several(data, tmp_path / "two", *ready)
    assert scores(tmp_path / "two") == pytest.approx(scores(tmp_path / "one"), abs=1e-6)

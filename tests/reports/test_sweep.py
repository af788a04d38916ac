"""Sweeps with every launcher and sweeper, and their table, including failed and unfinished runs."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import yaml
from hydra.errors import MissingConfigException

from maskvos.cli.hints import explain
from maskvos.errors import UserError
from maskvos.reports.sweep import read_jobs, write_result, write_sweep
from maskvos.run import compose, run

SMALL = [
    *("+experiment=smoke", "trainer.enable_progress_bar=false", "callbacks.progress=null", "callbacks.panels=null"),
    *("data.num_workers=0", "data.batch_size=2", "data.size=[32,64]", "trainer.max_epochs=1"),
    *("data.train.clips=3", "data.train.frames=4", "data.val.clips=1", "data.val.frames=4"),
]


def add_run(folder: Path, name: str, *overrides: str) -> Path:
    """Make the folder of a run in Hydra's layout."""
    (folder / name / ".hydra").mkdir(parents=True)
    (folder / name / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([*overrides]))
    return folder / name


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_table_has_varying_settings_scores_and_failures(tmp_path: Path) -> None:
    # More than ten runs, so that alphabetical order would be wrong.
    for number in range(11):
        folder = add_run(tmp_path, str(number), "+experiment=smoke", f"optim.lr={10.0**-number}")
        if number not in (3, 4):
            scores = {"val/jf": number / 20, "best/jf": number / 10, "train/images_per_second": 7.0, "train/loss": 1.0}
            write_result(folder, scores, seconds=2.0)
    write_result(tmp_path / "3", error="no, such\nthing")
    text = write_sweep(tmp_path)
    table = read(tmp_path)
    assert [row["run"] for row in table] == [str(number) for number in range(11)]
    assert [row["status"] for row in table[2:6]] == ["done", "failed", "unfinished", "done"]
    assert list(table[0]) == ["run", "status", "optim.lr", "best/jf", "val/jf", "images_per_second", "seconds", "error"]
    assert [float(row["best/jf"]) for row in (table[0], table[10])] == [0.0, 1.0]
    assert table[3]["error"] == "no, such\nthing"
    assert len(text.splitlines()) == 13
    assert cv2.imread(str(tmp_path / "sweep.png")) is not None


def test_nan_and_missing_settings_are_empty_cells(tmp_path: Path) -> None:
    write_result(add_run(tmp_path, "0", "a=1"), {"val/jf": float("nan")}, 1.0)
    write_result(add_run(tmp_path, "1", "a=1", "~b"), {"test/j": 0.5}, 1.0)
    write_sweep(tmp_path)
    first, second = read(tmp_path)
    assert (first["b"], first["val/jf"], second["val/jf"], second["test/j"]) == ("", "", "", "0.5")
    assert "a" not in first
    assert json.loads((tmp_path / "0" / "result.json").read_text())["metrics"]["val/jf"] is None


@pytest.mark.parametrize("count", [1, 2])
def test_a_sweep_without_scores_or_varying_settings_has_a_table(tmp_path: Path, count: int) -> None:
    for number in range(count):
        add_run(tmp_path, str(number), "a=1")
    write_sweep(tmp_path)
    assert [row["status"] for row in read(tmp_path)] == ["unfinished"] * count
    assert (tmp_path / "sweep.png").is_file()


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the folder of a sweep"):
        read_jobs(tmp_path)
    with pytest.raises(UserError, match="input="):
        run(compose(["task=sweep"], tmp_path))


@pytest.mark.parametrize("plugin", ["hydra/launcher=joblib", "hydra/sweeper=optuna", "hydra/launcher=submitit_slurm"])
def test_a_missing_plugin_is_named_with_its_install_command(plugin: str) -> None:
    group, _, name = plugin.partition("=")
    # Raised by Hydra if the plugin is not installed.
    missing = MissingConfigException("", f"{group}/{name}", ["basic"])
    assert "pip install 'maskvos[sweep]'" in explain(missing)


def sweep(data: Path, folder: Path, *overrides: str) -> tuple[subprocess.CompletedProcess[str], list[dict[str, str]]]:
    """Run a sweep on the command line; returns the process and the table."""
    places = [f"paths.data={data}", f"hydra.sweep.dir={folder}"]
    command = [sys.executable, "-m", "maskvos.run", "-m", *SMALL, *places, *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder.parent)
    return done, read(folder) if (folder / "sweep.csv").exists() else []


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_every_launcher_runs_all_jobs_and_writes_the_table(data: Path, tmp_path: Path, launcher: str) -> None:
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    folder = tmp_path / "sweep"
    done, table = sweep(data, folder, f"hydra/launcher={launcher}", "optim.lr=-1,1e-4", "logger=wandb")
    assert done.returncode == 2
    if launcher == "basic":  # the others write to places of their own
        assert ") failed: optim.lr=-1: must be" in done.stderr
    assert "Error executing job" not in done.stderr
    assert done.stderr.endswith(f"error: 1 of 2 runs failed; see {folder / 'sweep.csv'}\n")
    assert [row["status"] for row in table] == ["failed", "done"]
    assert "must be a number of at least 0" in table[0]["error"]
    assert 0 <= float(table[1]["best/jf"]) <= 1
    assert float(table[1]["images_per_second"]) > 0
    # task=sweep writes the same table from the folder alone.
    before = (folder / "sweep.csv").read_text()
    (folder / "sweep.csv").unlink()
    run(compose(["task=sweep", f"input={folder}"], tmp_path / "again"))
    assert (folder / "sweep.csv").read_text() == before


@pytest.mark.slow
def test_optuna_searches_the_learning_rate(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    done, table = sweep(data, tmp_path / "sweep", "+sweep=optuna_lr", "hydra.sweeper.n_trials=2")
    assert done.returncode == 0, done.stderr
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert best["best_value"] == pytest.approx(max(float(row["best/jf"]) for row in table))
    assert len({row["optim.lr"] for row in table}) == len(table) == 2


@pytest.mark.slow
def test_backbones_are_swept_in_order(data: Path, tmp_path: Path) -> None:
    done, table = sweep(
        data, tmp_path / "sweep", "+sweep=backbones", "backbone=tiny,resnet18", "backbone.pretrained=false"
    )
    assert done.returncode == 0, done.stderr
    assert [row["backbone"] for row in table] == ["tiny", "resnet18"]

"""Runs that fail: one answer for each, the others of a sweep run, and Hydra adds nothing of its own."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from maskvos import run
from maskvos.errors import UserError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Run the command with a task that succeeds with ``seed=0`` only, in a folder of its own."""

    def task(cfg: DictConfig) -> dict[str, float]:
        if cfg.seed == 1:
            raise UserError("optim.lr=9: diverges; lower it")
        if cfg.seed == 2:
            raise KeyError("a bug")
        if cfg.seed == 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")
        return {"best/jf": 0.5}

    def command(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["maskvos", *arguments])
        run.main()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(run, "run_task", task)
    return command


def test_each_failed_run_of_a_sweep_is_answered_once_and_the_others_run(
    command: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command("-m", "threshold=0.4", "seed=1,3,0", "hydra.sweep.dir=sweep")
    out, err = capsys.readouterr()
    assert err.count("run 0 (threshold=0.4 seed=1) failed: optim.lr=9: diverges; lower it\n") == 1
    assert "run 1 (threshold=0.4 seed=3) failed: the memory is full" in err
    assert err.count("diverges") == 1
    assert err.endswith(f"error: 2 of 3 runs failed; see {Path('sweep', 'sweep.csv')}\n")
    assert "Traceback" not in err
    assert "Error executing job" not in err
    assert "[HYDRA]" not in out + err
    with (tmp_path / "sweep" / "sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["status"] for row in table] == ["failed", "failed", "done"]
    assert table[0]["error"] == "optim.lr=9: diverges; lower it"
    assert "0.5" in out  # the table


def test_an_unexpected_error_in_a_sweep_shows_where_it_happened(
    command: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command("-m", "seed=2,0", "hydra.sweep.dir=sweep")
    err = capsys.readouterr().err
    assert "run 0 (seed=2) failed: KeyError: 'a bug'\nTraceback" in err
    assert "test_sweep.py" in err
    assert "Error executing job" not in err
    assert (tmp_path / "sweep" / "1" / "result.json").is_file()


@pytest.mark.parametrize(("seed", "error"), [(1, SystemExit), (2, KeyError), (3, SystemExit)])
def test_a_failed_run_is_answered_without_hydras_line(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str], seed: int, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        command(f"seed={seed}")
    err = capsys.readouterr().err
    assert "Error executing job" not in err
    assert err.startswith("error: ") == (error is SystemExit)


def test_batches_of_a_sweep_end_with_the_one_that_fails(command: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        command("-m", "seed=0,1,4", "hydra.sweep.dir=sweep", "hydra.sweeper.max_batch_size=2")
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == ["0", "1"]

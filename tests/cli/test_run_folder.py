"""Runs and sweeps of one name and one second have folders of their own."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from maskvos import run
from maskvos.cli.run_folder import own_folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run the command in a folder of its own, at a time that does not pass."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(time, "strftime", lambda *given: "now")

    def command(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["maskvos", *arguments])
        run.main()

    return command


REPORT = ("task=report", "runs=[]", "name=it's")  # ends at once, with an error


def test_the_second_run_of_a_second_gets_another_folder(command, tmp_path: Path) -> None:
    for _ in range(3):
        with pytest.raises(SystemExit, match="2"):
            command(*REPORT)
    runs = tmp_path / "runs" / "it's"
    assert sorted(path.name for path in runs.iterdir()) == ["now", "now_2", "now_3"]
    for path in runs.iterdir():
        assert yaml.safe_load((path / ".hydra" / "hydra.yaml").read_text())["hydra"]["runtime"]["output_dir"] == str(
            path
        )


def test_the_second_sweep_of_a_second_gets_another_folder(command, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(SystemExit, match="2"):
            command("-m", *REPORT, "seed=1,2")
    runs = tmp_path / "runs" / "it's"
    assert sorted(path.name for path in runs.iterdir()) == ["sweep_now", "sweep_now_2"]
    for path in runs.iterdir():
        assert {"0", "sweep.csv"} <= {inside.name for inside in path.iterdir()}


@pytest.mark.parametrize("given", [["hydra.run.dir=mine"], []])
def test_a_folder_that_is_named_or_shared_is_used_again(command, tmp_path: Path, monkeypatch, given: list[str]) -> None:
    if not given:  # the processes of a launch
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "7"}.items():
            monkeypatch.setenv(name, value)
    for _ in range(2):
        with pytest.raises(SystemExit, match="2"):
            command(*REPORT, *given)
    (folder,) = [path.parent for path in tmp_path.rglob(".hydra")]
    assert folder == (tmp_path / "mine" if given else tmp_path / "runs" / "it's" / "job_7")


def test_no_folder_is_given_twice(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(own_folder, [tmp_path / "runs" / "a"] * 24))
    assert len(set(folders)) == 24


def test_without_a_folder_of_runs_the_working_folder_is_taken(command, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(*REPORT, "paths.runs=")
    assert (tmp_path / "it's" / "now" / ".hydra").is_dir()

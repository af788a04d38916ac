"""What the framework's command prints, to a terminal and to a file, and what it leaves in ``runs/``."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fakes
from maskvos.cli.terminal import remove_run
from maskvos.run import main

SMALL = [
    *("data.train.clips=1", "data.train.frames=4", "data.val.clips=1", "data.val.frames=4", "data.test.clips=1"),
    *("data.test.frames=4", "data.size=[32,64]", "data.batch_size=2", "data.num_workers=0", "trainer=smoke"),
]
NOISE = re.compile(r"GPU|TPU|Tip|Trainer\(|v_num|0/\?|weights_only|Error executing|lightning", re.IGNORECASE)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f]")


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Hydra configures the root logger; give it back as it was."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if handler not in before:
            root.removeHandler(handler)
            handler.close()
    root.handlers[:], root.level = before, level


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> Callable[..., tuple[list[str], list[str]]]:
    """Run the command in an empty folder; returns the lines of stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, status: int | None = None) -> tuple[list[str], list[str]]:
        monkeypatch.setattr(sys, "argv", ["maskvos", *arguments])
        if status is None:
            main()
        else:
            with pytest.raises(SystemExit, match=str(status)):
                main()
        shown = capsys.readouterr()
        return shown.out.splitlines(), shown.err.splitlines()

    return call


def test_a_training_prints_little(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = command("+experiment=smoke", *SMALL)
    said = [line for line in err if "generating" not in line]
    assert out == []
    assert not [line for line in err if NOISE.search(line) or CONTROL.search(line)]
    assert len(said) < 10
    assert re.fullmatch(r"epoch 1/2, step 2, 0:\d\d:\d\d, loss \d\.\d{3}, J&F \d\.\d{3}", said[1])
    assert re.fullmatch(r"validation: J&F [\d.]+, J [\d.]+, F [\d.]+, loss [\d.]+", said[-3])
    assert "checkpoints/best.ckpt" in said[-2]
    assert said[-1].startswith("run: ")

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    checkpoint = said[-2].split()[2]
    out, err = command("+experiment=smoke", *SMALL)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", "\n".join(err))
    assert re.search(r"epoch 2/2, loss \d\.\d{3}, J&F \d\.\d{3} .* 4/4 steps 0:00:0\d left", shown)
    assert "/4 frames" in shown  # validation
    assert not NOISE.search(shown)
    out, err = command("task=test", f"ckpt_path={checkpoint}", "data=synthetic", "protocol=all_frames", *SMALL)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", "\n".join(err))
    assert re.search(r"testing .* 4/4 frames", shown)
    assert not NOISE.search(shown + "\n".join(out))


def test_a_prediction_with_an_output_leaves_nothing_in_runs(command, tmp_path: Path) -> None:
    fakes.write_folder(tmp_path / "clip", frames=2)
    out, err = command("input=clip", "output=out", "trainer.accelerator=cpu")
    assert err == ["input='clip': taken as task=predict, since no task was given"]
    assert len(out) < 5
    assert out[-1] == "results: out"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "out"]
    out, err = command("task=predict", "input=cilp", "output=out", status=2)
    assert (out, err) == ([], ["error: no file or folder cilp; did you mean 'clip'?"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "out"]


def test_a_run_that_others_use_stays(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a" / "1" / ".hydra").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "2").mkdir()
    remove_run(tmp_path / "runs" / "a" / "1", tmp_path / "runs")
    assert [path.name for path in (tmp_path / "runs" / "a").iterdir()] == ["2"]
    (tmp_path / "other").mkdir()
    remove_run(tmp_path / "other", tmp_path / "runs")
    assert (tmp_path / "other").is_dir()

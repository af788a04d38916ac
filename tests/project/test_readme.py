"""Every command of the README runs as written, at a small size."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from fakes import DAVIS_SPLITS, write_davis, write_fbms, write_folder, write_youtube_vos
from maskvos.cli.command import main
from maskvos.media.video import VideoWriter
from maskvos.run import compose, run
from pages import ROOT, blocks, commands

README = (ROOT / "README.md").read_text()
SMALL = [
    "trainer=smoke",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=1",
    "data.size=[64,64]",
    "data.batch_size=2",
    "data.num_workers=0",
    "flow.estimator.preset=ultrafast",
]
TINY = ["backbone=tiny", "model=maskvos_tiny"]


ALL = commands(README)
SINGLE = [command for command in ALL if "-m" not in command and not any("regnety" in part for part in command)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README's commands name."""
    folder = tmp_path_factory.mktemp("readme")
    write_davis(folder / "data" / "DAVIS")
    write_fbms(folder / "data" / "FBMS")
    write_youtube_vos(folder / "data" / "YouTube-VOS")
    write_folder(folder / "frames")
    with VideoWriter(folder / "my_clip.mp4", fps=25) as writer:
        for index in range(3):
            writer.write(np.random.default_rng(index).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    for sequence in DAVIS_SPLITS["val"]:
        shutil.copytree(folder / "data/DAVIS/Annotations/480p" / sequence, folder / "masks" / sequence)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made = folder / "runs" / "swin_t" / "made"
        run(compose(["+experiment=swin_t", "data=davis", *TINY, *SMALL], made))
        shutil.copy(made / "checkpoints" / "best.ckpt", folder / "best.ckpt")
        run(compose(["task=export", "ckpt_path=best.ckpt", "output=network.onnx"], folder / "exported"))
    return folder


@pytest.mark.parametrize("command", SINGLE, ids=" ".join)
def test_command_runs(command: list[str], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    own = [part for part in SMALL if part.split("=")[0] not in {given.split("=")[0] for given in command}]
    if any("max_epochs" in part for part in command):
        command = [re.sub(r"max_epochs=\d+", "max_epochs=2", part) for part in command]
    tasks = {"task=predict", "task=export"}
    settings = [] if tasks & set(command) else [*TINY, *own]  # a checkpoint brings its own
    metrics = run(compose([*command, *settings], tmp_path))
    if "task=predict" in command:
        assert metrics["predict/frames"] == 3
    assert isinstance(metrics, dict)


def test_the_target_in_the_readme_yaml_exists() -> None:
    (block,) = blocks(README, "yaml")
    module, _, name = yaml.safe_load(block.text)["_target_"].rpartition(".")
    assert hasattr(importlib.import_module(module), name)


def test_readme_python_runs(place: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(place)
    segment, score = blocks(README, "python")
    exec(segment.text, {})
    assert len(capsys.readouterr().out.splitlines()) >= 3
    written = sorted(path.name for path in (place / "out" / "my_clip").glob("[!.]*"))
    assert written == ["manifest.json", "masks", "overlay.mp4"]
    exec(score.text, {})
    assert "mean over sequences" in capsys.readouterr().out


def test_one_line_segments_a_clip(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(place / "my_clip.mp4", tmp_path)
    for line in re.findall(r"^maskvos .*$", README, flags=re.MULTILINE):
        monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
        main()
    assert len(list((tmp_path / "out" / "my_clip" / "masks").iterdir())) == 3
    assert (tmp_path / "cutout.webm").is_file()


def test_packages_for_segmenting_have_the_bounds_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    lines = [line for line in (ROOT / "requirements-segment.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        assert f'"{line}"' in project


def test_readme_covers_the_main_tasks() -> None:
    tasks = {part for command in ALL for part in command if part.startswith("task=")}
    assert {"task=test", "task=predict", "task=check", "task=flow", "task=evaluate"} <= tasks
    assert [command[0] for command in ALL if "-m" in command] == ["-m"]
    assert README.partition("\n# Details\n")[0].count("\n") <= 100  # two screens
    assert README.index("```python") < README.index("## Train")  # first the user's own clip


@pytest.mark.slow
def test_sweep_runs(place: Path) -> None:
    (command,) = [command for command in ALL if "-m" in command]
    small = [*SMALL, "backbone.pretrained=false"]
    done = subprocess.run([sys.executable, "-m", "maskvos.run", *command, *small], cwd=place, check=False)
    assert done.returncode == 0
    assert len(list(place.glob("runs/swin_t/sweep_*/*/checkpoints/best.ckpt"))) == 4


@pytest.mark.slow
def test_custom_backbone_trains(place: Path) -> None:
    (block,) = blocks(README, "yaml")
    name = block.file.stem
    (place / "mine" / "backbone").mkdir(parents=True)
    (place / "mine" / "backbone" / f"{name}.yaml").write_text(block.text)
    (command,) = [command for command in ALL if f"backbone={name}" in command]
    small = [*SMALL, "backbone.pretrained=false", "--config-dir", "mine"]
    done = subprocess.run([sys.executable, "-m", "maskvos.run", *command, *small], cwd=place, check=False)
    assert done.returncode == 0

"""The training benchmark runs and writes its report; its numbers are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks" / "train.py"


@pytest.mark.slow
def test_reports_step_loader_and_bottleneck(tmp_path: Path) -> None:
    model = ["backbone=tiny", "model=maskvos_tiny", "data.size=[32,64]", "data.batch_size=2", "data.num_workers=1"]
    places = [f"paths.data={tmp_path}", "data.train.clips=2", "data.train.frames=16", "trainer.accelerator=cpu"]
    counts = ["--steps", "4", "--warmup", "1", "--images", "8", "--variants", "fp32", "--output", str(tmp_path / "out")]
    command = [sys.executable, str(SCRIPT), *model, *places, *counts]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "train.json").read_text())
    figures = report["variants"]["fp32"]
    assert len(figures["loop"]) == len(figures["bare"]) >= 3
    assert figures["images_per_second"] > 0
    assert report["loader_images_per_second"] > 0
    limit = "step" if figures["images_per_second"] < report["loader_images_per_second"] else "loader"
    assert f"fp32: the {limit} is the limit" in (tmp_path / "out" / "train.md").read_text()
    assert "loop's overhead" in done.stdout

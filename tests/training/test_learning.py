"""Learning test: a ResNet-18 network trained from scratch beats two baselines on held-out real sequences."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import fakes
from maskvos.data.datasets.davis import davis

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def learning() -> ModuleType:
    spec = importlib.util.spec_from_file_location("learning", ROOT / "scripts" / "benchmarks" / "learning.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_thinned_videos_keep_all_frames(learning: ModuleType, tmp_path: Path) -> None:
    fakes.write_davis(tmp_path)
    videos = davis(tmp_path, "val")
    for full, thin in zip(videos, learning.thin(videos, 3), strict=True):
        assert [frame.image for frame in thin.frames] == [frame.image for frame in full.frames]
        assert [frame.name for frame in thin.annotated] == [full.frames[1].name]


def test_the_flow_baseline_selects_the_largest_moving_region(learning: ModuleType) -> None:
    flow = np.full((40, 60, 2), (3.0, -1.0), np.float32)
    flow[10:20, 20:40] += (4, 2)
    flow[30:33, 2:5] += (4, 2)  # smaller
    expected = np.zeros((40, 60), bool)
    expected[10:20, 20:40] = True
    assert np.array_equal(learning.flow_magnitude(flow), expected)
    assert not learning.flow_magnitude(np.zeros((4, 5, 2), np.float32)).any()


@pytest.mark.slow
@pytest.mark.shared
def test_training_loss_falls_and_validation_beats_both_baselines(learning: ModuleType, shared: Path) -> None:
    table = learning.learn(shared / "data" / "DAVIS", (96, 160), epochs=8, every=6, rate=1e-3)
    rows = [line.split() for line in table.splitlines()[2:]]
    scores = [float(row[-1]) for row in rows]
    losses = [float(row[-2]) for row in rows[2:]]
    constant, magnitude, *network = scores
    assert losses[-1] < 0.7 * losses[0]
    assert network[-1] > max(constant, magnitude) + 0.08
    assert network[-1] > network[0]

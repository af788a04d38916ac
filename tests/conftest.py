"""Fixtures for every test: small thread pools and the optional folder of real data."""

from __future__ import annotations

import os
from pathlib import Path

# Read when torch is loaded: waiting threads sleep instead of spinning, which matters where processes outnumber cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import settings
from torch import Tensor

import golden

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# Two cores, many small tensors: more threads only wait for one another, as do those of processes side by side.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, torch.get_num_threads()))


# The same examples in every run: what passes here passes there. `--hypothesis-profile=default` looks for new ones.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real frames, weights and golden values beside the checkout, or a skip that says so."""
    if not SHARED.is_dir():
        pytest.skip("real data and golden values are not here: no folder 'shared' beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def original_state(shared: Path) -> dict[str, Tensor]:
    """State dict of the original network with golden weights."""
    return golden.state_dict(shared / "golden")

"""Fixtures for every test: small thread pools, small networks, and the optional folder of real data."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

# Read when torch is loaded: waiting threads sleep instead of spinning, which matters where processes outnumber cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import Phase, settings
from omegaconf import DictConfig
from torch import Tensor, nn

import golden
from browser import MISSING, chromium
from maskvos import build as builder

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# Two cores, many small tensors: more threads only wait for one another, as do those of processes side by side.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, torch.get_num_threads()))

# Jobs that a shell starts in the background ignore Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run: what passes here passes there. `--hypothesis-profile=default` looks for new ones.
settings.register_profile("fixed", derandomize=True)
# Mutation tests only ask whether a test fails, not for the simplest example.
settings.register_profile("mutants", derandomize=True, phases=[Phase.explicit, Phase.generate])
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _open_streams() -> None:
    """Keep Hydra, which closes all log handlers, from closing pytest's stderr: absl's handler takes it for a file."""
    if absl := sys.modules.get("absl.logging"):
        absl.get_absl_handler().python_handler.stream = sys.__stderr__


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


@cache
def composed(*overrides: str) -> DictConfig:
    """The configuration, composed once in a session; do not modify it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.fixture(scope="session")
def build() -> Callable[..., nn.Module]:
    """Build a part of the configuration with overrides, by default ``model``, without downloading weights."""

    def build(*overrides: str, part: str = "model", pretrained: bool | str = False, seed: int = 0) -> nn.Module:
        config = composed(*overrides).copy()
        config.backbone.pretrained = pretrained
        torch.manual_seed(seed)
        return builder.build(config[part], part)

    return build


@pytest.fixture(scope="session")
def tiny(build: Callable[..., nn.Module]) -> nn.Module:
    """The smallest network, in evaluation mode, with non-initial batch-norm statistics; do not modify it."""
    network = build("model=maskvos_tiny", "backbone=tiny").train()
    with torch.no_grad():
        for _ in range(3):
            network.segment(torch.rand(4, 3, 64, 96), torch.randn(4, 2, 64, 96))
    return network.eval()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; skips where there is none."""
    pytest.importorskip("playwright", reason="no browser: pip install playwright")
    with chromium() as found:
        if found is None:
            pytest.skip(MISSING)
        yield found


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Say last how to have the browser tests, where there is no browser."""
    yield
    skipped = [test for test in terminalreporter.stats.get("skipped", []) if "no browser" in str(test.longrepr)]
    if skipped:
        remedy = "apt install chromium, or playwright install chromium"
        terminalreporter.write_line(f"{len(skipped)} browser tests skipped, no Chromium found: {remedy}", yellow=True)

"""Networks composed from conf/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from maskvos import build as builder

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(scope="session")
def build() -> Callable[..., nn.Module]:
    """Build a part of the configuration with overrides, by default ``model``, without downloading weights."""

    def build(*overrides: str, part: str = "model", pretrained: str = "false", seed: int = 0) -> nn.Module:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides=[*overrides, f"backbone.pretrained={pretrained}"])
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

"""Networks composed from conf/ as the command composes them, and the golden weights drawn from key names."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(scope="session")
def build() -> Callable[..., nn.Module]:
    """Build ``conf/model`` under overrides; nothing is fetched."""

    def build(*overrides: str, part: str = "model", pretrained: str = "false", seed: int = 0) -> nn.Module:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides=[*overrides, f"backbone.pretrained={pretrained}"])
        torch.manual_seed(seed)
        return instantiate(config[part], _convert_="all")

    return build


@pytest.fixture(scope="session")
def tiny(build: Callable[..., nn.Module]) -> nn.Module:
    """The smallest network, in evaluation mode, with batch statistics that are not the initial ones; do not change."""
    network = build("model=maskvos_tiny", "backbone=tiny").train()
    with torch.no_grad():
        for _ in range(3):
            network.segment(torch.rand(4, 3, 64, 96), torch.randn(4, 2, 64, 96))
    return network.eval()


def draw(name: str, shape: tuple[int, ...]) -> Tensor:
    """The golden weights' rule (golden/README.md)."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    normal = torch.randn(shape, generator=generator)
    if name.endswith("running_var"):
        return 1 + 0.1 * normal.abs()
    if "query_" in name or "level_embed" in name:
        return normal
    if "relative_position_bias_table" in name:
        return 0.2 * normal
    if "sampling_offsets.bias" in name:
        return 2 * normal
    if len(shape) >= 2:
        return normal / math.sqrt(math.prod(shape[1:]))
    return 1 + 0.1 * normal if name.endswith("weight") else 0.1 * normal


@pytest.fixture(scope="session")
def original_state(shared: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors under the original's 644 names."""
    state = {}
    for line in (shared / "golden" / "maskvos_state_dict.txt").read_text().splitlines():
        name, shape, dtype = line.split("\t")
        size = tuple(map(int, re.findall(r"\d+", shape)))
        state[name] = draw(name, size) if dtype == "float32" else torch.zeros(size, dtype=torch.int64)
    return state

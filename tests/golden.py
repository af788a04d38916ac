"""Golden weights of the original network, generated from parameter names (golden/README.md)."""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path

import torch
from torch import Tensor


def state_dict(folder: Path) -> dict[str, Tensor]:
    """The 644 tensors of the original network, listed in ``maskvos_state_dict.txt`` of a folder."""
    state = {}
    for line in (folder / "maskvos_state_dict.txt").read_text().splitlines():
        name, shape, dtype = line.split("\t")
        size = tuple(map(int, re.findall(r"\d+", shape)))
        state[name] = draw(name, size) if dtype == "float32" else torch.zeros(size, dtype=torch.int64)
    return state


def draw(name: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor, a function of its name and shape only."""
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

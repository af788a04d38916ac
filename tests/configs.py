"""Members of the config groups, composed alone: faster than the full configuration, and independent of its defaults."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).resolve().parents[1] / "conf"


def members(group: str) -> list[str]:
    """The names that ``<group>=`` takes; ``base`` and ``<name>_base`` only hold what members share."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.endswith("base"))


_OTHERS = {"experiment", "sweep", "hydra", "local"}  # chosen with a plus, or not at all
GROUPS = sorted(
    {
        path.parent.relative_to(CONF).as_posix()
        for path in CONF.glob("*/**/*.yaml")
        if path.relative_to(CONF).parts[0] not in _OTHERS
    }
)


def load(group: str, name: str) -> DictConfig:
    """The node of a group that ``<group>=<name>`` composes, a copy, interpolations unresolved."""
    return copy.deepcopy(_load(group, name))


@cache
def _load(group: str, name: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        node = OmegaConf.select(hydra.compose(f"{group}/{name}"), group.replace("/", "."))
    OmegaConf.set_struct(node, False)
    return node

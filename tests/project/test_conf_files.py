"""The configuration files state nothing twice, nothing that nothing reads, and no path of somebody's machine."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

import configs
from configs import CONF, GROUPS
from maskvos.build import locate
from maskvos.run import compose

DERIVED = [
    (path.parent.relative_to(CONF).as_posix(), path.stem)
    for group in GROUPS
    for path in sorted((CONF / group).glob("*.yaml"))
    if "\ndefaults:" in f"\n{path.read_text()}"
]
EXPERIMENTS = configs.members("experiment")


def keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key, value in node.items_ex(resolve=False):
        yield f"{prefix}{key}"
        if isinstance(value, DictConfig):
            yield from keys(value, f"{prefix}{key}.")


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a nested mapping by dotted name; lists are values."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {k: v for key, value in node.items() for k, v in leaves(value, f"{prefix}.{key}".lstrip(".")).items()}


def read(group: str, name: str) -> tuple[list[Any], dict[str, Any]]:
    """The defaults list of a file and the values that it states itself, by dotted name."""
    raw = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    return raw.pop("defaults", []), leaves(raw)


def repeated(stated: dict[str, Any], inherited: Any) -> dict[str, Any]:
    """The values of a file that say what it inherits anyway."""
    before = leaves(OmegaConf.to_container(inherited, resolve=False))
    return {key: value for key, value in stated.items() if key in before and before[key] == value}


@pytest.mark.parametrize(("group", "name"), DERIVED, ids=map("/".join, DERIVED))
def test_a_file_does_not_repeat_what_it_inherits(group: str, name: str) -> None:
    defaults, stated = read(group, name)
    parents = [entry for entry in defaults if isinstance(entry, str) and entry != "_self_" and "@" not in entry]
    for parent in parents:
        assert not repeated(stated, configs.load(group, parent)), f"{group}/{name}.yaml repeats {group}/{parent}.yaml"


@pytest.mark.parametrize(("group", "elsewhere"), [("data", {"tta_flow"}), ("flow", {"max_flow"}), ("protocol", set())])
def test_the_base_of_a_group_has_every_argument_with_its_default(group: str, elsewhere: set[str]) -> None:
    base = cast(dict[str, Any], OmegaConf.to_container(configs.load(group, "base"), resolve=False))
    parameters = signature(locate(base["_target_"])).parameters
    assert set(parameters) - elsewhere <= set(base), "an argument that the base does not state cannot be overridden"
    for name, parameter in parameters.items():
        value = base.get(name)
        if name in base and parameter.default is not Parameter.empty and "${" not in str(value):
            default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            assert value == default, f"conf/{group}/base.yaml: {name}"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_state_differences_in_existing_settings(name: str) -> None:
    defaults, stated = read("experiment", name)
    chosen = [f"+experiment={entry}" for entry in defaults if isinstance(entry, str) and entry != "_self_"]
    for entry in defaults:
        chosen += (
            [f"{key.removeprefix('override /')}={value}" for key, value in entry.items()]
            if isinstance(entry, dict)
            else []
        )
    base = compose(chosen)
    allowed = set(keys(base))
    # Below an empty mapping or null any name may be given: the class that gets it checks the names.
    free = tuple(f"{key}." for key in allowed if OmegaConf.select(base, key) in ({}, None))
    added = [key for key in keys(compose([f"+experiment={name}"])) if key not in allowed and not key.startswith(free)]
    assert not added, f"experiment/{name}.yaml adds settings that nothing reads: {added}"
    assert not repeated(stated, base), f"experiment/{name}.yaml repeats the settings of the groups that it chooses"


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_experiments_are_global(path: Path) -> None:
    assert path.read_text().startswith("# @package _global_\n")


def test_no_absolute_path_in_any_yaml() -> None:
    for path in CONF.rglob("*.yaml"):
        lines = [line.split("#")[0] for line in path.read_text().splitlines()]
        assert not [line for line in lines if ": /" in line], path

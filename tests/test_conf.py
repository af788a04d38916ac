"""Every yaml composes; an experiment changes settings and adds none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import albumentations as A
import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from maskvos.data.transforms import HorizontalFlip
from maskvos.run import CONF, build, compose, explain
from maskvos.training.options import Training

GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in ("hydra", "local"))
MEMBERS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def override(group: str, name: str) -> str:
    return f"+{group}={name}" if group in ("experiment", "sweep") else f"{group}={name}"


def keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key, value in node.items_ex(resolve=False):
        yield f"{prefix}{key}"
        if isinstance(value, DictConfig):
            yield from keys(value, f"{prefix}{key}.")


@pytest.mark.parametrize(("group", "name"), MEMBERS, ids="/".join)
def test_every_yaml_composes_and_resolves(group: str, name: str) -> None:
    cfg = compose([override(group, name)])
    OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_add_no_setting(name: str) -> None:
    raw = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    groups = [
        f"{key.split('/')[-1]}={value}"
        for entry in raw.get("defaults", [])
        if isinstance(entry, dict)
        for key, value in entry.items()
    ]
    base = compose(groups)
    allowed = set(keys(base))
    # An empty mapping, or a null in its place, is there to be filled: what reads it checks the names.
    free = tuple(f"{key}." for key in allowed if OmegaConf.select(base, key) in ({}, None))
    added = [key for key in keys(compose([f"+experiment={name}"])) if key not in allowed and not key.startswith(free)]
    assert not added, f"experiment/{name}.yaml adds settings that nothing reads: {added}"


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_experiments_are_global(path: Path) -> None:
    assert path.read_text().startswith("# @package _global_\n")


@pytest.mark.parametrize(
    ("name", "data", "protocol"),
    [("swin_t_pretrain", "mixture.divide", "all_frames"), ("swin_t", "mixture.mixture", "davis2016")],
)
def test_the_recipe_is_the_published_one(name: str, data: str, protocol: str) -> None:
    cfg = compose([f"+experiment={name}"])
    optim = {"_target_": "torch.optim.AdamW", "lr": 6e-5, "betas": [0.9, 0.999], "weight_decay": 0.01}
    assert optim.items() <= cast(dict[str, object], OmegaConf.to_container(cfg.optim)).items()
    assert cfg.loss == {"_target_": "maskvos.training.losses.BCE"}
    assert (cfg.data.size, cfg.data.batch_size, cfg.data.train._target_.rpartition("datasets.")[2]) == (
        [512] * 2,
        4,
        data,
    )
    assert (cfg.schedule._target_, cfg.protocol.name) == ("maskvos.training.schedules.constant", protocol)
    mirror, *colours = build(cfg.augment.transforms)
    assert (type(mirror), mirror.p) == (HorizontalFlip, 0.5)
    assert all(isinstance(colour, A.ImageOnlyTransform) and colour.p == 0.5 for colour in colours)
    assert build(cfg.train) == Training()  # none of the options


def test_choosing_on_the_test_split_is_one_override() -> None:
    for override in ("data.val.split=val", "data.val=${data.test}"):
        cfg = OmegaConf.to_container(compose(["data=davis", override]), resolve=True)
        assert cfg["data"]["val"] == cfg["data"]["test"]
    assert compose(["data=davis"]).data.val.split == "held_out"


def test_no_absolute_path_in_any_yaml() -> None:
    for path in CONF.rglob("*.yaml"):
        lines = [line.split("#")[0] for line in path.read_text().splitlines()]
        assert not [line for line in lines if ": /" in line], path


def test_seed_zero_is_a_seed() -> None:
    assert compose(["seed=0"]).seed == 0


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["backbone=swin_tt"], "swin_t"),
        (["+experiment=smokey"], "smoke"),
        (["optim.lrr=1"], "optim.lr"),
        (["dat.batch_size=1"], "data.batch_size"),
    ],
)
def test_mistyped_names_get_the_nearest(overrides: list[str], says: str) -> None:
    with pytest.raises(Exception) as error:  # noqa: PT011 - Hydra has several
        compose(overrides)
    assert f"'{says}'" in explain(error.value)

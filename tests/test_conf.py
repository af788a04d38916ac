"""Every yaml composes, no setting is stated twice, and experiments only override existing settings."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, cast

import albumentations as A
import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

import configs
from configs import CONF
from maskvos.build import build, locate
from maskvos.cli.hints import explain
from maskvos.data.datasets.davis import HOLD_OUT
from maskvos.data.transforms import HorizontalFlip
from maskvos.run import compose
from maskvos.training.options import TrainingOptions

FOLDERS = {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")}
GROUPS = sorted(group for group in FOLDERS if not group.startswith((".", "hydra", "local")))
MEMBERS = [(group, name) for group in GROUPS for name in configs.members(group)]
DERIVED = [
    (path.parent.relative_to(CONF).as_posix(), path.stem)
    for group in GROUPS
    for path in sorted((CONF / group).glob("*.yaml"))
    if group not in ("experiment", "sweep") and "\ndefaults:" in f"\n{path.read_text()}"
]
EXPERIMENTS = configs.members("experiment")


def override(group: str, name: str) -> str:
    return f"+{group}={name}" if group in ("experiment", "sweep") else f"{group}={name}"


def keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key, value in node.items_ex(resolve=False):
        yield f"{prefix}{key}"
        if isinstance(value, DictConfig):
            yield from keys(value, f"{prefix}{key}.")


@pytest.mark.parametrize(("group", "name"), MEMBERS, ids=map("/".join, MEMBERS))
def test_every_yaml_composes_and_resolves(group: str, name: str) -> None:
    cfg = compose([override(group, name)])
    OmegaConf.to_container(cfg, resolve=True)


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
        chosen += [f"{key.split('/')[-1]}={value}" for key, value in entry.items()] if isinstance(entry, dict) else []
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
    assert build(cfg.train) == TrainingOptions()  # none of the options


@pytest.mark.parametrize("data", ["davis", "davis2017", "davis_duts", "davis_fbms"])
@pytest.mark.parametrize("override", ["data.val.split=val", "data.val=${data.test}"])
def test_validating_on_the_test_split_is_one_override(data: str, override: str) -> None:
    cfg = OmegaConf.to_container(compose([f"data={data}", override]), resolve=True)
    assert cfg["data"]["val"] == cfg["data"]["test"]
    assert compose([f"data={data}"]).data.val.split == "held_out"


def test_the_sequences_held_out_of_a_mixture_are_one_setting() -> None:
    assert configs.load("data", "davis_synthetic").val.hold_out == list(HOLD_OUT)
    data = compose(["data=davis_synthetic", "data.val.hold_out=[bear]"]).data
    assert data.train.parts[0].hold_out == data.val.hold_out == ["bear"]


def test_the_mixture_of_losses_takes_each_loss_as_its_own_yaml_has_it() -> None:
    for name, terms in (("sum", set(configs.members("loss")) - {"sum", "bce_dice"}), ("bce_dice", {"bce", "dice"})):
        loss = configs.load("loss", name)
        assert set(loss.terms) == set(loss.weights) == terms
        assert all(loss.terms[term] == configs.load("loss", term) for term in terms)


def test_no_absolute_path_in_any_yaml() -> None:
    for path in CONF.rglob("*.yaml"):
        lines = [line.split("#")[0] for line in path.read_text().splitlines()]
        assert not [line for line in lines if ": /" in line], path


def test_seed_zero_reaches_the_data_and_the_training_steps() -> None:
    cfg = cast(dict[str, Any], OmegaConf.to_container(compose(["seed=0"]), resolve=True))
    assert build(cfg["data"]).seed == 0
    assert build(cfg["callbacks"]["randomness"]).seed == 0


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

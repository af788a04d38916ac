"""Every yaml composes; recipes, splits, losses and seeds are what they say; mistyped names are explained."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, cast

import albumentations as A
import pytest
from omegaconf import OmegaConf

import configs
from configs import GROUPS
from maskvos.build import build
from maskvos.cli.hints import explain
from maskvos.data.datasets.davis import HOLD_OUT
from maskvos.data.transforms import HorizontalFlip
from maskvos.errors import UserError
from maskvos.run import compose
from maskvos.training.options import TrainingOptions

# Each round chooses another member of every group, so that few compositions use all members.
ROUNDS = [
    [f"{group}={name}" for group, name in zip(GROUPS, chosen, strict=True) if name is not None]
    for chosen in zip_longest(*map(configs.members, GROUPS))
]
ALONE = [[f"+{group}={name}"] for group in ("experiment", "sweep") for name in configs.members(group)]


@pytest.mark.parametrize("overrides", [*ROUNDS, *ALONE], ids=" ".join)
def test_every_yaml_composes_and_resolves(overrides: list[str]) -> None:
    cfg = compose(overrides)
    assert not OmegaConf.missing_keys(cfg)
    assert "${" not in str(OmegaConf.to_container(cfg, resolve=True))


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
def test_validating_on_the_test_split_is_one_override(data: str) -> None:
    assert compose([f"data={data}"]).data.val.split == "held_out"
    for override in ("data.val.split=val", "data.val=${data.test}"):
        cfg = OmegaConf.to_container(compose([f"data={data}", override]), resolve=True)
        assert cfg["data"]["val"] == cfg["data"]["test"]


def test_the_sequences_held_out_of_a_mixture_are_one_setting() -> None:
    assert configs.load("data", "davis_synthetic").val.hold_out == list(HOLD_OUT)
    data = compose(["data=davis_synthetic", "data.val.hold_out=[bear]"]).data
    assert data.train.parts[0].hold_out == data.val.hold_out == ["bear"]


def test_the_mixture_of_losses_takes_each_loss_as_its_own_yaml_has_it() -> None:
    for name, terms in (("sum", set(configs.members("loss")) - {"sum", "bce_dice"}), ("bce_dice", {"bce", "dice"})):
        loss = configs.load("loss", name)
        assert set(loss.terms) == set(loss.weights) == terms
        assert all(loss.terms[term] == configs.load("loss", term) for term in terms)


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


def test_a_function_that_waits_for_arguments_and_does_not_take_them_is_named() -> None:
    optimiser = build({"_target_": "math.hypot", "_partial_": True, "lr": 0.1}, "optim")
    with pytest.raises(UserError, match=r"^optim: .*keyword"):
        optimiser([1.0])
    assert build({"_target_": "math.hypot", "_partial_": True})(3, 4) == 5


def test_settings_of_which_nothing_is_built_are_named() -> None:
    with pytest.raises(UserError, match=r"^optim: no _target_"):
        build({"lr": 0.1}, "optim")

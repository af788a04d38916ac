"""Every setting has a rule, the defaults follow them, and what does not is named with the rule."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, ListConfig, OmegaConf

import configs
from maskvos.errors import UserError
from maskvos.run import compose
from maskvos.settings.table import RULES, check_settings, rule_of


def leaves(node: Any, name: str) -> Iterator[str]:
    """Names of the settings in a node of the configuration, without what only refers to others."""
    if isinstance(node, DictConfig) and len(node):
        for key in node:
            if not str(key).startswith("_") and not OmegaConf.is_interpolation(node, key):
                yield from leaves(node[key], f"{name}.{key}")
    elif isinstance(node, ListConfig) and any(isinstance(item, DictConfig) for item in node):
        for index, item in enumerate(node):
            yield from leaves(item, f"{name}.{index}")
    elif node is not None:
        yield name


@pytest.mark.parametrize("group", configs.GROUPS)
def test_every_setting_has_a_rule(group: str) -> None:
    names = {
        n for member in configs.members(group) for n in leaves(configs.load(group, member), group.replace("/", "."))
    }
    names -= {"logger", "augment.transforms"}  # empty
    assert [name for name in names if rule_of(name) is None and not name.startswith("data.weights.")] == []


WRONG = {
    "seed": ["-1", "1.5", "a", "4294967296"],
    "aux_weight": ["-1", "9223372036854775808", f"1{400 * '0'}"],
    "optim.lr": ["-1", "nan", "inf", "a", "null", "true"],
    "data.batch_size": ["1.5", "0", "null", "-1", "[1]", "true"],
    "data.size": ["[64]", "[64,64,64]", "64", "[0,64]", "[64,100000]", "[64,a]", "null"],
    "data.flow_pairs": ["[0.5,0.6]", "[a]", "1"],
    "data.scales": ["[]", "[0]", "[nan]", "1"],
    "trainer.accumulate_grad_batches": ["0", "1.5", "a"],
    "trainer.precision": ["16-true", "bf16-true", "64-true", "64", "half", "null"],
    "trainer.devices": ["0", "-2", "1.5", "[]", "[-1]"],
    "trainer.limit_train_batches": ["-1", "1.5", "nan", "all"],
    "trainer.log_every_n_steps": ["-1", "null"],
    "trainer.max_steps": ["-2", "1.5"],
    "benchmark.threads": ["0", "100000", "1.5"],
    "writer.colour": ["[0,0]", "[0,0,256]", "7", "[0,0,-1]"],
    "writer.kinds": ["[]", "[maks]", "masks", "[1]"],
    "writer.outline": ["-1", "1.5", "10000"],
    "flow.gap": ["0", "-1", "1.5", "a"],
    "flow.estimator.preset": ["medum", "1"],
    "loss.width": ["4", "0", "31.0"],
    "protocol.measures": ["[]", "[jj]"],
    "threshold": ["1", "-0.1", "nan"],
    "shard": ["0/3", "4/3", "3", "a/b", "1/2/3"],
    "task": ["trian", "null", "[]"],
    "train.ema": ["0", "1", "nan"],
    "callbacks.last.every_n_steps": ["0", "1.5"],
    "augment.transforms.0.p": ["2", "-1", "nan"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_what_does_not_follow_its_rule_is_named(name: str, value: str) -> None:
    config = node = copy.deepcopy(base())
    *groups, last = [int(part) if part.isdigit() else part for part in name.split(".")]
    for part in groups:
        node = node[part]
    node[last] = yaml.safe_load(value.replace("nan", ".nan").replace("inf", ".inf"))
    with pytest.raises(UserError, match=rf"^{name.replace('.', '[.]')}=.*: must be .*; change it, or leave it out$"):
        check_settings(config)


@cache
def base() -> Any:
    """The default settings."""
    return OmegaConf.to_container(compose(["loss=boundary_bce"], "run"))


def test_the_hint_is_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'masks'"):
        check_settings(["maks"], "writer.kinds")
    with pytest.raises(UserError, match="did you mean 'resume'"):
        check_settings({"existing": "resum"}, "writer")
    with pytest.raises(UserError, match=r"x\.ckpt: data\.size=5: must be a list of 2 values"):
        check_settings({"data": {"size": 5}}, source="x.ckpt")


def test_classes_of_others_have_their_own_rules() -> None:
    own = {"_target_": "mine.Backbone", "channels": {"a": 1}, "heads": "two"}
    check_settings({"backbone": own, "callbacks": {"mine": own}})
    with pytest.raises(UserError, match=r"backbone\.channels="):
        check_settings({"backbone": {**own, "_target_": "maskvos.models.backbones.tiny.Tiny"}})
    with pytest.raises(UserError, match=r"mine\.x=nan: must be finite"):
        check_settings({"mine": {"x": math.nan}})


@given(
    st.sampled_from(sorted(RULES)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    ),
)
def test_any_value_gets_one_answer(name: str, value: Any) -> None:
    with contextlib.suppress(UserError):
        check_settings(value, name.replace("*", "x"))

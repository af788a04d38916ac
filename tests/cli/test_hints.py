"""Mistakes on the command line: the answer has the nearest right name, or the type that is expected."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from maskvos.cli.compose import CONF
from maskvos.cli.hints import FLAGS, check_flags, check_values, explain
from maskvos.errors import UserError
from maskvos.run import compose
from maskvos.tasks.lightning import build_trainer


@cache
def composed(*overrides: str) -> Any:
    return OmegaConf.to_container(compose(overrides))


def check(*overrides: str) -> None:
    """Check overrides as the entrypoint does."""
    groups = [override for override in overrides if (CONF / override.lstrip("+").partition("=")[0]).is_dir()]
    check_values(overrides, composed(*overrides), composed(*groups))


def answer(*overrides: str) -> str:
    """The command's answer."""
    with pytest.raises(Exception) as error:  # noqa: PT011 - Hydra has several
        check(*overrides)
    return explain(error.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+experiment=smokey", "+experiment=smokey: not found in experiment; did you mean 'smoke'?"),
        ("experiment=smoke", "+experiment=<name>"),
        ("+experimnt=smoke", "did you mean 'experiment'?"),
        ("backbone=swin_tt", "did you mean 'swin_t'"),
        ("bakbone=tiny", "did you mean 'backbone'?"),
        ("bakbone.width=3", "did you mean 'backbone'?"),
        ("flow.estimator.prest=fast", "did you mean 'flow.estimator.preset'?"),
        ("optim.weigth_decay=1", "did you mean 'optim.weight_decay'?"),
        ("model/fusoin=sum", "did you mean 'model.fusion'"),
        ("model/fusion=summ", "did you mean 'sum'"),
        ("lr=3e-4", "did you mean 'optim.lr'?"),
        ("batch_size=4", "did you mean 'data.batch_size'?"),
        ("~optm", "did you mean 'optim'?"),
        ("+backbone=tiny", "backbone=<name>"),
        ("hydra.run.dri=x", "--cfg hydra"),
        ("mirror=true", "mirror: renamed to tta.mirror"),
        ("+mirror=true", "mirror was renamed to tta.mirror"),
        ("data.second_look=null", "data.second_look: renamed to tta.flow"),
        ("train.checkpointing=true", "renamed to train.activation_checkpointing"),
        ("writer.threshold=0.4", "writer.threshold: renamed to threshold"),
        ("optim.lr", "optim.lr=<value>"),
        ("data.size=[64,64", "quote"),
        ("optim.lr=abc", "optim.lr=abc: must be a number of at least 0"),
        ("data.size=512", "data.size=512: must be a list of 2 values"),
        ("model.fusion=sum", "model/fusion=<name>"),
        ("optim.lr=1e-4,1e-3", "-m sweeps over them"),
        ("augment.colours={hu: 1}", "augment.colours: its value has a setting that does not exist; it has"),
    ],
)
def test_mistakes_name_what_is_right(override: str, says: str) -> None:
    assert says in answer(override)


def test_what_may_be_right_passes() -> None:
    check("optim.lr=1", "seed=null", "trainer.devices=auto", "backbone.pretrained=a.pth", "data.batch_size=${seed}")
    check("optim=sgd", "+experiment=smoke", "callbacks.best=null", "+callbacks.mine._target_=mine.Mine")
    check("+trainer.max_time=00:01:00", "input=clip.mp4", "writer.kinds=[masks]", "hydra.run.dir=here")


def test_values_of_other_libraries_get_the_nearest() -> None:
    with pytest.raises(Exception, match="profiler") as error:
        build_trainer(compose(["+trainer.profiler=simpel"]))
    assert explain(error.value).startswith("trainer: ")
    assert "'simple'" in explain(error.value)


def test_flags() -> None:
    # Hydra publishes no list of its flags; its parser is the only place that has them.
    known = {flag for action in get_args_parser()._actions for flag in action.option_strings if flag.startswith("--")}
    assert set(FLAGS) == known | {"--verbose"}
    check_flags(["--help", "-m", "--multi", "--cfg", "job", "--config-dir=mine", "optim.lr=--3"])
    with pytest.raises(UserError, match="'--help'"):
        check_flags(["--hlp"])
    with pytest.raises(UserError, match="without dashes"):
        check_flags(["--lr", "3"])

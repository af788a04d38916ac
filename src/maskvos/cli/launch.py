"""Checks before a run starts: how its processes were launched, and what was typed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from maskvos.cli.compose import CONF, launch_id
from maskvos.cli.hints import check_values
from maskvos.errors import UserError

_CONFIG_DIR = ("--config-d", "--config_d")
_LARGEST = 100_000  # values of a configuration file
# A directive of Hydra, "# @key value", that has not two words; it may follow valid ones.
_WRONG_DIRECTIVE = re.compile(r"\s*(?:#\s*@\S+ +\S+ *\n\s*)*(#\s*@(?!\S+ +\S+ *$).*)", re.MULTILINE)


def check_command_line(arguments: Sequence[str]) -> None:
    """Check what was typed, before Hydra composes it: see `check_launch`, `check_files` and `check_groups`.

    Raises:
        UserError: What Hydra would not survive.
    """
    check_launch(arguments)
    check_files(arguments)
    check_groups(arguments)


def check_launch(arguments: Sequence[str]) -> None:
    """Refuse processes of torchrun without a common run folder.

    Args:
        arguments: What was typed after the command.

    Raises:
        UserError: torchrun was started without a rendezvous id.
    """
    if launch_id() == "none" and not any(argument.startswith("hydra.run.dir=") for argument in arguments):
        raise UserError(
            "torchrun: its processes need a common run folder; give torchrun --standalone (one machine) or "
            "--rdzv-id=<name of the run>, or hydra.run.dir=<folder>"
        )


def check_files(arguments: Sequence[str]) -> None:
    """Read the configuration files that are not maskvos's own, before Hydra does: it would expand them without end.

    Args:
        arguments: What was typed after the command.

    Raises:
        UserError: A file is not YAML, or too large with its aliases (``*name``) expanded, or has a wrong directive.
    """
    typed = [part for argument in arguments for part in argument.split("=", 1)]
    folders = [
        typed[place + 1] for place, part in enumerate(typed[:-1]) if part == "-cd" or part.startswith(_CONFIG_DIR)
    ]
    for folder in (*map(Path, folders), CONF / "local"):
        for path in sorted(folder.rglob("*.yaml")):
            try:
                if not path.is_file():
                    raise OSError("not a file")
                text = path.read_text(encoding="utf-8")
                size = _expanded(yaml.compose(text, yaml.SafeLoader), {})
            except (OSError, UnicodeError, yaml.YAMLError, RecursionError) as error:
                raise UserError(f"{path} cannot be read as YAML ({error}); fix or remove it") from error
            if size > _LARGEST:
                raise UserError(f"{path} has {size:.3g} values with its aliases (*name) expanded; write out fewer")
            if wrong := _WRONG_DIRECTIVE.match(text):
                raise UserError(f"{path} begins with '{wrong[1]}', which Hydra refuses; write '# @package _global_'")


def _expanded(node: Any, known: dict[int, int]) -> int:
    """Number of values in a node of YAML, those behind aliases counted at each of their places."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = _LARGEST + 1  # of a node that contains itself
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_expanded(part, known) for part in parts)
    return known[id(node)]


def check_groups(arguments: Sequence[str]) -> None:
    """Refuse lists of anything but names for a group of settings, upon which Hydra would fail.

    Args:
        arguments: What was typed after the command.

    Raises:
        UserError: A group was given such a list.
    """
    for argument in arguments:
        group, _, value = argument.lstrip("+").partition("=")
        if value.startswith("[") and (CONF / re.split("[@ ]", group)[0]).is_dir():
            try:
                members = yaml.safe_load(value)
            except yaml.YAMLError:
                continue  # Hydra's parser says why
            if not all(isinstance(member, str) for member in members):
                raise UserError(f"{argument}: choose the members of a group by their names, such as backbone=swin_t")


def check_nested_launch(cfg: DictConfig) -> None:
    """Refuse a sweep whose jobs start several processes: each of these would launch the whole sweep again.

    Raises:
        UserError: The jobs of the sweep use several processes.
    """
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return
    devices = cfg.trainer.devices
    several = len(devices) > 1 if isinstance(devices, ListConfig) else str(devices) not in ("1", "auto")
    if devices == "auto":
        import torch  # takes seconds, so only where it is needed

        several = torch.cuda.device_count() > 1
    if several or launch_id() is not None:
        raise UserError(
            f"-m with trainer.devices={devices}: every process of a job would launch the sweep again; "
            "sweep with trainer.devices=1, or start the runs one by one"
        )


def check_overrides(cfg: DictConfig) -> None:
    """Compare what was typed with the defaults, see `check_values`."""
    typed, sources = list(HydraConfig.get().overrides.task), HydraConfig.get().runtime.config_sources
    folders = [Path(source.path) for source in sources if source.schema == "file"]
    names = {override: re.split("[=@]", override.lstrip("+"))[0] for override in typed}
    groups = [override for override in typed if any((folder / names[override]).is_dir() for folder in folders)]
    before = hydra.compose("config", overrides=groups)  # with the configuration folders of this command
    check_values(typed, *(cast(dict[str, Any], OmegaConf.to_container(node)) for node in (cfg, before)))

"""Checks before a run starts: how its processes were launched, and what was typed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from maskvos.cli.compose import launch_id
from maskvos.cli.hints import check_values
from maskvos.errors import UserError


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
    """Compare the type of each value that was typed with that of its default, see `check_values`."""
    typed, sources = list(HydraConfig.get().overrides.task), HydraConfig.get().runtime.config_sources
    folders = [Path(source.path) for source in sources if source.schema == "file"]
    names = {override: re.split("[=@]", override.lstrip("+"))[0] for override in typed}
    groups = [override for override in typed if any((folder / names[override]).is_dir() for folder in folders)]
    before = hydra.compose("config", overrides=groups)  # with the configuration folders of this command
    check_values(typed, *(cast(dict[str, Any], OmegaConf.to_container(node)) for node in (cfg, before)))

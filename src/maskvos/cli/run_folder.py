"""The Hydra callback that gives each run and each sweep a folder of its own."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from maskvos.cli.compose import launch_id


class OwnFolder(Callback):
    """Creates the folder of a run or sweep, under another name where a run of the same second has taken it.

    Not where the user has named the folder, nor where the processes of a launch share it.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Create the folder of a run."""
        _reserve(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Create the folder of a sweep."""
        _reserve(config, "sweep")


def _reserve(config: DictConfig, mode: str) -> None:
    node = config.hydra[mode]
    if "${run_folder:" not in str(node._get_node("dir")) or launch_id() is not None:
        return
    try:
        folder = str(own_folder(Path(node.dir)))
    except OSError:  # of a callback Hydra makes a warning; of its own attempt, which follows, the error that is shown
        return
    with read_write(config.hydra):
        node.dir = folder
        if mode == "sweep":  # its runs compose their configurations anew, from the overrides
            quoted = folder.replace("'", "\\'")
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")


def own_folder(folder: Path) -> Path:
    """Create a folder that nobody else has: this one, or the same with a number.

    Raises:
        OSError: It cannot be created.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        own = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            own.mkdir()
        except FileExistsError:
            continue
        return own
    raise AssertionError  # never reached

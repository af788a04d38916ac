"""The tasks of the command line, one file each: ``task=<name>`` runs ``maskvos.tasks.<name>.run``.

A task takes the composed configuration, read-only, and returns its metrics by name.
"""

from __future__ import annotations

from importlib import import_module

from omegaconf import DictConfig


def run_task(cfg: DictConfig) -> dict[str, float]:
    """Run ``cfg.task``.

    Raises:
        UserError: Its data is invalid, or what its settings name is missing.
    """
    metrics: dict[str, float] = import_module(f"maskvos.tasks.{cfg.task}").run(cfg)
    return metrics

"""The tasks of the command line, one file each: ``task=<name>`` runs ``maskvos.tasks.<name>.run``.

A task takes the composed configuration, read-only, and returns its metrics by name.
"""

from __future__ import annotations

from importlib import import_module

from omegaconf import DictConfig

from maskvos.errors import UserError, nearest

TASKS = ("train", "test", "predict", "evaluate", "check", "flow", "export", "benchmark", "report", "sweep")


def run_task(cfg: DictConfig) -> dict[str, float]:
    """Run ``cfg.task``.

    Raises:
        UserError: The task is unknown, or its settings or data are invalid.
    """
    if cfg.task not in TASKS:
        raise UserError(f"task={cfg.task}: unknown task; {nearest(str(cfg.task), TASKS)}")
    metrics: dict[str, float] = import_module(f"maskvos.tasks.{cfg.task}").run(cfg)
    return metrics

"""task=report: compare the results of several runs side by side."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from maskvos.errors import UserError
from maskvos.reports.comparison import compare, read_runs, table

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, float]:
    """Compare ``runs``.

    Returns:
        The number of runs.
    """
    if not cfg.runs:
        raise UserError(
            "task=report: nothing to compare; give 'runs=[<folder>,<folder>]' of task=test or task=evaluate"
        )
    runs = read_runs([cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs))
    print(table(runs))
    page = compare(runs, Path(cfg.output or Path(cfg.paths.run) / "report"))
    log.info("report: %s", page)
    return {"report/runs": float(len(runs))}

"""task=sweep: write the table of a sweep again, from what its runs have left so far."""

from __future__ import annotations

from omegaconf import DictConfig

from maskvos.errors import UserError
from maskvos.reports.sweep import write_sweep


def run(cfg: DictConfig) -> dict[str, float]:
    """Tabulate the sweep in ``input``."""
    if cfg.input is None:
        raise UserError("task=sweep: nothing to tabulate; give input=<folder of the sweep>")
    print(write_sweep(cfg.input))
    return {}

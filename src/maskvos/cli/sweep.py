"""The Hydra callback that keeps the table of a sweep up to date."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from maskvos.cli.hints import explain
from maskvos.environment import processes
from maskvos.reports.sweep import write_result, write_sweep

log = logging.getLogger(__name__)


class SweepTable(Callback):
    """Records failed runs and writes the table of a sweep after each run, with any launcher."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Record a failure, and write the table of the runs so far."""
        if processes()[0] != 0:
            return
        folder, sweeping = Path(config.hydra.runtime.output_dir), str(config.hydra.mode).endswith("MULTIRUN")
        if job_return.status == JobStatus.FAILED:
            error = explain(job_return._return_value)
            write_result(folder, error=error)
            if sweeping:
                log.warning("run %s failed: %s; see %s", folder.name, error, folder.parent / "sweep.csv")
        if sweeping:
            write_sweep(folder.parent)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table."""
        folder = Path(config.hydra.sweep.dir)
        print(write_sweep(folder))
        log.info("sweep: %s", folder)

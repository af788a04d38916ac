"""Hydra's outcome of a run, and its callback that keeps the table of a sweep up to date."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from maskvos.cli.hints import explain
from maskvos.environment import processes
from maskvos.errors import UserError
from maskvos.reports.sweep import read_jobs, write_result, write_sweep

log = logging.getLogger(__name__)


class SweepError(UserError):
    """Runs of a sweep failed; each has been answered when it did.

    Attributes:
        folder: The sweep's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        jobs = read_jobs(folder)
        failed = sum(job.status == "failed" for job in jobs)
        super().__init__(f"{failed} of {len(jobs)} runs failed; see {folder / 'sweep.csv'}")


class FailedRun(JobReturn):
    """The outcome of a run that failed; Hydra's own prints a line when it is asked for the result."""

    @property  # type: ignore[misc]  # nobody sets it any more
    def return_value(self) -> NoReturn:
        """Raises the error of the run; in a sweep, `SweepError`."""
        assert self.hydra_cfg is not None
        if self.hydra_cfg.hydra.mode == RunMode.MULTIRUN:
            raise SweepError(Path(self.hydra_cfg.hydra.sweep.dir))
        raise self._return_value


class SweepTable(Callback):
    """Answers and records failed runs, and writes the table of a sweep after each run, with any launcher."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Answer and record a failure, and write the table of the runs so far."""
        if job_return.status == JobStatus.FAILED:
            job_return.__class__ = FailedRun  # the launcher has this object, and asks it for the result
        if config.hydra.mode != RunMode.MULTIRUN or processes()[0] != 0:
            return
        folder = Path(config.hydra.runtime.output_dir)
        if job_return.status == JobStatus.FAILED:
            error = job_return._return_value
            known = explain(error)
            message = known or f"{type(error).__name__}: {error}"
            run = f"run {folder.name} ({' '.join(config.hydra.overrides.task)})"
            log.error("%s failed: %s", run, message, exc_info=None if known else error)
            write_result(folder, error=message)
        write_sweep(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table."""
        print_table(Path(config.hydra.sweep.dir))


def print_table(folder: Path) -> None:
    """Print the table of a sweep, and where it is."""
    print(write_sweep(folder))
    log.info("sweep: %s", folder)

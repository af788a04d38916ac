"""Loggers of Lightning, where they need to know that a training goes on."""

from __future__ import annotations

import csv
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only


class CsvLogger(CSVLogger):
    """A table of the scalars, each row on disk at once; a training resumed in the same folder goes on with its table.

    Args:
        save_dir: The run's folder.
        name: Folder within it.
        version: Folder within that one.
    """

    def __init__(self, save_dir: str, name: str = "csv", version: str = "train"):
        super().__init__(save_dir, name, version, flush_logs_every_n_steps=1)
        path = Path(self.log_dir) / "metrics.csv"
        # Read before the first row is written, when Lightning deletes what an earlier run left.
        self._rows = list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []

    @rank_zero_only
    def continue_from(self, step: int) -> None:
        """Keep the rows of an earlier run in this folder that were logged before a step."""
        kept = [row for row in self._rows if int(row["step"]) < step]
        self.experiment.metrics[:0] = [{name: value for name, value in row.items() if value} for row in kept]

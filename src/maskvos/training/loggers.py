"""CSV and Weights & Biases loggers that support resumed trainings and model artifacts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers import WandbLogger as LightningWandbLogger
from pytorch_lightning.utilities import rank_zero_only


class CsvLogger(CSVLogger):
    """CSV logger that writes each row immediately, and continues the file of a training resumed in the same folder.

    Args:
        save_dir: Run folder.
        name: Subfolder of the logger.
        version: Subfolder of ``name``.
    """

    def __init__(self, save_dir: str, name: str = "csv", version: str = "train"):
        super().__init__(save_dir, name, version, flush_logs_every_n_steps=1)
        path = Path(self.log_dir) / "metrics.csv"
        # Read now: Lightning deletes the file when it logs the first row.
        text = path.read_text(errors="replace") if path.is_file() else ""
        self._rows = list(csv.DictReader(text.splitlines()))

    @rank_zero_only
    def continue_from(self, step: int) -> None:
        """Keep rows of an earlier training in this folder that were logged before a step."""
        kept = [row for row in self._rows if (row.get("step") or "").isdecimal() and int(row["step"]) < step]
        self.experiment.metrics[:0] = [{name: value for name, value in row.items() if name and value} for row in kept]


class WandbLogger(LightningWandbLogger):
    """Weights & Biases logger that can log the best checkpoint as an artifact, also in offline runs.

    Args:
        log_model: Log the best checkpoint after a successful training.
        **options: Arguments of Lightning's logger.
    """

    def __init__(self, log_model: bool = False, **options: Any):
        super().__init__(**options)
        self.with_model = log_model
        self._best: ModelCheckpoint | None = None

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Remember the callback of the best checkpoint."""
        self._best = checkpoint_callback

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Log the best checkpoint as an artifact, with ``log_model`` and if the training succeeded."""
        if not self.with_model or self._best is None or status != "success":
            return
        import wandb

        score = self._best.best_model_score
        metadata = {"monitor": self._best.monitor, "score": None if score is None else float(score)}
        artifact = wandb.Artifact(f"model-{self.experiment.id}", type="model", metadata=metadata)
        artifact.add_file(self._best.best_model_path, name="best.ckpt")
        self.experiment.log_artifact(artifact, aliases=["latest", "best"])
        self._best = None

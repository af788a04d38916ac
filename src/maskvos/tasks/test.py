"""task=test: score a checkpoint on the test split; leaves tables and a report in the run's folder."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from maskvos.reports.callback import TestReport
from maskvos.tasks.common import plain
from maskvos.tasks.lightning import build_data, build_trainer, load_module, metrics_of


def run(cfg: DictConfig) -> dict[str, float]:
    """Test.

    Returns:
        The protocol's scores, as ``test/<measure>``.
    """
    datamodule = build_data(cfg)
    videos = datamodule.videos("test")
    module = load_module(cfg, {"test": videos})
    report = TestReport(Path(cfg.paths.run) / "test", videos, datamodule.eval_dataset("test"), plain(cfg))
    trainer = build_trainer(cfg, [report])
    trainer.test(module, datamodule, verbose=False)
    return metrics_of(trainer)

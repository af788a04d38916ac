"""task=evaluate: score masks that any program saved, against the ground truth of the test split."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from omegaconf import DictConfig

from maskvos.build import build
from maskvos.errors import UserError
from maskvos.metrics.folder import evaluate_folder
from maskvos.reports.examples import saved_masks
from maskvos.reports.report import about_run, write_report
from maskvos.reports.scores import brief
from maskvos.tasks.common import plain
from maskvos.tasks.lightning import build_data


def run(cfg: DictConfig) -> dict[str, float]:
    """Score ``predictions``.

    Returns:
        The protocol's scores, as ``evaluate/<measure>``.
    """
    if cfg.predictions is None:
        raise UserError("task=evaluate: nothing to score; give predictions=<folder of masks>")
    output = Path(cfg.paths.run) / "evaluation"
    videos, protocol = build_data(cfg).videos("test"), build(cfg.protocol, "protocol")
    begin = time.perf_counter()
    summary = evaluate_folder(cfg.predictions, videos, protocol, cfg.missing)
    scored, seconds = sum(1 for row in summary.frames if row.values), time.perf_counter() - begin
    about = about_run("evaluate", plain(cfg), videos, scored, seconds, str(cfg.predictions), "cpu")
    print(brief(summary))
    show = saved_masks(cfg.predictions, videos, protocol)
    page = write_report(dataclasses.replace(summary, run=about), output, show, progress=True)
    print(f"report: {page}")
    return {f"evaluate/{name}": value for name, value in summary.overall.items()}

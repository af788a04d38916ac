"""task=check: list what the data folders hold, and every problem with it."""

from __future__ import annotations

from omegaconf import DictConfig

from maskvos.data.check import check
from maskvos.errors import UserError
from maskvos.tasks.lightning import build_data


def run(cfg: DictConfig) -> dict[str, float]:
    """Check the data.

    Returns:
        Numbers of frames, as ``check/<split>_frames``.

    Raises:
        UserError: There are problems.
    """
    datamodule = build_data(cfg)
    report = check(datamodule.sources, datamodule.flow)
    print(report.table())
    if report.problems:
        raise UserError(f"task=check: {len(report.problems)} problem(s) in the data, listed above; fix and re-run")
    return {f"check/{split.name}_frames": float(split.frames) for split in report.splits}

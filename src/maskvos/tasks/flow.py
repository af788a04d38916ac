"""task=flow: compute the optical flow of a dataset once, into ``flow.cache``."""

from __future__ import annotations

from omegaconf import DictConfig

from maskvos.errors import UserError
from maskvos.flow.compute import compute_flows
from maskvos.tasks.lightning import build_data


def run(cfg: DictConfig) -> dict[str, float]:
    """Fill the flow cache.

    Returns:
        Numbers of computed and reused maps, and maps per second.

    Raises:
        UserError: The flow of some frames could not be computed.
    """
    datamodule = build_data(cfg)
    splits = [split for split, source in datamodule.sources.items() if source is not None]
    videos = [video for split in splits for video in datamodule.videos(split)]
    summary = compute_flows(videos, datamodule.flow, cfg.shard, datamodule.num_workers)
    print(f"{summary}\ncache: {datamodule.flow.folder()}")
    if summary.problems:
        raise UserError(f"task=flow: {len(summary.problems)} problem(s), listed above; fix these files and re-run")
    return {"flow/computed": summary.computed, "flow/reused": summary.reused, "flow/frames_per_second": summary.rate}

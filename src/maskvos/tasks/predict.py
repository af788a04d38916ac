"""task=predict: masks, overlays and cut-outs of a movie, a folder of frames, or a folder of such."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from maskvos.api import load
from maskvos.build import build
from maskvos.data.sources import expand, opened
from maskvos.environment import ended_by_sigterm, parse_shard, processes
from maskvos.errors import UserError
from maskvos.inference.archive import share
from maskvos.inference.live import write_source
from maskvos.inference.segmenter import Segmenter
from maskvos.inference.writer import PredictionWriter
from maskvos.media.live import LiveSource
from maskvos.tasks.common import check_hardware, plain, require_checkpoint
from maskvos.types import Video
from maskvos.weights.config import InferenceConfig


def run(cfg: DictConfig) -> dict[str, float]:
    """Segment ``input`` and write the results to ``output``.

    Returns:
        Numbers of frames and videos, and frames per second.
    """
    if cfg.input is None:
        raise UserError("task=predict: nothing to segment; give input=<movie | folder | pattern | address | camera>")
    if cfg.ray.workers:
        from maskvos.tasks.ray_data import predict_on_ray

        return predict_on_ray(cfg)
    with opened(*expand(str(cfg.input)), progress=cfg.trainer.enable_progress_bar) as source:
        return _predict(cfg, source)


def _predict(cfg: DictConfig, source: list[Video] | LiveSource) -> dict[str, float]:
    segmenter = build_segmenter(cfg)
    writer = build_writer(cfg, segmenter)
    (shard, shards), (rank, count) = parse_shard(cfg.shard), processes()
    videos = None if isinstance(source, LiveSource) else source
    mine = source if videos is None else share(videos, shard * count + rank, shards * count)
    try:
        with ended_by_sigterm():
            write_source(segmenter, mine, writer, cfg.trainer.enable_progress_bar, videos)
    except BaseException:
        if writer.finished or writer.skipped:  # that much has been done
            print(writer.summary())
        raise
    print(writer.summary())
    return writer.metrics()


def build_segmenter(cfg: DictConfig) -> Segmenter:
    """The network that ``ckpt_path`` names, on the hardware that ``trainer`` names."""
    check_hardware(cfg)
    return load(
        require_checkpoint(cfg),
        device=str(cfg.trainer.accelerator),
        precision=str(cfg.trainer.precision),
        backend=cfg.backend,
        threshold=cfg.threshold,
        trust=list(cfg.trust),
        fill_gaps=cfg.fill_gaps,
        config=InferenceConfig.from_config(plain(cfg)),
    )


def build_writer(cfg: DictConfig, segmenter: Segmenter) -> PredictionWriter:
    """What writes the results of a segmenter to ``output``."""
    output = cfg.output or Path(cfg.paths.run) / "predictions"
    writer: PredictionWriter = build(cfg.writer, "writer", output=str(output), settings=segmenter.settings)
    return writer

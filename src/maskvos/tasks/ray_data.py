"""task=predict on a Ray cluster: Ray Data hands out the videos, and each worker does what one process does alone.

Only paths travel between machines: a worker decodes a video, computes its flow, runs the network and writes the
results. Ray restarts lost workers and reassigns their videos; since writes are atomic and each video has a manifest,
complete videos are skipped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from maskvos.data.datasets.folder import folder
from maskvos.environment import limit_cores, parse_shard
from maskvos.errors import UserError, require
from maskvos.inference.archive import largest_first, share
from maskvos.inference.writer import write_videos
from maskvos.tasks.common import plain, require_checkpoint
from maskvos.tasks.predict import build_segmenter, build_writer
from maskvos.types import Video


def predict_on_ray(cfg: DictConfig) -> dict[str, float]:
    """Segment ``input`` on ``ray.workers`` workers, which have to reach ``input`` and ``output`` under the same paths.

    Returns:
        As `maskvos.tasks.predict.run`.

    Raises:
        UserError: The package is missing, the cluster is not found, videos cannot be segmented, or results not written.
    """
    require("ray", "ray.workers")
    import ray

    if cfg.ray.workers < 0 or cfg.ray.cpus < 1:
        raise UserError(f"ray.workers={cfg.ray.workers}, ray.cpus={cfg.ray.cpus}: workers need a core each; raise them")
    videos = folder(str(cfg.input))
    mine = share(videos, *parse_shard(cfg.shard))
    writer = build_writer(cfg, build_segmenter(cfg))
    try:
        if not ray.is_initialized():
            ray.init(address=cfg.ray.address, log_to_driver=False)
    except ConnectionError as error:
        raise UserError(f"ray.address={cfg.ray.address}: no cluster answers ({error}); start one: ray start") from error
    if cfg.ray.workers * cfg.ray.cpus > (there := int(ray.cluster_resources().get("CPU", 0))):
        raise UserError(
            f"ray.workers={cfg.ray.workers} with ray.cpus={cfg.ray.cpus}: the cluster has {there} cores; lower them"
        )
    left = writer.pending(mine)
    ray.data.DataContext.get_current().enable_progress_bars = bool(cfg.trainer.enable_progress_bar)
    begin = time.perf_counter()
    try:
        for row in _segmented(cfg, [video for video, _ in largest_first(left)], writer.output):
            if row["problem"]:
                writer.failed[row["video"]] = row["problem"]
                if row["unwritable"] or writer.on_error == "fail":
                    raise UserError(row["problem"])
            elif row["frames"]:
                writer.finished.append((row["video"], row["frames"]))
                writer.frames += row["frames"]
    finally:
        writer.seconds = time.perf_counter() - begin
        writer.write_overview(videos)
        print(writer.summary())
    writer.raise_failed(len(mine))
    return writer.metrics()


def _segmented(cfg: DictConfig, videos: Sequence[Video], output: Path) -> Iterator[dict[str, Any]]:
    """One row for each video, in the order in which they are finished."""
    import ray

    if not videos:
        return iter(())
    workers = min(int(cfg.ray.workers), len(videos))
    gpus = cfg.ray.gpus
    if gpus is None:
        gpus = min(1.0, ray.cluster_resources().get("GPU", 0) / workers)
    # Workers may have another current folder.
    settings = plain(cfg) | {"output": str(output.absolute()), "ckpt_path": str(require_checkpoint(cfg).absolute())}
    return (
        # Not ray.data.range, whose tasks wait for a core when the workers have all of them.
        ray.data.from_items([{"id": index} for index in range(len(videos))], override_num_blocks=len(videos))
        .map_batches(
            Worker,
            fn_constructor_args=(settings, videos),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=cfg.ray.cpus,
            num_gpus=gpus,
        )
        .iter_rows()
    )


class Worker:
    """Segments one video after the other, in a process of its own.

    Args:
        settings: The configuration, in plain values.
        videos: All videos to be segmented.
    """

    def __init__(self, settings: dict[str, Any], videos: Sequence[Video]) -> None:
        cfg = OmegaConf.create(settings)
        limit_cores(cfg.ray.cpus)
        self.videos = videos
        self.segmenter = build_segmenter(cfg)
        self.writer = build_writer(cfg, self.segmenter)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Segment the video of an ``id``; what fails is a result, since Ray would take an exception for the end."""
        video = self.videos[int(batch["id"][0])]
        writer, problem, unwritable = self.writer, "", False
        try:
            write_videos(self.segmenter, [video], writer, progress=False, skip=True)
            problem = writer.failed.get(video.name, "")
        except UserError as error:
            problem, unwritable = str(error), True
        frames = dict(writer.finished).get(video.name, 0)
        row = {"video": video.name, "frames": frames, "problem": problem, "unwritable": unwritable}
        return {name: [value] for name, value in row.items()}

"""task=predict: masks, overlays and cut-outs of a movie, a folder of frames, or a folder of such."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from omegaconf import DictConfig

from maskvos.api import load
from maskvos.build import build
from maskvos.data.datasets.folder import folder
from maskvos.environment import parse_shard, processes
from maskvos.errors import UserError
from maskvos.inference.archive import share
from maskvos.inference.engines import check_precision
from maskvos.inference.writer import write_predictions
from maskvos.tasks.common import check_hardware, plain, require_checkpoint
from maskvos.weights.config import InferenceConfig


def run(cfg: DictConfig) -> dict[str, float]:
    """Segment ``input`` and write the results to ``output``.

    Returns:
        Numbers of frames and videos, and frames per second.
    """
    if cfg.input is None:
        raise UserError("task=predict: nothing to segment; give input=<movie | folder of frames | folder of such>")
    check_hardware(cfg)
    check_precision(cfg.trainer.precision)
    videos = folder(str(cfg.input))
    segmenter = load(
        require_checkpoint(cfg),
        device=str(cfg.trainer.accelerator),
        precision=str(cfg.trainer.precision),
        backend=cfg.backend,
        threshold=cfg.threshold,
        config=InferenceConfig.from_config(plain(cfg)),
    )
    output = cfg.output or Path(cfg.paths.run) / "predictions"
    writer = build(cfg.writer, "writer", output=str(output), settings=segmenter.settings)
    (shard, shards), (rank, count) = parse_shard(cfg.shard), processes()
    mine = share(videos, shard * count + rank, shards * count)
    try:
        with ended_by_sigterm():
            write_predictions(segmenter, mine, writer, cfg.trainer.enable_progress_bar, videos)
    except BaseException:
        if writer.finished or writer.skipped:  # that much has been done
            print(writer.summary())
        raise
    print(writer.summary())
    metrics: dict[str, float] = writer.metrics()
    return metrics


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM, which clusters and containers send, ends the block as Ctrl-C does, with exit status 143."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # the clean-up is not interrupted
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # where no handler may be set
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

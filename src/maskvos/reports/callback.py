"""Lightning callback that prints the score table of a test and writes its report."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from maskvos.data.dataset import FrameDataset
from maskvos.reports.examples import predicted_masks
from maskvos.reports.report import about_run, write_report
from maskvos.reports.scores import brief, speed
from maskvos.training.module import SegmentationModule
from maskvos.types import Video


class TestReport(Callback):
    """Prints the score table of a test, and writes frames.csv, sequences.csv, summary.json, report.html and its plots.

    Args:
        folder: Output folder.
        videos: Videos of the test split.
        dataset: Frames of the test split, with ground truth and images.
        config: Resolved configuration as plain containers, shown in the report.
    """

    __test__ = False  # not a test class: keeps pytest from collecting it

    def __init__(
        self, folder: str | Path, videos: Sequence[Video], dataset: FrameDataset, config: Mapping[str, Any]
    ) -> None:
        self.folder = Path(folder)
        self.videos = videos
        self.dataset = dataset
        self.config = config
        self._start = 0.0

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the scores of all processes, and write the report in the first process."""
        module = cast(SegmentationModule, pl_module)
        summary = module.test_metric.summary()
        if not trainer.is_global_zero:
            return
        seconds = time.perf_counter() - self._start
        about = about_run(
            "test",
            self.config,
            self.videos,
            sum(1 for row in summary.frames if row.values),
            seconds,
            str(self.config.get("ckpt_path")),
            _device_name(module.device, trainer.world_size),
        )
        source = predicted_masks(trainer, module, self.dataset, module.test_metric.protocol)
        print(brief(summary))
        print(f"tested {about['frames']} frames in {seconds:.1f} s, {speed(about['frames'] / seconds)} frames/s")
        summary = dataclasses.replace(summary, run=about)
        page = write_report(summary, self.folder, source, progress=trainer.progress_bar_callback is not None)
        print(f"report: {page}")


def _device_name(device: torch.device, processes: int) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device.type} ({name})" + (f", {processes} processes" if processes > 1 else "")

"""Speed benchmark: the network alone in every variant, and the whole pipeline from video to video.

Times are wall times of synchronised calls after a warm-up, variants interleaved, so that other load on the machine
affects all of them alike. CPU time, which excludes waiting, is reported next to it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch

from maskvos.benchmark.network import Timing, multiply_adds, random_images, time_variants
from maskvos.benchmark.pipeline import procedural_video, time_pipeline
from maskvos.benchmark.report import BenchmarkReport
from maskvos.benchmark.variants import VARIANTS, Setting
from maskvos.data.datamodule import VideoDataModule
from maskvos.environment import cpu_name, versions
from maskvos.errors import UserError, nearest
from maskvos.models.network import MaskVOS
from maskvos.settings.table import PRECISIONS, check_settings
from maskvos.types import Video

_PACKAGES = ("maskvos", "torch", "numpy", "opencv-python-headless", "av", "onnxruntime", "openvino")


@dataclass(frozen=True)
class BenchmarkOptions:
    """What to measure.

    Args:
        batches: Batch sizes for the network alone.
        variants: Names from `VARIANTS`; ratios are relative to the first.
        repeats: Timed calls of each variant and batch size.
        warmup: Calls, and frames of the video, before timing.
        frames: Maximum number of frames of the video.
        threads: CPU threads of PyTorch, OpenCV and the other runtimes; None for PyTorch's default.

    Raises:
        UserError: A variant is unknown, a number is below 1, or a list is empty.
    """

    batches: Sequence[int] = (1, 4)
    variants: Sequence[str] = ("eager", "folded", "compile", "onnx")
    repeats: int = 10
    warmup: int = 2
    frames: int = 40
    threads: int | None = None

    def __post_init__(self) -> None:
        check_settings(vars(self), "benchmark")
        for variant in self.variants:
            if variant not in VARIANTS:
                raise UserError(f"benchmark.variants: '{variant}' is unknown; {nearest(str(variant), VARIANTS)}")


def benchmark(
    network: MaskVOS,
    datamodule: VideoDataModule,
    options: BenchmarkOptions,
    video: Video | None = None,
    accelerator: str = "auto",
    precision: str = "32-true",
) -> BenchmarkReport:
    """Measure a network alone and in its pipeline.

    Args:
        network: Speed does not depend on its weights.
        datamodule: Provides the optical flow and the network's input size.
        options: What to measure.
        video: Video to segment; a procedural clip by default.
        accelerator: ``trainer.accelerator``: ``"cpu"``, else CUDA where available.
        precision: ``trainer.precision``.

    Raises:
        UserError: The precision is unknown, or the video or its flow cannot be read.
    """
    check_settings(precision, "trainer.precision")
    kind = PRECISIONS[precision]
    device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    transform = datamodule.eval_transform
    network = network.eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder, use_threads(options.threads) as threads:
        setting = Setting(Path(folder), threads, device, None if kind is None else getattr(torch, kind))
        facts = describe(network, transform.size, setting)
        network = network.to(device)
        timings: list[Timing] = []
        for batch in options.batches:
            prepare = {name: partial(VARIANTS[name], network, setting) for name in options.variants}
            images = random_images(batch, transform.size, device)
            timings += time_variants(prepare, images, options.repeats, options.warmup)
        video = video or procedural_video(setting.folder, options.frames)
        pipeline = time_pipeline(
            network, video, datamodule.flow, transform, setting, options.frames, min(options.warmup, options.frames)
        )
    return BenchmarkReport(facts, timings, {"video": video.name, **pipeline})


@contextlib.contextmanager
def use_threads(count: int | None) -> Iterator[int]:
    """Set the CPU threads of PyTorch and OpenCV within a ``with`` block; None keeps them. Yields PyTorch's number."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    if count is not None:
        torch.set_num_threads(count)
        cv2.setNumThreads(count)
    try:
        yield torch.get_num_threads()
    finally:
        if count is not None:
            torch.set_num_threads(before[0])
            cv2.setNumThreads(before[1])


def describe(network: MaskVOS, size: Sequence[int], setting: Setting) -> dict[str, Any]:
    """Facts that results depend on: device, threads, precision, versions, input size, parameters, multiply-adds."""
    parameters = sum(p.numel() for p in network.parameters())
    return {
        "device": torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else cpu_name(),
        "threads": f"{setting.threads} of {os.cpu_count()} cores",
        "precision": "float32" if setting.dtype is None else f"autocast to {str(setting.dtype).rpartition('.')[2]}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions(_PACKAGES).items()),
        "size": "x".join(map(str, size)) + " (height x width)",
        "parameters": parameters,
        "weights MB": round(sum(p.numel() * p.element_size() for p in network.parameters()) / 2**20, 1),
        "GMACs per frame": round(multiply_adds(network, size), 2),
    }

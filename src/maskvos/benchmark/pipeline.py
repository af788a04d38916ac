"""Time of each stage from video to video: decoding, optical flow, resizing, network, writing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from maskvos.benchmark.network import synchronise
from maskvos.benchmark.variants import Setting, autocast
from maskvos.data.transforms import Transform
from maskvos.flow.store import FlowStore
from maskvos.inference.postprocess import resize_logits
from maskvos.media.draw import draw_overlay
from maskvos.media.images import read_image, write_image
from maskvos.media.video import VideoWriter, read_video
from maskvos.models.network import MaskVOS
from maskvos.synthetic.clips import generate_clip
from maskvos.types import Video

T = TypeVar("T")

PARTS = ("decode", "flow", "resize", "network", "write")
# Height and width of the procedural clip: DAVIS at 480p.
_CLIP_SIZE = (480, 854)
_FRAME_RATE = 24


class _StageClock:
    """Seconds of each stage of each frame."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rows: list[dict[str, float]] = []
        self.begin()

    def begin(self) -> None:
        """Start a frame."""
        self.now = dict.fromkeys(PARTS, 0.0)
        self.start = time.perf_counter()

    def end(self) -> None:
        """Finish a frame."""
        # The flow's stream pulls the frames that it needs, so its time includes decoding them.
        self.now["flow"] -= self.now["decode"]
        self.rows.append({**self.now, "whole": time.perf_counter() - self.start})

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a ``with`` block to a stage."""
        start = time.perf_counter()
        yield
        synchronise(self.device)
        self.now[name] += time.perf_counter() - start

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Iterate, adding the time that each item takes to a stage."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                item = next(iterator, None)
            if item is None:
                return
            yield item


@torch.inference_mode()
def time_pipeline(
    network: MaskVOS, video: Video, flow: FlowStore, transform: Transform, setting: Setting, frames: int, warmup: int
) -> dict[str, Any]:
    """Forward a video frame by frame, one stage after the other, writing mask images and an overlay video.

    Args:
        network: In evaluation mode, on the device.
        video: Video to segment.
        flow: Source of the optical flow.
        transform: Resizes to the network's input size.
        setting: Device, precision, and the folder for outputs.
        frames: Maximum number of frames.
        warmup: Frames at the start that do not count.

    Returns:
        ``<part>_ms`` for each of `PARTS` and ``whole_ms``, medians per frame; ``frames``, the number of frames that
        count, and ``frames_per_second`` over all of them, including closing the video file; ``width`` and ``height``.
    """
    segment = autocast(network.segment, setting)
    source = read_video(video.file) if video.file else (read_image(frame.image) for frame in video.frames)
    clock = _StageClock(setting.device)
    stream = flow.stream(video, clock.each("decode", islice(source, frames)))
    with VideoWriter(setting.folder / "overlay.mp4", _FRAME_RATE) as movie:
        while True:
            clock.begin()
            with clock.stage("flow"):
                item = next(stream, None)
            if item is None:
                break
            image, flow_of = item
            with clock.stage("flow"):
                motion = flow_of()
            size = (image.shape[0], image.shape[1])
            with clock.stage("resize"):
                sample = transform(image, motion)
            with clock.stage("network"):
                logits = segment(*(sample[name][None].to(setting.device) for name in ("rgb", "flow")))
            with clock.stage("resize"):
                mask = resize_logits(logits[0, 0].float().cpu().numpy(), size) > 0
            with clock.stage("write"):
                write_image(setting.folder / f"{len(clock.rows):05d}.png", mask.astype(np.uint8) * 255)
                movie.write(draw_overlay(image, mask))
            clock.end()
        closing = time.perf_counter()
    closing = time.perf_counter() - closing
    rows = clock.rows[min(warmup, len(clock.rows) - 1) :]
    medians = {f"{name}_ms": 1e3 * float(np.median([row[name] for row in rows])) for name in (*PARTS, "whole")}
    rate = len(rows) / (sum(row["whole"] for row in rows) + closing)
    return {**medians, "frames": len(rows), "frames_per_second": rate, "width": size[1], "height": size[0]}


def procedural_video(folder: Path, frames: int) -> Video:
    """Write a procedural clip of 854x480 as a video file."""
    path = folder / "clip.mp4"
    with VideoWriter(path, _FRAME_RATE) as movie:
        for rgb in generate_clip((0,), frames, _CLIP_SIZE).rgb:
            movie.write(rgb)
    return Video(name="procedural clip", file=path)

"""Segment a long movie, and report how memory, open files and threads change while it runs.

An hour of video at 25 frames per second, small, is generated as one H.264 movie:

    python scripts/benchmarks/soak.py --output soak

Prints one line per sample, and at the end the slope of the resident memory over the second half: flat is what does not
grow with the length of the video.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import maskvos
from maskvos.api import load
from maskvos.data.datasets.folder import folder
from maskvos.inference.segmenter import SegmentedFrame, Segmenter
from maskvos.inference.writer import PredictionWriter, write_predictions
from maskvos.media.video import VideoWriter
from maskvos.weights import bundled
from maskvos.weights.config import InferenceConfig, read_config


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=90_000)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 96), help="height and width, pixels")
    parser.add_argument("--every", type=int, default=1000, help="frames between samples")
    given = parser.parse_args()
    movie = given.output / "movie.mp4"
    if not movie.exists():
        generate(movie, given.frames, tuple(given.size))
    config = InferenceConfig.from_config(read_config(bundled.find("light") or "") or {}).check("light")
    model = load("light", device="cpu", config=replace(config, size=given.size))
    samples: list[tuple[float, ...]] = []
    watch(model, samples, given.every)
    writer = PredictionWriter(given.output / "out", ["mask_movie", "overlay"], "overwrite", settings=model.settings)
    begin = time.perf_counter()
    write_predictions(model, folder(movie), writer, progress=False)
    samples.append((given.frames, *usage()))
    report(samples, given.frames / (time.perf_counter() - begin))


def generate(path: Path, frames: int, size: tuple[int, int]) -> None:
    """Write a movie of a bright square that moves over noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = size
    noise = np.random.default_rng(0).integers(0, 120, (16, height, width, 3), dtype=np.uint8)
    with VideoWriter(path, fps=25) as writer:
        for index in range(frames):
            frame = noise[index % 16].copy()
            left = index % (width - 16)
            frame[height // 4 : height // 4 + 16, left : left + 16] = (255, 200, 40)
            writer.write(frame)


def watch(model: Segmenter, samples: list[tuple[float, ...]], every: int) -> None:
    """Sample whenever that many frames have been segmented."""
    stream = model.stream_video

    def watched(*arguments: Any) -> Iterator[SegmentedFrame]:
        for frame in stream(*arguments):
            if frame.index % every == 0:
                samples.append((frame.index, *usage()))
                print("frame {:.0f}: {:.1f} MB, {:.0f} files, {:.0f} threads".format(*samples[-1]), flush=True)
            yield frame

    model.stream_video = watched  # type: ignore[method-assign]


def usage() -> tuple[float, float, float]:
    """Resident memory in MB, open files, threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd")), threading.active_count()


def report(samples: list[tuple[float, ...]], rate: float) -> None:
    """Print the slopes over the second half, and what is left at the end."""
    table = np.array(samples)
    second = table[len(table) // 2 : -1]  # the last one is after the end
    slopes = np.polyfit(second[:, 0], second[:, 1:], 1)[0] * 90_000
    print(f"maskvos {maskvos.__version__}: {table[-1, 0]:.0f} frames, {rate:.1f} frames/s")
    print(f"second half, per hour of video: {slopes[0]:+.2f} MB, {slopes[1]:+.2f} files, {slopes[2]:+.2f} threads")
    print("largest: {:.1f} MB, {:.0f} files, {:.0f} threads".format(*table[:, 1:].max(0)))
    print("at the end: {:.1f} MB, {:.0f} files, {:.0f} threads".format(*table[-1, 1:]))


if __name__ == "__main__":
    main()

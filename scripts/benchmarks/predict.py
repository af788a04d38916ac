"""Measure prediction end to end, from a movie to masks and overlay: version 0.1's way, and each engine.

The measurements alternate within one run. ``--busy`` repeats them beside a process that keeps one core busy, and
``--start`` measures the time from starting the command to the first mask on disk.

    python scripts/benchmarks/predict.py --busy --start
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import maskvos  # sets OpenMP's waiting policy, so it comes before torch

# isort: split
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from busy import busy
from torch.utils.data import DataLoader, IterableDataset

from maskvos.benchmark.pipeline import procedural_video
from maskvos.data.datasets.folder import folder
from maskvos.data.streams import FrameTimes
from maskvos.environment import cores, versions
from maskvos.flow.base import resize_flow
from maskvos.inference.engines import Engine
from maskvos.inference.segmenter import SegmentedFrame, Segmenter
from maskvos.inference.tta import TTA
from maskvos.inference.writer import PredictionWriter, write_predictions
from maskvos.media.images import resize_image
from maskvos.media.video import Reading, read_video
from maskvos.text import markdown_table
from maskvos.types import Video
from maskvos.weights import bundled
from maskvos.weights.checkpoint import load_network
from maskvos.weights.config import InferenceConfig, read_config

WEIGHTS = bundled.find(bundled.DEFAULT) or ""
CONFIG = InferenceConfig.from_config(read_config(WEIGHTS) or {})
SIZE = tuple(CONFIG.size)
ENGINES = ["torch", "onnx", "openvino", "openvino-bf16"]
STAGES = ("decode", "flow", "resize", "network", "write")


class _Baseline:
    """Version 0.1: a process reads and computes flow, PyTorch runs the network twice per frame, a thread writes."""

    batch_size = 8

    def __init__(self) -> None:
        self.network = load_network(WEIGHTS, CONFIG.model).fold()
        self.tta = TTA(True, {"direction": "backward", "gap": 1})
        self.settings: dict[str, Any] = {"weights": "baseline"}

    @torch.inference_mode()
    def stream_video(self, video: Video, times: FrameTimes, reading: Reading | None = None) -> Iterator[SegmentedFrame]:
        """See `Segmenter.stream_video`."""
        loader = DataLoader(_Samples(video.file), self.batch_size, num_workers=1, collate_fn=list, prefetch_factor=2)
        index = 0
        for samples in loader:
            names = ("rgb", "flow", "tta_flow")
            logits = self.tta(self.network.segment, {name: torch.stack([s[name] for s in samples]) for name in names})
            for sample, logit in zip(samples, logits, strict=True):
                size = sample["image"].shape[:2]
                resized = F.interpolate(logit[None], size, mode="bilinear", align_corners=False)
                probability = resized.sigmoid()[0, 0].numpy()
                yield SegmentedFrame(
                    sample["image"], probability, probability > 0.5, index, 0.0, f"{index:05d}", sample["flow"].numpy()
                )
                index += 1
        if reading is not None:
            reading.frames, reading.ended = index, True


class _Samples(IterableDataset[dict[str, Any]]):
    """Frames with forward and backward flow, as version 0.1 computed them."""

    def __init__(self, movie: Path | None) -> None:
        self.movie = movie

    def __iter__(self) -> Iterator[dict[str, Any]]:
        cv2.setNumThreads(0)
        dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        frames = list(read_video(self.movie or ""))
        for index, image in enumerate(frames):
            after = frames[min(index + 1, len(frames) - 1)]
            before = frames[max(index - 1, 0)]
            flows = {"flow": _flow(dis, image, after), "tta_flow": -_flow(dis, image, before)}
            tensors = {name: _tensor(resize_flow(flow, SIZE)) for name, flow in flows.items()}
            yield {"image": image, "rgb": _tensor(resize_image(image, SIZE)).div(255), **tensors}


def _flow(dis: Any, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """DIS flow at a longest side of 448 pixels, resized back to the frame; both frames are resized for every pair."""
    height, width = first.shape[:2]
    working = round(height * 448 / max(height, width)), round(width * 448 / max(height, width))
    grey = []
    for frame in (first, second):
        small = F.interpolate(_tensor(frame)[None], working, mode="bilinear", align_corners=False, antialias=True)
        rgb = small.round_().clamp_(0, 255).byte()[0].permute(1, 2, 0).numpy()
        grey.append(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY))
    return resize_flow(dis.calc(*grey, None), (height, width))


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1))).float()


def rate(model: Any, video: Video, output: Path) -> float:
    """Frames per second from reading to writing masks and overlay."""
    writer = PredictionWriter(output, existing="overwrite", settings=model.settings)
    write_predictions(model, [video], writer, progress=False)
    return writer.metrics()["predict/frames_per_second"]


def stages(model: Segmenter, video: Video, output: Path, frames: int = 20) -> dict[str, float]:
    """Milliseconds per frame of each stage, one stage after the other, one core each."""
    spent = dict.fromkeys(STAGES, 0.0)

    def timed(stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = call(*arguments, **options)
            spent[stage] += time.perf_counter() - start
            return result

        return run

    engine: Engine = model.engine
    with tempfile.TemporaryDirectory(dir=output) as place:
        writer = PredictionWriter(place, settings=model.settings)
        results = writer.folder(video)
        source = model.frames.of_video(video)
        advance = timed("decode", lambda: next(source, None))
        count = 0
        while (frame := advance()) is not None and count < frames:
            flow = timed("flow", frame.flow)()
            begin = time.perf_counter(), spent["network"]
            prepared = model._prepare(replace(frame, flow=lambda flow=flow: flow))
            (segmented,) = model._segment([prepared], timed("network", engine))  # type: ignore[arg-type]
            segmented = segmented.refined() if model.refine else segmented
            spent["resize"] += time.perf_counter() - begin[0] - (spent["network"] - begin[1])
            if count == 0:
                results.begin(writer.kinds, segmented.mask.shape, FrameTimes(24), True)  # type: ignore[arg-type]
            timed("write", results.add)(segmented)
            count += 1
        timed("write", results.finish)(Reading(count, ended=True))
    return {stage: 1e3 * seconds / count for stage, seconds in spent.items()}


def first_mask(movie: Path, output: Path) -> float:
    """Seconds from starting the command to the first mask on disk."""
    command = [sys.executable, "-m", "maskvos.run", "task=predict", f"input={movie}", f"output={output}"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not any(output.rglob("masks/[!.]*.png")) and process.poll() is None:
            time.sleep(0.005)
        seconds = time.perf_counter() - start
    return seconds


def _load(engine: str) -> Segmenter:
    backend, _, precision = engine.partition("-")
    return maskvos.load(backend=backend, device="cpu", precision="bf16-mixed" if precision else "32-true")


def main() -> None:
    """Run the measurements and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, help="a movie; by default a procedural clip of 854x480")
    parser.add_argument("--frames", type=int, default=100, help="frames of the procedural clip")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="measure beside a busy process, too")
    parser.add_argument("--start", action="store_true", help="measure the time to the first mask, too")
    parser.add_argument("--json", type=Path, help="also write all measurements to this file")
    options = parser.parse_args()
    torch.set_num_threads(cores())
    with tempfile.TemporaryDirectory() as folder_name:
        place = Path(folder_name)
        movie = options.input or procedural_video(place, options.frames).file
        (video,) = folder(movie)
        models: dict[str, Any] = {"version 0.1": _Baseline()}
        models |= {name: _load(name) for name in options.engines}
        rates: dict[tuple[str, bool], list[float]] = {}
        for repeat in range(options.repeats + 1):
            for name, model in models.items():
                for loaded in (False, True) if options.busy else (False,):
                    with busy(loaded):
                        found = rate(model, video, place / "out")
                    if repeat:  # the first round warms up
                        rates.setdefault((name, loaded), []).append(found)
        medians = {key: statistics.median(values) for key, values in rates.items()}
        shares = {name: stages(models[name], video, place) for name in options.engines}
        head = ["way", "frames/s", "against 0.1", *(["beside a busy core", "kept"] if options.busy else [])]
        rows = []
        for name in models:
            quiet = medians[name, False]
            row = [name, f"{quiet:.2f}", f"{quiet / medians['version 0.1', False]:.2f}"]
            if options.busy:
                row += [f"{medians[name, True]:.2f}", f"{medians[name, True] / quiet:.0%}"]
            rows.append(row)
        print(", ".join(f"{name} {version}" for name, version in versions(["maskvos", "torch", "onnxruntime"]).items()))
        print(f"{cores()} cores, load average {os.getloadavg()[0]:.1f}\n")
        print(markdown_table(head, rows))
        print("\nMilliseconds per frame of each stage on one core\n")
        rows = [[name, *(f"{share[stage]:.1f}" for stage in STAGES)] for name, share in shares.items()]
        print(markdown_table(["engine", *STAGES], rows))
        if options.start:
            times = [first_mask(movie, place / f"start{index}") for index in range(options.repeats)]
            print(f"\nfirst mask after {statistics.median(times):.2f} s")
        if options.json:
            plain = {f"{name}{' busy' if loaded else ''}": values for (name, loaded), values in rates.items()}
            options.json.write_text(json.dumps({"rates": plain, "stages": shares}, indent=2) + "\n")


if __name__ == "__main__":
    main()

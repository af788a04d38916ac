"""Speed: of the network alone in every form that it can run in, and of all that happens to a frame of a movie.

Times are wall times of calls that were waited for, on a GPU too, taken after a warm-up, all variants in turns, so that
whatever else the machine does falls on all of them alike. Processor time, which does not count waiting, stands beside.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from maskvos.data.datamodule import VideoDataModule
from maskvos.data.transforms import Transform
from maskvos.errors import UserError, nearest
from maskvos.flow.store import FlowStore
from maskvos.media.draw import draw_overlay
from maskvos.media.video import VideoWriter, read_image, read_video, write_bytes, write_image
from maskvos.models.network import MaskVOS
from maskvos.synthetic.clips import generate_clip
from maskvos.training.module import probabilities
from maskvos.types import Video
from maskvos.weights.export import export, load_exported

log = logging.getLogger(__name__)
T = TypeVar("T")

Segment = Callable[[Tensor, Tensor], Any]
"""From rgb (B, 3, H, W) in [0, 1] and flow (B, 2, H, W) in pixels to logits."""

PARTS = ("decode", "flow", "resize", "network", "write")
PRECISIONS = {
    "32-true": None,
    "32": None,
    "bf16-mixed": torch.bfloat16,
    "bf16": torch.bfloat16,
    "16-mixed": torch.float16,
    "16": torch.float16,
}
_PACKAGES = ("maskvos", "torch", "numpy", "opencv-python-headless", "av", "onnxruntime", "openvino")
# Height and width of the procedural clip: those of DAVIS at 480p.
_CLIP_SIZE = (480, 854)
_FRAME_RATE = 24
# Runtimes that keep the memory of their first call, so that no later one adds any.
_HOARDERS = ("onnx", "openvino")
# Numbers of glibc's mallopt, and the bit in the word before a block by which it marks a mapping of its own.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _IS_MMAPPED = -1, -3, 2
_WORD = ctypes.sizeof(ctypes.c_size_t)
_OWN_MAPPING, _LARGEST_GAP = 2**17, 2**32


# -------------------------------------------------------------------- variants


class Setting(NamedTuple):
    """Where variants run: a folder for files, CPU threads, the device, and autocast's dtype (None: 32 bit)."""

    folder: Path
    threads: int
    device: torch.device
    dtype: torch.dtype | None = None


def _eager(network: MaskVOS, setting: Setting) -> Segment:
    return _autocast(network.segment, setting)


def _fused(network: MaskVOS, setting: Setting) -> Segment:
    return _autocast(network.fuse().segment, setting)


def _compiled(network: MaskVOS, setting: Setting) -> Segment:
    return _autocast(torch.compile(network.fuse().segment, dynamic=False), setting)


def _onnx(network: MaskVOS, setting: Setting) -> Segment:
    return load_exported(_onnx_file(network, setting), "onnx", setting.threads)


def _openvino(network: MaskVOS, setting: Setting) -> Segment:
    if importlib.util.find_spec("openvino") is None:
        raise UserError("the package 'openvino' is not installed; pip install openvino")
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": setting.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(str(_onnx_file(network, setting)), "CPU", settings)
    return lambda rgb, flow: compiled({"rgb": rgb.numpy(), "flow": flow.numpy()})


def _onnx_file(network: MaskVOS, setting: Setting) -> Path:
    """The network as a file, written once."""
    if setting.device.type != "cpu":
        raise UserError("exported files run on the CPU only; measure them with trainer.accelerator=cpu")
    if setting.dtype is not None:
        raise UserError("exported files compute in 32 bits; measure them with trainer.precision=32-true")
    path = setting.folder / "network.onnx"
    return path if path.exists() else export(network, path)


def _autocast(segment: Segment, setting: Setting) -> Segment:
    if setting.dtype is None:
        return segment

    def run(rgb: Tensor, flow: Tensor) -> Any:
        with torch.autocast(setting.device.type, setting.dtype):
            return segment(rgb, flow)

    return run


VARIANTS: dict[str, Callable[[MaskVOS, Setting], Segment]] = {
    "eager": _eager,
    "fused": _fused,
    "compile": _compiled,
    "onnx": _onnx,
    "openvino": _openvino,
}


@dataclass(frozen=True)
class Options:
    """What is measured.

    Args:
        batches: Batch sizes of the network alone.
        variants: Of `VARIANTS`; ratios are those to the first one.
        repeats: Timed calls of each variant and batch.
        warmup: Calls, and frames of the movie, that are not counted.
        frames: At most so many frames of the movie.
        threads: CPU threads of torch, OpenCV and the runtimes; None: torch's own choice.

    Raises:
        UserError: A variant is unknown or a number too small.
    """

    batches: Sequence[int] = (1, 4)
    variants: Sequence[str] = ("eager", "fused", "compile", "onnx")
    repeats: int = 10
    warmup: int = 2
    frames: int = 40
    threads: int | None = None

    def __post_init__(self) -> None:
        for variant in self.variants:
            if variant not in VARIANTS:
                raise UserError(f"benchmark.variants: there is no '{variant}'; {nearest(str(variant), VARIANTS)}")
        numbers = {"repeats": self.repeats, "warmup": self.warmup, "frames": self.frames, "threads": self.threads or 1}
        for name, value in [*numbers.items(), *(("batches", batch) for batch in self.batches)]:
            if value < 1:
                raise UserError(f"benchmark.{name} is {value}; it must be at least 1")
        for name, values in {"variants": self.variants, "batches": self.batches}.items():
            if not values:
                raise UserError(f"benchmark.{name} is empty; name at least one")


# -------------------------------------------------------------------- the network alone


@dataclass(frozen=True)
class Timing:
    """Calls of one variant with one batch.

    Attributes:
        variant: Its name.
        batch: Frames per call.
        wall: Seconds of each call.
        processor: Processor seconds of each call, all threads together.
        peak_mb: Memory in MiB that a call adds at most, beside weights and inputs; None where it cannot be told.
        problem: Why it could not run; then there are no times.
    """

    variant: str
    batch: int
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    peak_mb: float | None = None
    problem: str = ""

    def figures(self) -> dict[str, Any]:
        """Everything about it, and what follows: milliseconds per call, their quartiles, frames per second."""
        figures: dict[str, Any] = dict(vars(self))
        if not self.problem:
            low, median, high = (1e3 * float(q) for q in np.percentile(self.wall, (25, 50, 75)))
            processor = 1e3 * float(np.median(self.processor))
            figures |= {"ms": median, "ms_low": low, "ms_high": high, "processor_ms": processor}
            figures["frames_per_second"] = 1e3 * self.batch / median
        return figures


def compare(
    prepare: Mapping[str, Callable[[], Segment]], images: tuple[Tensor, Tensor], repeats: int, warmup: int
) -> list[Timing]:
    """Time variants in turns.

    Args:
        prepare: Name of each variant to what makes it ready.
        images: rgb (B, 3, H, W) and flow (B, 2, H, W) on the device.
        repeats: Timed calls of each.
        warmup: Calls of each beforehand.

    Returns:
        One timing per variant, in their order; one that cannot run says why.
    """
    ready: dict[str, tuple[Segment, float | None]] = {}
    problems: dict[str, str] = {}
    for name, make in prepare.items():
        # What a missing package, a missing compiler or too little memory raises; the other variants go on.
        try:
            with torch.no_grad():
                segment = make()
            ready[name] = segment, _warm(name, segment, images, warmup)
        except (UserError, ImportError, RuntimeError) as error:
            problems[name] = next((line for line in str(error).splitlines() if line.strip()), repr(error))[:200]
            log.warning("benchmark: %s cannot run: %s", name, problems[name])
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ready}
    for _ in range(repeats):
        for name, (segment, _peak) in ready.items():
            times[name].append(_time(segment, images))
    timings = []
    for name in prepare:
        wall, processor = ([seconds[kind] for seconds in times.get(name, [])] for kind in (0, 1))
        peak = ready[name][1] if name in ready else None
        timings.append(Timing(name, len(images[0]), wall, processor, peak, problems.get(name, "")))
    return timings


@torch.inference_mode()
def _warm(name: str, segment: Segment, images: tuple[Tensor, Tensor], warmup: int) -> float | None:
    """Call it so often; returns the memory in MiB that one call adds."""
    if not name.endswith(_HOARDERS):
        segment(*images)  # or what libraries and compilers need to start would be taken for the network's
    peak = added_memory(lambda: segment(*images), images[0].device)
    for _ in range(warmup - 1):
        segment(*images)
    return peak


@torch.inference_mode()
def _time(segment: Segment, images: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    synchronise(images[0].device)
    wall, processor = time.perf_counter(), time.process_time()
    segment(*images)
    synchronise(images[0].device)
    return time.perf_counter() - wall, time.process_time() - processor


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def added_memory(call: Callable[[], object], device: torch.device) -> float | None:
    """MiB by which a call raises the memory in use at its peak; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        allocated = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - allocated) / 2**20
    with _memory_returned():
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the peak to the present size
            before = _resident("VmRSS")
        except OSError:
            call()
            return None
        call()
        return max(_resident("VmHWM") - before, 0.0)


@contextlib.contextmanager
def _memory_returned() -> Iterator[None]:
    """Within, every tensor of some size takes its memory from the system, and gives it back when freed (glibc only).

    Otherwise the call would take again, unseen, what was freed before; and what it takes and frees within the gaps that
    earlier calls left in the heap would count as held.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _OWN_MAPPING)
    libc.malloc_trim(0)
    gaps = _fill_gaps(libc)
    try:
        yield
    finally:
        for block in gaps:
            libc.free(block)
        # Where the allocator's own adjustment ends up in a process with such tensors.
        libc.mallopt(_MMAP_THRESHOLD, 2**25)
        libc.mallopt(_TRIM_THRESHOLD, 2**26)


def _fill_gaps(libc: ctypes.CDLL) -> list[ctypes.c_void_p]:
    """Take every free piece of the heap that a tensor could take; only the first page of each is ever touched."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    blocks, size = [], _LARGEST_GAP
    while size >= _OWN_MAPPING:
        block = libc.malloc(size)
        if block is not None and not ctypes.c_size_t.from_address(block - _WORD).value & _IS_MMAPPED:
            blocks.append(ctypes.c_void_p(block))
            continue
        libc.free(ctypes.c_void_p(block))
        size //= 2
    return blocks


def _resident(name: str) -> float:
    """MiB of physical memory, now (VmRSS) or at most so far (VmHWM)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(name)) / 2**10


def multiply_adds(network: nn.Module, size: Sequence[int]) -> float:
    """Of matrix products and convolutions for one frame of (H, W), in units of 1e9."""
    images = torch.empty(2, 1, 3, *size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(network).to("meta")(*images)
    return counter.get_total_flops() / 2e9


def random_images(batch: int, size: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Noise in the place of frames (B, 3, H, W) in [0, 1] and of flow (B, 2, H, W) in pixels."""
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(batch, 3, *size, generator=generator)
    return rgb.to(device), (3 * torch.randn(batch, 2, *size, generator=generator)).to(device)


# -------------------------------------------------------------------- from movie to movie


class _Clock:
    """Seconds of each part of each frame."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rows: list[dict[str, float]] = []
        self.begin()

    def begin(self) -> None:
        """A frame begins."""
        self.now = dict.fromkeys(PARTS, 0.0)
        self.start = time.perf_counter()

    def end(self) -> None:
        """It is done."""
        # Flow is estimated while the frames stream in, so the time of reading them is a part of its time.
        self.now["flow"] -= self.now["decode"]
        self.rows.append({**self.now, "whole": time.perf_counter() - self.start})

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens within is this part's."""
        start = time.perf_counter()
        yield
        synchronise(self.device)
        self.now[name] += time.perf_counter() - start

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The same items; making them is this part's."""
        iterator = iter(items)
        while True:
            with self.part(name):
                item = next(iterator, None)
            if item is None:
                return
            yield item


@torch.inference_mode()
def time_pipeline(
    network: MaskVOS, video: Video, flow: FlowStore, transform: Transform, setting: Setting, frames: int, warmup: int
) -> dict[str, Any]:
    """Segment a video, one part after the other, a frame at a time: a mask image and an overlay movie are written.

    Args:
        network: On the device, in evaluation mode.
        video: What is segmented.
        flow: Where optical flow comes from.
        transform: To the network's size.
        setting: Device, precision, and a folder for what is written.
        frames: At most so many frames.
        warmup: Frames at the start that do not count.

    Returns:
        ``<part>_ms`` of `PARTS` and ``whole_ms``, medians per frame; ``frames``, those that count, and
        ``frames_per_second`` over all of these, finishing the movie included; ``width`` and ``height``.
    """
    segment = _autocast(network.segment, setting)
    source = read_video(video.file) if video.file else (read_image(frame.image) for frame in video.frames)
    clock = _Clock(setting.device)
    stream = flow.stream(video, clock.each("decode", islice(source, frames)))
    with VideoWriter(setting.folder / "overlay.mp4", _FRAME_RATE) as movie:
        while True:
            clock.begin()
            with clock.part("flow"):
                item = next(stream, None)
            if item is None:
                break
            image, motion = item
            size = (image.shape[0], image.shape[1])
            with clock.part("resize"):
                sample = transform(image, motion)
            with clock.part("network"):
                logits = segment(*(sample[name][None].to(setting.device) for name in ("rgb", "flow")))
            with clock.part("resize"):
                mask = probabilities(logits, [size])[0] > 0.5
            with clock.part("write"):
                write_image(setting.folder / f"{len(clock.rows):05d}.png", mask.astype(np.uint8) * 255)
                movie.write(draw_overlay(image, mask))
            clock.end()
        closing = time.perf_counter()
    closing = time.perf_counter() - closing
    rows = clock.rows[min(warmup, len(clock.rows) - 1) :]
    medians = {f"{name}_ms": 1e3 * float(np.median([row[name] for row in rows])) for name in (*PARTS, "whole")}
    rate = len(rows) / (sum(row["whole"] for row in rows) + closing)
    return {**medians, "frames": len(rows), "frames_per_second": rate, "width": size[1], "height": size[0]}


def procedural_movie(folder: Path, frames: int) -> Video:
    """A drawn clip as a movie of 854x480."""
    path = folder / "clip.mp4"
    with VideoWriter(path, _FRAME_RATE) as movie:
        for rgb in generate_clip((0,), frames, _CLIP_SIZE).rgb:
            movie.write(rgb)
    return Video(name="procedural clip", file=path)


# -------------------------------------------------------------------- all of it


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        facts: About machine, versions and network.
        network: Of the network alone.
        pipeline: As `time_pipeline`.
    """

    facts: dict[str, Any]
    network: list[Timing]
    pipeline: dict[str, Any]

    def table(self) -> str:
        """Markdown: facts, network only, end to end."""
        facts = "\n".join(f"- {name}: {_shown(value)}" for name, value in self.facts.items())
        return (
            f"{facts}\n\nNetwork only, inputs on the device\n\n{network_table(self.network)}\n"
            f"End to end, {self.pipeline['frames']} frames of {self.pipeline['video']} at "
            f"{self.pipeline['width']}x{self.pipeline['height']}, one part after the other\n\n"
            f"{pipeline_table(self.pipeline)}"
        )

    def write(self, folder: str | Path) -> None:
        """Write ``benchmark.md`` and, with every single time, ``benchmark.json``.

        Raises:
            UserError: The folder cannot be written to.
        """
        everything = {
            "facts": self.facts,
            "network": [timing.figures() for timing in self.network],
            "pipeline": self.pipeline,
        }
        write_bytes(Path(folder) / "benchmark.md", self.table().encode())
        write_bytes(Path(folder) / "benchmark.json", (json.dumps(everything, indent=1) + "\n").encode())

    def metrics(self) -> dict[str, float]:
        """The main figures by name."""
        speeds = {
            f"benchmark/{timing.variant}_{timing.batch}_frames_per_second": timing.figures()["frames_per_second"]
            for timing in self.network
            if not timing.problem
        }
        return {**speeds, "benchmark/pipeline_frames_per_second": self.pipeline["frames_per_second"]}


def network_table(timings: Sequence[Timing]) -> str:
    """One row per batch and variant; ratios are those to the first variant that ran with the same batch."""
    lines = [
        "| variant | batch | ms: median (middle half) | ratio | processor ms | ratio | frames/s | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    first: dict[int, dict[str, Any]] = {}
    for timing in timings:
        if timing.problem:
            lines.append(f"| {timing.variant} | {timing.batch} | cannot run: {timing.problem} | | | | | |")
            continue
        row = timing.figures()
        base = first.setdefault(timing.batch, row)
        peak = "" if timing.peak_mb is None else f"{timing.peak_mb:.0f}"
        lines.append(
            f"| {timing.variant} | {timing.batch} | {row['ms']:.1f} ({row['ms_low']:.1f}-{row['ms_high']:.1f}) | "
            f"{row['ms'] / base['ms']:.3f} | {row['processor_ms']:.1f} | "
            f"{row['processor_ms'] / max(base['processor_ms'], 1e-9):.3f} | {row['frames_per_second']:.2f} | {peak} |"
        )
    return "\n".join(lines) + "\n"


def pipeline_table(pipeline: Mapping[str, Any]) -> str:
    """One row per part."""
    what = {"resize": "resize, both ways", "network": "network, eager", "write": "write mask and overlay"}
    lines = ["| part | ms per frame: median |", "|---|---|"]
    lines += [f"| {what.get(part, part)} | {pipeline[f'{part}_ms']:.1f} |" for part in PARTS]
    rate = pipeline["frames_per_second"]
    return "\n".join([*lines, f"| whole | {pipeline['whole_ms']:.1f} ({rate:.2f} frames/s) |"]) + "\n"


def benchmark(
    network: MaskVOS,
    datamodule: VideoDataModule,
    options: Options,
    video: Video | None = None,
    accelerator: str = "auto",
    precision: str = "32-true",
) -> Report:
    """Measure a network alone and in its pipeline.

    Args:
        network: Its weights do not matter to speed.
        datamodule: Gives the flow and the network's size.
        options: What is measured.
        video: What is segmented; a procedural clip by default.
        accelerator: As the trainer's: ``"cpu"``, or a CUDA device where there is one.
        precision: As the trainer's: 32 bit, or mixed.

    Raises:
        UserError: The precision is none of `PRECISIONS`, or the video or its flow cannot be read.
    """
    if precision not in PRECISIONS:
        raise UserError(f"trainer.precision={precision}: cannot be measured; {nearest(precision, PRECISIONS)}")
    device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    transform = datamodule.eval_transform
    network = network.eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder, use_threads(options.threads) as threads:
        setting = Setting(Path(folder), threads, device, PRECISIONS[precision])
        facts = describe(network, transform.size, setting)
        network = network.to(device)
        timings: list[Timing] = []
        for batch in options.batches:
            prepare = {name: _prepared(name, network, setting) for name in options.variants}
            images = random_images(batch, transform.size, device)
            timings += compare(prepare, images, options.repeats, options.warmup)
        video = video or procedural_movie(setting.folder, options.frames)
        pipeline = time_pipeline(
            network, video, datamodule.flow, transform, setting, options.frames, min(options.warmup, options.frames)
        )
    return Report(facts, timings, {"video": video.name, **pipeline})


def _prepared(name: str, network: MaskVOS, setting: Setting) -> Callable[[], Segment]:
    return lambda: VARIANTS[name](network, setting)


@contextlib.contextmanager
def use_threads(count: int | None) -> Iterator[int]:
    """Give torch and OpenCV so many CPU threads for a while; None leaves them alone. Yields torch's number."""
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
    """What figures depend on: device, threads, versions, and the network's size."""
    parameters = sum(p.numel() for p in network.parameters())
    return {
        "device": torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else _processor(),
        "threads": f"{setting.threads} of {os.cpu_count()} cores",
        "precision": "float32" if setting.dtype is None else f"autocast to {str(setting.dtype).rpartition('.')[2]}",
        "versions": ", ".join([f"python {platform.python_version()}", *_versions()]),
        "size": "x".join(map(str, size)) + " (height x width)",
        "parameters": parameters,
        "weights MB": round(sum(p.numel() * p.element_size() for p in network.parameters()) / 2**20, 1),
        "GMACs per frame": round(multiply_adds(network, size), 2),
    }


def _processor() -> str:
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
        if named and named != "unknown":
            return named
    return platform.processor() or platform.machine()


def _versions() -> Iterator[str]:
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield f"{package} {importlib.metadata.version(package)}"


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)

"""Time and memory of the network alone, with interleaved variants, and its multiply-adds."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from maskvos.benchmark.memory import peak_memory
from maskvos.benchmark.variants import OUTSIDE_TORCH, Forward
from maskvos.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """Timed calls of one variant at one batch size.

    Attributes:
        variant: Name of the variant.
        batch: Frames per call.
        wall: Wall time of each call, seconds.
        processor: CPU time of each call, seconds, all threads together.
        peak_mb: Peak memory that a call allocates besides weights and inputs, MiB; None if not measured.
        problem: Why the variant cannot run (there are no times then); empty if it runs.
    """

    variant: str
    batch: int
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    peak_mb: float | None = None
    problem: str = ""

    def figures(self) -> dict[str, Any]:
        """All attributes, with milliseconds per call (median and quartiles) and frames per second."""
        figures: dict[str, Any] = dict(vars(self))
        if not self.problem:
            low, median, high = (1e3 * float(q) for q in np.percentile(self.wall, (25, 50, 75)))
            processor = 1e3 * float(np.median(self.processor))
            figures |= {"ms": median, "ms_low": low, "ms_high": high, "processor_ms": processor}
            figures["frames_per_second"] = 1e3 * self.batch / median
        return figures


def time_variants(
    prepare: Mapping[str, Callable[[], Forward]], images: tuple[Tensor, Tensor], repeats: int, warmup: int
) -> list[Timing]:
    """Time variants interleaved call by call, so that other load on the machine affects all of them alike.

    Args:
        prepare: Variant name to the function that builds it.
        images: rgb (B, 3, H, W) and flow (B, 2, H, W) on the device.
        repeats: Timed calls of each variant.
        warmup: Calls of each variant before timing.

    Returns:
        One timing per variant, in order; a variant that cannot run has a `problem`.
    """
    ready: dict[str, tuple[Forward, float | None]] = {}
    problems: dict[str, str] = {}
    for name, make in prepare.items():
        # Raised for a missing package, a missing compiler or too little memory; the other variants still run.
        try:
            with torch.no_grad():
                segment = make()
            ready[name] = segment, _warm_up(name, segment, images, warmup)
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
def _warm_up(name: str, segment: Forward, images: tuple[Tensor, Tensor], warmup: int) -> float | None:
    """Call a variant ``warmup`` times, and once more to measure its peak memory in MiB."""
    for _ in range(warmup):
        segment(*images)
    # By suffix: a variant may have a prefix such as "bf16-".
    return None if name.endswith(OUTSIDE_TORCH) else peak_memory(lambda: segment(*images), images[0].device)


@torch.inference_mode()
def _time(segment: Forward, images: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    synchronise(images[0].device)
    wall, processor = time.perf_counter(), time.process_time()
    segment(*images)
    synchronise(images[0].device)
    return time.perf_counter() - wall, time.process_time() - processor


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def multiply_adds(network: nn.Module, size: Sequence[int]) -> float:
    """Multiply-adds (MACs) of matrix products and convolutions for one frame of (H, W), in units of 1e9."""
    images = torch.empty(2, 1, 3, *size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(network).requires_grad_(False).to("meta")(*images)
    return counter.get_total_flops() / 2e9


def random_images(batch: int, size: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Random frames (B, 3, H, W) in [0, 1] and random flow (B, 2, H, W) in pixels, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(batch, 3, *size, generator=generator)
    return rgb.to(device), (3 * torch.randn(batch, 2, *size, generator=generator)).to(device)

"""Peak memory of a call, as allocated by PyTorch on the CPU or on a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

# Kineto, the profiler's backend, reports its own start and stop on stderr below this level.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


def peak_memory(call: Callable[[], object], device: torch.device) -> float:
    """Measure the memory that a call allocates at its peak, on top of what was allocated before.

    Only PyTorch's allocators count: tensors and the buffers of its kernels. Memory that other runtimes (ONNX Runtime,
    OpenVINO) or NumPy allocate is not seen.

    Args:
        call: Called once.
        device: Where it computes: CUDA, else the CPU.

    Returns:
        MiB.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        allocated = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - allocated) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    # One event per allocation (bytes above 0) and per release (below 0).
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0)) / 2**20

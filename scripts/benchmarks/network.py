"""Speed of the network alone, against the usual arrangement of its parts, alternately in one process.

    python scripts/benchmarks/network.py --threads 2 --variants stock eager fused onnx openvino
    python scripts/benchmarks/network.py --device cuda --variants stock eager fused bf16 bf16-compile --batch 16

Every variant is warmed up, then all of them take turns, so that whatever else the machine does falls on all alike.
Times are per batch: median, and the range of the middle half. On a machine that others use too, look at the processor
time, which does not count waiting. Peak memory is measured in a process of its own. Writes a table (md) and all figures
(json).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from stock import Stock
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from maskvos.models.network import MaskVOS
from maskvos.models.weights import original_network

Run = Callable[[], object]


def variants(network: MaskVOS, images: tuple[Tensor, Tensor], threads: int) -> dict[str, Callable[[], Run]]:
    """How to prepare each variant; preparing gives the function that is timed."""

    def autocast(module: Callable[..., Tensor]) -> Run:
        def run() -> Tensor:
            with torch.autocast(images[0].device.type, torch.bfloat16):
                return module(*images)

        return run

    def onnx(folder: str) -> str:
        path = str(Path(folder) / "network.onnx")
        names = ("rgb", "flow_rgb")
        torch.onnx.export(
            network.fuse(),
            images,
            path,
            input_names=list(names),
            output_names=["logits"],
            opset_version=17,
            dynamo=False,
        )
        return path

    def onnxruntime() -> Run:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        with tempfile.TemporaryDirectory() as folder:
            session = ort.InferenceSession(onnx(folder), options, providers=["CPUExecutionProvider"])
        feeds = {"rgb": images[0].numpy(), "flow_rgb": images[1].numpy()}
        return lambda: session.run(None, feeds)

    def openvino() -> Run:
        import openvino as ov

        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        with tempfile.TemporaryDirectory() as folder:
            compiled = ov.Core().compile_model(onnx(folder), "CPU", settings)
        feeds = {"rgb": images[0].numpy(), "flow_rgb": images[1].numpy()}
        return lambda: compiled(feeds)

    stock, fused = Stock(network).eval(), network.fuse()
    return {
        "stock": lambda: lambda: stock(*images),
        "eager": lambda: lambda: network(*images),
        "fused": lambda: lambda: fused(*images),
        "compile": lambda: (lambda compiled: lambda: compiled(*images))(torch.compile(fused)),
        "bf16": lambda: autocast(fused),
        "bf16-compile": lambda: autocast(torch.compile(fused)),
        "onnx": onnxruntime,
        "openvino": openvino,
    }


def measure(run: Run, device: str) -> tuple[float, float]:
    """Wall and processor seconds of one call, synchronised."""
    if device == "cuda":
        torch.cuda.synchronize()
    wall, processor = time.perf_counter(), time.process_time()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - processor


def multiply_adds(network: nn.Module, images: tuple[Tensor, Tensor]) -> float:
    """Of matrix products and convolutions, in units of 1e9, for the whole batch."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.to("meta")(*(image.to("meta") for image in images))
    return counter.get_total_flops() / 2e9


def peak_memory(name: str, arguments: argparse.Namespace) -> float:
    """Megabytes that one call adds to a process that has built everything, measured in a process of its own."""
    command = [sys.executable, __file__, "--only-memory", "--variants", name, "--device", arguments.device]
    command += [
        "--threads",
        str(arguments.threads),
        "--batch",
        str(arguments.batch),
        "--size",
        *map(str, arguments.size),
    ]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def added_memory(run: Run, device: str) -> float:
    """Megabytes of peak memory that the first call adds."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # Linux: writing 5 resets the peak to the present size.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """Megabytes of physical memory, now (VmRSS) or at most so far (VmHWM)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(field)) / 2**10


def main() -> None:
    """Parse, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["stock", "eager", "fused"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=[512, 512], metavar=("H", "W"))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--memory", action="store_true", help="also measure peak memory")
    parser.add_argument("--only-memory", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="folder for network.md and network.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    network = original_network().eval().requires_grad_(False).to(arguments.device)
    rgb, flow_rgb = torch.randn(2, arguments.batch, 3, *arguments.size, device=arguments.device)
    images = (rgb, flow_rgb)
    with torch.inference_mode():
        prepare = variants(network, images, arguments.threads)
        runs = {name: prepare[name]() for name in arguments.variants}
        if arguments.only_memory:
            print(added_memory(next(iter(runs.values())), arguments.device))
            return
        for run in runs.values():
            run()
            run()
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(arguments.repeats):
            for name, run in runs.items():
                times[name].append(measure(run, arguments.device))
    report = table(times, arguments)
    facts = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": arguments.threads,
        "batch": arguments.batch,
        "size": arguments.size,
        "parameters": sum(p.numel() for p in network.parameters()),
        "gmacs": multiply_adds(network, images),
        "seconds": times,
    }
    print(report, f"\n{facts['parameters']:,} parameters, {facts['gmacs']:.2f} GMACs", sep="")
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "network.md").write_text(report)
        (arguments.output / "network.json").write_text(json.dumps(facts, indent=1))


def table(times: dict[str, list[tuple[float, float]]], arguments: argparse.Namespace) -> str:
    """One row per variant; ratios are those of the medians to the first variant's."""
    first = [statistics.median(column) for column in zip(*next(iter(times.values())), strict=True)]
    lines = [
        "| variant | wall ms: median (middle half) | ratio | processor ms: median | ratio | frames/s | peak MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, pairs in times.items():
        wall, processor = (sorted(column) for column in zip(*pairs, strict=True))
        quarter = len(wall) // 4
        middle = f"{1e3 * wall[quarter]:.1f}-{1e3 * wall[-1 - quarter]:.1f}"
        medians = statistics.median(wall), statistics.median(processor)
        memory = f"{peak_memory(name, arguments):.0f}" if arguments.memory else ""
        lines.append(
            f"| {name} | {1e3 * medians[0]:.1f} ({middle}) | {medians[0] / first[0]:.3f} | {1e3 * medians[1]:.1f} | "
            f"{medians[1] / first[1]:.3f} | {arguments.batch / medians[0]:.2f} | {memory} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

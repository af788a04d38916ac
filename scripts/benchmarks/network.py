"""Speed of the network alone, against the usual arrangement of its parts, alternately in one process.

    python scripts/benchmarks/network.py --threads 2 --variants stock eager fused onnx openvino
    python scripts/benchmarks/network.py --device cuda --variants stock eager bf16-eager bf16-compile --batch 1 16

``stock`` is the baseline (`stock.py`), with the weights of the default architecture; the others are the variants of
``task=benchmark``, which measures any model of the configuration; ``bf16-`` before one runs it under autocast. All take
turns, so that whatever else the machine does falls on all alike. On a machine that others use too, look at the
processor time, which does not count waiting. Writes a table (md) and all figures (json).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from stock import Stock

from maskvos.benchmark.measure import (
    VARIANTS,
    Segment,
    Setting,
    compare,
    describe,
    network_table,
    random_images,
    use_threads,
)
from maskvos.models.network import MaskVOS
from maskvos.weights.original import original_network

NAMES = ["stock", *(f"{prefix}{name}" for prefix in ("", "bf16-") for name in VARIANTS)]


def preparation(name: str, network: MaskVOS, setting: Setting) -> Callable[[], Segment]:
    """What makes a variant ready."""
    if name == "stock":
        stock = Stock(network).eval()
        return lambda: lambda rgb, flow: stock(*network.inputs(rgb, flow))
    if name.startswith("bf16-"):
        setting = setting._replace(dtype=torch.bfloat16)
    return lambda: VARIANTS[name.removeprefix("bf16-")](network, setting)


def main() -> None:
    """Parse, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=NAMES, default=["stock", "eager", "fused"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--size", type=int, nargs=2, default=[512, 512], metavar=("H", "W"))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, help="folder for network.md and network.json")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    network = original_network().eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder, use_threads(arguments.threads) as threads:
        setting = Setting(Path(folder), threads, torch.device(arguments.device))
        facts = describe(network, arguments.size, setting)
        network = network.to(setting.device)
        timings = []
        for batch in arguments.batch:
            prepare = {name: preparation(name, network, setting) for name in arguments.variants}
            images = random_images(batch, arguments.size, setting.device)
            timings += compare(prepare, images, arguments.repeats, warmup=2)
    report = "\n".join(f"- {name}: {value}" for name, value in facts.items()) + f"\n\n{network_table(timings)}"
    print(report, end="")
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "network.md").write_text(report)
        everything = {"facts": facts, "network": [timing.figures() for timing in timings]}
        (arguments.output / "network.json").write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()

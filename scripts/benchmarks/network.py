"""Speed of the network alone, compared with a standard implementation of its parts, interleaved within one process.

    python scripts/benchmarks/network.py --threads 2 --variants stock eager folded onnx openvino
    python scripts/benchmarks/network.py --bundled --variants folded onnx openvino bf16-openvino
    python scripts/benchmarks/network.py --device cuda --variants stock eager bf16-eager bf16-compile --batch 1 16

``stock`` is the baseline (`stock.py`) with the weights of the default architecture, which is measured unless
``--bundled`` asks for the bundled model at its own size; the others are the variants of
``task=benchmark``, which measures any configured model; the prefix ``bf16-`` adds autocast. Calls alternate between
variants, so that other load on the machine affects all alike; on a shared machine compare CPU times, which exclude
waiting. Writes a table (md) and all figures (json).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from stock import Stock

from maskvos.benchmark.measure import describe, use_threads
from maskvos.benchmark.network import random_images, time_variants
from maskvos.benchmark.report import fact_list, network_table
from maskvos.benchmark.variants import VARIANTS, Forward, Setting
from maskvos.models.network import MaskVOS
from maskvos.weights import bundled
from maskvos.weights.checkpoint import load_network
from maskvos.weights.config import InferenceConfig, read_config
from maskvos.weights.original import original_network

NAMES = ["stock", *(f"{prefix}{name}" for prefix in ("", "bf16-") for name in VARIANTS)]


def preparation(name: str, network: MaskVOS, setting: Setting) -> Callable[[], Forward]:
    """The function that builds a variant."""
    if name == "stock":
        stock = Stock(network).eval()
        return lambda: lambda rgb, flow: stock(*network.inputs(rgb, flow))
    if name.startswith("bf16-"):
        setting = setting._replace(dtype=torch.bfloat16)
    return lambda: VARIANTS[name.removeprefix("bf16-")](network, setting)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=NAMES, default=["stock", "eager", "folded"])
    parser.add_argument("--bundled", action="store_true", help="measure the bundled model, at its own size")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--size", type=int, nargs=2, default=[512, 512], metavar=("H", "W"))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, help="folder for network.md and network.json")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.bundled:
        path = bundled.find(bundled.DEFAULT) or Path()
        config = InferenceConfig.from_config(read_config(path) or {})
        network, arguments.size = load_network(path, config.model), config.size
    else:
        network = original_network()
    network = network.eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder, use_threads(arguments.threads) as threads:
        setting = Setting(Path(folder), threads, torch.device(arguments.device))
        facts = describe(network, arguments.size, setting)
        network = network.to(setting.device)
        timings = []
        for batch in arguments.batch:
            prepare = {name: preparation(name, network, setting) for name in arguments.variants}
            images = random_images(batch, arguments.size, setting.device)
            timings += time_variants(prepare, images, arguments.repeats, warmup=2)
    report = f"{fact_list(facts)}\n\n{network_table(timings)}\n"
    print(report, end="")
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "network.md").write_text(report)
        everything = {"facts": facts, "network": [timing.figures() for timing in timings]}
        (arguments.output / "network.json").write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Speed of training: step, data loader, which of the two is the bottleneck, and the overhead of Lightning's loop.

    python scripts/benchmarks/train.py --output figures                       the default: Swin-T at 512x512, batch 4
    python scripts/benchmarks/train.py --variants fp32 bf16 bf16-compile --output figures          on a CUDA machine
    python scripts/benchmarks/train.py backbone=resnet18 data.size=[128,128] data.batch_size=2            on a laptop

Other arguments are overrides, as for training. For each variant, steps of Lightning's loop (with the configured
callbacks and loggers) alternate with bare PyTorch steps (transfer, forward, loss, backward, optimiser, schedule; on
their own network and optimiser) within one process, on one preloaded batch. The overhead is the median difference
between neighbouring steps relative to the median bare step, also in CPU time, which excludes waiting. Then the loader
is measured alone. ``--busy`` repeats the steps beside a process that keeps one core busy. Writes train.json with the
time of every step, and prints a table.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import maskvos  # noqa: F401  # sets OpenMP's waiting policy, so it comes before torch

# isort: split
import torch
from busy import busy
from omegaconf import DictConfig

from maskvos.benchmark.measure import describe
from maskvos.benchmark.network import synchronise
from maskvos.benchmark.variants import Setting
from maskvos.build import build
from maskvos.run import compose
from maskvos.tasks.lightning import build_module, build_trainer
from maskvos.training.module import SegmentationModule, parameter_groups
from maskvos.types import Batch

VARIANTS = {
    "fp32": ["trainer.precision=32-true"],
    "bf16": ["trainer.precision=bf16-mixed"],
    "bf16-compile": ["trainer.precision=bf16-mixed", "train.compile=default"],
}
DEFAULTS = ["+experiment=swin_t", "backbone.pretrained=false", "data=synthetic", "data.size=[512,512]"]
Times = tuple[float, float]
"""Wall and CPU seconds."""


def clock(device: torch.device) -> Times:
    """Current time, after synchronising the device."""
    synchronise(device)
    return time.perf_counter(), time.process_time()


class BareStep:
    """A training step in plain PyTorch.

    Args:
        system: Provides network, loss, optimiser and schedule; not the module that the loop trains.
        device: Device of the step.
        dtype: Autocast dtype; None for float32.
        steps: Length of the schedule.
    """

    def __init__(self, system: SegmentationModule, device: torch.device, dtype: torch.dtype | None, steps: int) -> None:
        if system.optimizer is None or system.schedule is None:
            raise SystemExit("a bare step needs optim= and schedule=")
        self.system, self.device, self.dtype = system.to(device).train(), device, dtype
        system.options.compile_parts(system.network)
        self.optimizer = system.optimizer(parameter_groups(system.network))
        self.schedule = system.schedule(self.optimizer, steps)

    def __call__(self, batch: Batch) -> None:
        """Run one step."""
        tensors = {k: v.to(self.device, non_blocking=True) for k, v in batch.items() if isinstance(v, torch.Tensor)}
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            loss = self.system.loss(self.system(tensors), tensors["mask"])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()


class Turns:
    """Loader that repeats one batch, and runs and times a bare step before each.

    Args:
        batch: Batch to repeat.
        bare: Bare step.
        steps: Number of repeats.
    """

    def __init__(self, batch: Batch, bare: BareStep, steps: int) -> None:
        self.batch, self.bare, self.steps = batch, bare, steps
        self.bare_times: list[Times] = []
        self.loop_times: list[Times] = []

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        device = self.bare.device
        for _ in range(self.steps):
            begin = clock(device)
            self.bare(self.batch)
            end = clock(device)
            self.bare_times.append((end[0] - begin[0], end[1] - begin[1]))
            begin = clock(device)
            yield self.batch
            # The loop asks for the next batch when its step is complete.
            end = clock(device)
            self.loop_times.append((end[0] - begin[0], end[1] - begin[1]))


def measure_step(cfg: DictConfig, batch: Batch, steps: int, warmup: int) -> dict[str, Any]:
    """Times of the loop's and of bare steps, and the peak memory of both together."""
    trainer, system = build_trainer(cfg), build_module(cfg)
    device = trainer.strategy.root_device
    dtype = torch.bfloat16 if str(cfg.trainer.precision).startswith("bf16") else None
    turns = Turns(batch, BareStep(build_module(cfg), device, dtype, steps + warmup), steps + warmup)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer.fit(system, turns)
    # The loop prefetches one batch: its first interval covers two fetches, and its last is missing.
    loop, bare = turns.loop_times[warmup:], turns.bare_times[warmup : len(turns.loop_times)]
    images = len(batch["video"])
    figures: dict[str, Any] = {"images": images, "loop": loop, "bare": bare}
    for name, kind in (("wall", 0), ("processor", 1)):
        plain = statistics.median(times[kind] for times in bare)
        extra = statistics.median(a[kind] - b[kind] for a, b in zip(loop, bare, strict=True))
        figures |= {f"{name}_bare_ms": 1e3 * plain, f"{name}_overhead": extra / plain}
    figures["images_per_second"] = images / statistics.median(times[0] for times in loop)
    if device.type == "cuda":
        figures["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return figures


def measure_loader(cfg: DictConfig, images: int) -> tuple[Batch, float]:
    """A batch, and images per second of the loader alone, with the configured workers."""
    data = build(cfg.data)
    data.setup("fit")
    batches = iter(data.train_dataloader())
    batch = next(batches)
    for _ in zip(range(2 * data.num_workers), batches, strict=False):
        pass  # batches that the workers had prefetched
    begin, count = time.perf_counter(), 0
    for following in batches:
        count += len(following["video"])
        if count >= images:
            break
    if count == 0:
        raise SystemExit(
            "the training split has too few batches to measure; give a larger one, or a smaller data.batch_size"
        )
    return batch, count / (time.perf_counter() - begin)


def table(report: dict[str, Any]) -> str:
    """Results as Markdown."""
    lines = [f"- {name}: {value}" for name, value in report["about"].items()]
    lines += [
        "",
        "| variant | images/s | bare step, ms | loop's overhead | in processor time |",
        "|---|---|---|---|---|",
    ]
    for name, figures in report["variants"].items():
        lines.append(
            f"| {name} | {figures['images_per_second']:.2f} | {figures['wall_bare_ms']:.1f} "
            f"| {figures['wall_overhead']:+.1%} | {figures['processor_overhead']:+.1%} |"
        )
    rate = report["loader_images_per_second"]
    lines += ["", f"loader alone: {rate:.2f} images/s with {report['workers']} workers"]
    for name, figures in report["variants"].items():
        if "busy_images_per_second" in figures:
            loaded = figures["busy_images_per_second"]
            kept = loaded / figures["images_per_second"]
            lines.append(f"{name}: {loaded:.2f} images/s beside a busy core, {kept:.0%}")
        limit = "step" if figures["images_per_second"] < rate else "loader"
        lines.append(f"{name}: the {limit} is the limit")
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides, applied after the defaults: " + " ".join(DEFAULTS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="default: all on CUDA, else fp32")
    parser.add_argument("--steps", type=int, default=30, help="timed steps per variant")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--images", type=int, default=200, help="images for timing the loader")
    parser.add_argument("--busy", action="store_true", help="measure beside a busy process, too")
    parser.add_argument("--output", type=Path, help="folder for train.json and train.md")
    arguments = parser.parse_intermixed_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    variants = arguments.variants or (list(VARIANTS) if torch.cuda.is_available() else ["fp32"])
    quiet = ["trainer.max_epochs=1", "trainer.limit_val_batches=0", "callbacks.last=null", "callbacks.best=null"]
    bars = ["trainer.enable_progress_bar=false", "callbacks.progress=null", "+trainer.enable_checkpointing=false"]
    with tempfile.TemporaryDirectory() as folder:
        common = [*DEFAULTS, *arguments.overrides, *quiet, *bars]
        cfg = compose(common, Path(folder) / "loader")
        batch, rate = measure_loader(cfg, arguments.images)
        report: dict[str, Any] = {"loader_images_per_second": rate, "workers": build(cfg.data).num_workers}
        report["variants"] = {}
        for name in variants:
            cfg = compose([*common, *VARIANTS[name]], Path(folder) / name)
            report["variants"][name] = measure_step(cfg, batch, arguments.steps, arguments.warmup)
            if arguments.busy:
                with busy():
                    loaded = measure_step(cfg, batch, arguments.steps, arguments.warmup)
                report["variants"][name]["busy_images_per_second"] = loaded["images_per_second"]
            gc.collect()  # otherwise the next variant's peak memory would include this one's
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        setting = Setting(Path(folder), torch.get_num_threads(), device)
        about = describe(build_module(cfg).network.eval().requires_grad_(False), cfg.data.size, setting)
        report["about"] = {**about, "precision": ", ".join(variants), "overrides": " ".join(arguments.overrides)}
    print(table(report))
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "train.md").write_text(table(report) + "\n")
        (arguments.output / "train.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

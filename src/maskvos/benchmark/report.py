"""Benchmark results as Markdown tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskvos.benchmark.network import Timing
from maskvos.benchmark.pipeline import PARTS
from maskvos.media.files import write_bytes
from maskvos.text import markdown_table

_LABELS = {"resize": "resize, both ways", "network": "network, eager", "write": "write mask and overlay"}


@dataclass(frozen=True)
class BenchmarkReport:
    """Results of a benchmark.

    Attributes:
        facts: Machine, versions and network, see `maskvos.benchmark.measure.describe`.
        network: Timings of the network alone.
        pipeline: Result of `maskvos.benchmark.pipeline.time_pipeline`, with the name of the ``video``.
    """

    facts: dict[str, Any]
    network: list[Timing]
    pipeline: dict[str, Any]

    def table(self) -> str:
        """Markdown: facts, network only, end to end."""
        return (
            f"{fact_list(self.facts)}\n\nNetwork only, inputs on the device\n\n{network_table(self.network)}\n\n"
            f"End to end, {self.pipeline['frames']} frames of {self.pipeline['video']} at "
            f"{self.pipeline['width']}x{self.pipeline['height']}, one stage after the other\n\n"
            f"{pipeline_table(self.pipeline)}\n"
        )

    def write(self, folder: str | Path) -> None:
        """Write ``benchmark.md``, and ``benchmark.json`` with the time of every call.

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
        """Frames per second of every variant and batch size, and of the pipeline."""
        speeds = {
            f"benchmark/{timing.variant}_{timing.batch}_frames_per_second": timing.figures()["frames_per_second"]
            for timing in self.network
            if not timing.problem
        }
        return {**speeds, "benchmark/pipeline_frames_per_second": self.pipeline["frames_per_second"]}


def fact_list(facts: Mapping[str, Any]) -> str:
    """Facts as a Markdown list."""
    return "\n".join(f"- {name}: {f'{value:,}' if isinstance(value, int) else value}" for name, value in facts.items())


def network_table(timings: Sequence[Timing]) -> str:
    """One row per batch size and variant; ratios are relative to the first variant that ran at the same batch size."""
    header = ["variant", "batch", "ms: median (quartiles)", "ratio", "CPU ms", "ratio", "frames/s", "peak MiB"]
    rows: list[list[Any]] = []
    first: dict[int, dict[str, Any]] = {}
    for timing in timings:
        if timing.problem:
            rows.append([timing.variant, timing.batch, f"cannot run: {timing.problem}", *[None] * 5])
            continue
        row = timing.figures()
        base = first.setdefault(timing.batch, row)
        rows.append(
            [
                *(timing.variant, timing.batch, f"{row['ms']:.1f} ({row['ms_low']:.1f}-{row['ms_high']:.1f})"),
                *(f"{row['ms'] / base['ms']:.3f}", f"{row['processor_ms']:.1f}"),
                f"{row['processor_ms'] / max(base['processor_ms'], 1e-9):.3f}",
                *(f"{row['frames_per_second']:.2f}", None if timing.peak_mb is None else f"{timing.peak_mb:.0f}"),
            ]
        )
    return markdown_table(header, rows)


def pipeline_table(pipeline: Mapping[str, Any]) -> str:
    """One row per stage, and the total."""
    rows = [[_LABELS.get(part, part), f"{pipeline[f'{part}_ms']:.1f}"] for part in PARTS]
    rows.append(["total", f"{pipeline['whole_ms']:.1f} ({pipeline['frames_per_second']:.2f} frames/s)"])
    return markdown_table(["stage", "ms per frame: median"], rows)

"""Benchmark: every variant and stage has plausible figures, and a variant that cannot run has a reason."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from maskvos.benchmark.measure import use_threads
from maskvos.benchmark.memory import peak_memory
from maskvos.benchmark.network import Timing, random_images, time_variants
from maskvos.benchmark.pipeline import PARTS
from maskvos.benchmark.report import network_table
from maskvos.benchmark.variants import Setting, autocast
from maskvos.errors import UserError
from maskvos.media.images import write_image
from maskvos.run import compose, run

VARIANTS = ("eager", "folded", "onnx")


def tiny(folder: Path, *overrides: str) -> DictConfig:
    small = ["data.size=[64,64]", "benchmark.repeats=2", "benchmark.warmup=1", "benchmark.frames=3"]
    variants = f"benchmark.variants=[{','.join(VARIANTS)}]"
    return compose(["+experiment=smoke", "task=benchmark", *small, variants, *overrides], folder)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """The output folder of one task=benchmark, and its metrics."""
    folder = tmp_path_factory.mktemp("speed")
    return folder / "benchmark", run(tiny(folder, "benchmark.batches=[1,2]"))


def figures(folder: Path) -> dict:
    return json.loads((folder / "benchmark.json").read_text())


def test_every_variant_has_a_row_for_every_batch(measured) -> None:
    folder, metrics = measured
    rows = figures(folder)["network"]
    assert [(row["variant"], row["batch"]) for row in rows] == [(name, b) for b in (1, 2) for name in VARIANTS]
    for row in rows:
        assert row["problem"] == ""
        assert len(row["wall"]) == len(row["processor"]) == 2
        assert 0 < row["ms_low"] <= row["ms"] <= row["ms_high"]
        assert row["frames_per_second"] == pytest.approx(1e3 * row["batch"] / row["ms"])
        assert metrics[f"benchmark/{row['variant']}_{row['batch']}_frames_per_second"] == row["frames_per_second"]


def test_peak_memory_is_measured_for_torch_variants_only(measured) -> None:
    for row in figures(measured[0])["network"]:
        assert row["peak_mb"] is None if row["variant"] == "onnx" else row["peak_mb"] > 0.5


def test_stages_add_up_to_the_total(measured) -> None:
    pipeline = figures(measured[0])["pipeline"]
    parts = [pipeline[f"{part}_ms"] for part in PARTS]
    assert min(parts) > 0
    assert 0.5 * pipeline["whole_ms"] < sum(parts) < 1.1 * pipeline["whole_ms"]
    assert pipeline["frames"] == 2  # of three, the first one warms up
    assert (pipeline["width"], pipeline["height"]) == (854, 480)
    assert pipeline["frames_per_second"] < 1.1e3 / min(pipeline["whole_ms"], sum(parts))


def test_facts_describe_network_and_machine(measured) -> None:
    facts = figures(measured[0])["facts"]
    assert facts["parameters"] > 10_000
    assert facts["weights MB"] == pytest.approx(4 * facts["parameters"] / 2**20, abs=0.1)
    assert facts["GMACs per frame"] > 0
    assert facts["size"].startswith("64x64")
    assert f"torch {torch.__version__.split('+')[0]}" in facts["versions"]


def test_table_is_markdown_with_every_row(measured) -> None:
    table = (measured[0] / "benchmark.md").read_text()
    assert all(f"| {name} | {batch} |" in table for name in VARIANTS for batch in (1, 2))
    assert all(word in table for word in ("decode", "flow", "resize", "network", "write", "total", "parameters"))
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {9, 3}


def test_input_frames_are_segmented(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(4):
        write_image(tmp_path / "walk" / f"{index}.png", np.full((48, 80, 3), 50 * index, np.uint8))
    cfg = tiny(tmp_path / "run", f"input={tmp_path / 'walk'}", "benchmark.variants=[eager]")
    with caplog.at_level(logging.WARNING):
        run(cfg)
    assert "random weights" in caplog.text
    found = figures(tmp_path / "run" / "benchmark")["pipeline"]
    assert (found["video"], found["width"], found["height"]) == ("walk", 80, 48)


def test_pretrained_weights_are_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(network, *_):
        assert not network.rgb_encoder.pretrained
        raise UserError("far enough")

    monkeypatch.setattr("maskvos.benchmark.measure.describe", stop)
    with pytest.raises(UserError, match="far enough"):
        run(tiny(tmp_path, "backbone=resnet18", "backbone.pretrained=true"))


def test_mixed_precision_is_used_and_refused_for_exported_files(tmp_path: Path) -> None:
    variants = "benchmark.variants=[eager,onnx]"
    cfg = tiny(tmp_path, "trainer.precision=bf16-mixed", "benchmark.batches=[1]", variants)
    run(cfg)
    found = figures(tmp_path / "benchmark")
    assert "bfloat16" in found["facts"]["precision"]
    eager, onnx = found["network"]
    assert eager["ms"] > 0
    assert "trainer.precision=32-true" in onnx["problem"]
    assert "cannot run: ONNX Runtime" in (tmp_path / "benchmark" / "benchmark.md").read_text()


def test_autocast_applies_to_the_network() -> None:
    seen = []
    setting = Setting(Path(), 1, torch.device("cpu"), torch.bfloat16)
    segment = autocast(lambda rgb, flow: seen.append((rgb[0, 0] @ rgb[0, 1].T).dtype), setting)
    segment(*random_images(1, (8, 8), setting.device))
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("error", [ImportError("No module named 'x'"), RuntimeError("\nno compiler\nmore")])
def test_a_variant_that_cannot_run_is_listed_with_the_reason(error: Exception) -> None:
    def broken(rgb, flow):
        raise error

    images = random_images(2, (8, 8), torch.device("cpu"))
    timings = time_variants({"broken": lambda: broken, "sound": lambda: lambda rgb, flow: rgb.sum()}, images, 3, 1)
    assert timings[0].problem == str(error).strip().splitlines()[0]
    assert timings[1].problem == ""
    assert len(timings[1].wall) == 3
    assert "| sound | 2 |" in network_table(timings)


def test_ratios_are_relative_to_the_first_variant_of_the_same_batch() -> None:
    timings = [Timing(name, batch, [s], [s]) for batch in (1, 4) for name, s in (("a", 0.1 * batch), ("b", 0.05))]
    cells = [[cell.strip() for cell in line.split("|")] for line in network_table(timings).splitlines()[2:]]
    assert [cell[4] for cell in cells] == ["1.000", "0.500", "1.000", "0.125"]
    assert [cell[7] for cell in cells] == ["10.00", "20.00", "10.00", "80.00"]


def test_peak_memory_counts_what_is_allocated_at_the_same_time() -> None:
    def call() -> torch.Tensor:
        for count in range(1, 9):
            torch.ones(count, 2**18)  # released before the next one
        both = torch.ones(2**20), torch.ones(2**20)
        return torch.cat(both)

    assert peak_memory(call, torch.device("cpu")) == pytest.approx(16, rel=0.01)
    assert peak_memory(lambda: None, torch.device("cpu")) == 0


def test_thread_counts_are_restored() -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    with use_threads(1) as count:
        assert count == torch.get_num_threads() == cv2.getNumThreads() == 1
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("benchmark.variants=[eagr]", r"benchmark\.variants: 'eagr' is unknown; did you mean 'eager'"),
        ("benchmark.variants=[]", r"benchmark\.variants=\[\]"),
        ("benchmark.repeats=0", r"benchmark\.repeats=0"),
        ("benchmark.batches=[1,-2]", r"benchmark\.batches=\[1, -2\]"),
        ("trainer.precision=bf16-true", r"trainer\.precision=bf16-true: .*bf16-mixed"),
        ("flow=precomputed", "no precomputed flow"),
    ],
)
def test_wrong_settings_are_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(tiny(tmp_path, "benchmark.batches=[1]", "benchmark.variants=[eager]", override))

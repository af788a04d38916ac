"""task=benchmark: measure the speed of the network alone and end to end."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from maskvos.benchmark.measure import benchmark
from maskvos.build import build
from maskvos.data.datasets.folder import folder
from maskvos.models.state_dict import read_checkpoint
from maskvos.tasks.common import check_hardware
from maskvos.tasks.lightning import build_data, build_module
from maskvos.weights.checkpoint import load_weights

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, float]:
    """Measure; leaves ``benchmark.md`` and ``benchmark.json`` in ``output``.

    Returns:
        Frames per second of each variant and of the pipeline.
    """
    check_hardware(cfg)
    options, network, datamodule = build(cfg.benchmark, "benchmark"), build_module(cfg).network, build_data(cfg)
    if cfg.ckpt_path is None:
        log.warning("task=benchmark: random weights, since ckpt_path is not given; speed hardly depends on them")
    else:
        load_weights(network, read_checkpoint(cfg.ckpt_path), cfg.ckpt_path)
    video = None if cfg.input is None else folder(str(cfg.input))[0]
    accelerator, precision = str(cfg.trainer.accelerator), str(cfg.trainer.precision)
    report = benchmark(network, datamodule, options, video, accelerator, precision)
    output = Path(cfg.output or Path(cfg.paths.run) / "benchmark")
    report.write(output)
    print(report.table())
    log.info("figures: %s", output)
    metrics: dict[str, float] = report.metrics()
    return metrics

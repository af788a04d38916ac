"""task=export: write the network to a file that runs without maskvos."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from maskvos.tasks.common import plain, require_checkpoint
from maskvos.weights.checkpoint import load_network
from maskvos.weights.config import InferenceConfig
from maskvos.weights.export import export
from maskvos.weights.exported import suffix_of

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, float]:
    """Export ``ckpt_path`` as ``format`` to ``output``.

    Returns:
        The file's size in bytes.
    """
    path = Path(cfg.output or Path(cfg.paths.run) / f"{cfg.name}{suffix_of(cfg.format)}")
    config = InferenceConfig.from_config(plain(cfg))
    network = load_network(require_checkpoint(cfg), config.model, config.name)
    height, width = config.size
    export(network, path, cfg.format, (height, width), config.to_config())
    log.info("exported: %s (%.1f MB), verified against PyTorch", path, path.stat().st_size / 1e6)
    return {"export/bytes": float(path.stat().st_size)}

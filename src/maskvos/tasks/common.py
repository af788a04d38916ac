"""What all tasks share: the configuration as plain containers, the checkpoint, and the hardware check."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from maskvos.errors import UserError
from maskvos.weights.exported import SUFFIXES


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A configuration as plain containers, resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def require_checkpoint(cfg: DictConfig) -> Path:
    """``ckpt_path``.

    Raises:
        UserError: It is not given, or is an exported network where that cannot be used.
    """
    if cfg.ckpt_path is None:
        raise UserError(f"task={cfg.task}: no weights; give ckpt_path=<checkpoint>, such as ckpt_path=best")
    path = Path(cfg.ckpt_path)
    if path.suffix in SUFFIXES and cfg.task != "predict":
        raise UserError(
            f"task={cfg.task}: {path} is an exported network; give the checkpoint that it was exported from"
        )
    return path


def check_hardware(cfg: DictConfig) -> None:
    """Refuse a trainer whose hardware is not present.

    Raises:
        UserError: There is no GPU, or no SLURM job.
    """
    target = str(cfg.trainer.strategy.get("_target_")) if isinstance(cfg.trainer.strategy, DictConfig) else ""
    fsdp = "fsdp" in f"{target}{cfg.trainer.strategy}".lower()
    if (fsdp or cfg.trainer.accelerator in ("gpu", "cuda")) and not _has_cuda():
        what = "trainer=fsdp shards the weights over" if fsdp else "trainer.accelerator=gpu computes on"
        raise UserError(f"{what} CUDA GPUs, and PyTorch finds none here; use trainer=cpu, or look at `nvidia-smi`")
    if "SLURMEnvironment" in str(cfg.trainer.get("plugins")) and "SLURM_NTASKS" not in os.environ:
        raise UserError(
            "trainer=slurm: this process does not run in a SLURM job; use `sbatch scripts/train.sbatch`, or trainer=ddp"
        )


def _has_cuda() -> bool:
    import torch  # takes seconds, so only where it is needed

    return bool(torch.cuda.is_available())

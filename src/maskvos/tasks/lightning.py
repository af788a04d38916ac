"""What training and testing build from the configuration: LightningModule, LightningDataModule and Trainer."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import cast

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor, ProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from maskvos import __version__
from maskvos.build import build
from maskvos.data.datamodule import VideoDataModule
from maskvos.environment import git_commit
from maskvos.errors import UserError
from maskvos.inference.tta import TTA
from maskvos.models.state_dict import read_checkpoint
from maskvos.tasks.common import check_hardware, plain, require_checkpoint
from maskvos.training.module import SegmentationModule
from maskvos.types import Video
from maskvos.weights.checkpoint import load_weights
from maskvos.weights.config import without_pretrained

for name in ("pytorch_lightning", "lightning_fabric"):  # tips, restated defaults and devices; importing them sets INFO
    logging.getLogger(name).setLevel(logging.WARNING)
# Lightning's use of torch's internals.
warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
# Not so: the samplers of this project resume within an epoch.
warnings.filterwarnings("ignore", message=r"[\s\S]*your dataloader is\s+not resumable")

# The loss of each epoch is shown in any case.
warnings.filterwarnings("ignore", message=r"The number of training batches .* is smaller than the logging interval")
# Said in fewer words by task=train.
warnings.filterwarnings("ignore", message=r"`ModelCheckpoint\(monitor=.*could not find the monitored key")


def build_data(cfg: DictConfig) -> VideoDataModule:
    """The LightningDataModule."""
    return cast(VideoDataModule, build(cfg.data, "data", tta_flow=plain(cfg.tta)["flow"]))


def build_module(cfg: DictConfig, videos: Mapping[str, Sequence[Video]] | None = None) -> SegmentationModule:
    """The LightningModule with network, loss, protocol, optimiser and schedule.

    Args:
        cfg: The configuration.
        videos: ``val`` and ``test`` to the videos of these splits.
    """
    if cfg.seed is not None:
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
    # A checkpoint brings its own weights, and the benchmark needs no trained ones.
    fetch = cfg.ckpt_path is None and cfg.task != "benchmark"
    return SegmentationModule(
        network=build(plain(cfg.model) if fetch else without_pretrained(plain(cfg.model)), "model"),
        loss=build(cfg.loss, "loss"),
        protocol=build(cfg.protocol, "protocol"),
        optimizer=build(cfg.optim, "optim"),
        schedule=build(cfg.schedule, "schedule"),
        videos=videos,
        aux_weight=cfg.aux_weight,
        tta=TTA(**plain(cfg.tta)),
        refine=cfg.refine,
        options=build(cfg.train, "train"),
        config=plain(cfg),
    )


def load_module(cfg: DictConfig, videos: Mapping[str, Sequence[Video]] | None = None) -> SegmentationModule:
    """The LightningModule with the weights of ``ckpt_path``.

    Raises:
        UserError: No checkpoint is given, or it holds another architecture.
    """
    path = require_checkpoint(cfg)
    module = build_module(cfg, videos)
    load_weights(module.network, read_checkpoint(path), path)
    return module


def build_trainer(cfg: DictConfig, callbacks: Sequence[pl.Callback] = (), wandb_id: str | None = None) -> pl.Trainer:
    """The Lightning Trainer with the callbacks and loggers of the configuration.

    Args:
        cfg: The configuration.
        callbacks: Further callbacks.
        wandb_id: wandb run to continue, unless the configuration names one.

    Raises:
        UserError: The hardware is missing, or the Trainer does not accept its settings.
    """
    check_hardware(cfg)
    # A part that the command line sets to null is left out.
    loggers = [
        build(node, f"logger.{name}", **({"id": wandb_id} if name == "wandb" and wandb_id and not node.id else {}))
        for name, node in cfg.logger.items()
        if node
    ]
    made = [build(node, f"callbacks.{name}") for name, node in cfg.callbacks.items() if node]
    if not loggers:
        made = [callback for callback in made if not isinstance(callback, LearningRateMonitor)]
    if not cfg.trainer.enable_progress_bar:
        made = [callback for callback in made if not isinstance(callback, ProgressBar)]
    try:
        trainer: pl.Trainer = build(cfg.trainer, "trainer", callbacks=[*callbacks, *made], logger=loggers or False)
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}") from error
    for logger in trainer.loggers:
        logger.log_hyperparams({**plain(cfg), "version": __version__, "git": git_commit()})
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            logger.experiment.add_text("config", f"```yaml\n{OmegaConf.to_yaml(cfg, resolve=True)}```")
    return trainer


def metrics_of(trainer: pl.Trainer) -> dict[str, float]:
    """The last logged metrics as plain numbers."""
    return {name: float(value) for name, value in trainer.callback_metrics.items()}

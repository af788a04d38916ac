"""task=train: train a network; leaves ``checkpoints/best.ckpt`` and ``checkpoints/last.ckpt`` in the run's folder."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint

from maskvos.errors import UserError
from maskvos.models.network import MaskVOS
from maskvos.models.state_dict import read_checkpoint
from maskvos.tasks.common import plain
from maskvos.tasks.lightning import build_data, build_module, build_trainer, metrics_of
from maskvos.training.ema import EMA
from maskvos.training.loggers import CsvLogger
from maskvos.training.resume import WANDB_ID, cannot_restore, read_resumable
from maskvos.weights.checkpoint import load_weights

log = logging.getLogger(__name__)

# What Lightning and optimisers raise for a damaged training state, at the latest in the first step.
_RESTORING = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, AssertionError)


def run(cfg: DictConfig) -> dict[str, float]:
    """Train, from scratch, from the weights of ``init_from``, or resuming ``ckpt_path``.

    Returns:
        The last metrics, and ``best/<measure>`` of the best checkpoint.
    """
    if cfg.ckpt_path is not None and cfg.init_from is not None:
        raise UserError("ckpt_path resumes a training, init_from starts a new one from weights; give one of them")
    datamodule = build_data(cfg)
    videos = {"val": datamodule.videos("val")} if datamodule.sources["val"] is not None else {}
    module = build_module(cfg, videos)
    resumed: dict[str, Any] = {}
    if cfg.ckpt_path is not None:
        resumed = read_resumable(Path(cfg.ckpt_path), plain(cfg))
        load_weights(module.network, resumed, cfg.ckpt_path)
    else:
        _initialise(module.network, cfg)
    trainer = build_trainer(cfg, [EMA(cfg.train.ema)] if cfg.train.ema else [], resumed.get(WANDB_ID))
    for logger in trainer.loggers:
        if isinstance(logger, CsvLogger) and resumed:
            logger.continue_from(resumed["global_step"])
    begin = time.monotonic()
    try:
        trainer.fit(module, datamodule, ckpt_path=cfg.ckpt_path, weights_only=True)
    except (SystemExit, *_RESTORING) as error:
        if (status := _interrupted(error)) is not None:
            last = Path(trainer.default_root_dir) / "checkpoints/last.ckpt"
            remedy = f"resume with ckpt_path={last}" if last.exists() else "nothing was saved yet"
            log.warning("interrupted; %s", remedy)
            raise SystemExit(status) from error
        if cfg.ckpt_path is None or module.has_trained or isinstance(error, UserError | torch.OutOfMemoryError):
            raise
        raise cannot_restore(cfg.ckpt_path, repr(error)) from error
    return _summarise(trainer, time.monotonic() - begin)


def _initialise(network: MaskVOS, cfg: DictConfig) -> None:
    """Load the weights of ``init_from``, if there are any.

    Raises:
        UserError: The network for salient objects, which is not trained, would have random weights.
    """
    skipped = ["saliency"]  # without init_from, nothing brings its weights
    if cfg.init_from is not None:
        skipped = load_weights(network, read_checkpoint(cfg.init_from), cfg.init_from, strict=False)
        for line in skipped:
            log.warning("init_from: %s", line)
    random = network.saliency is not None and cfg.model.saliency.get("pretrained") is False
    if random and any(line.startswith("saliency") for line in skipped):
        raise UserError(
            "model.saliency.pretrained=false: training leaves this network as it is, with random weights; give the "
            "path of u2netp.onnx, or init_from a checkpoint that has them, such as light_saliency"
        )


def _interrupted(error: BaseException | None) -> int | str | None:
    """The exit status of an interrupted training: 130 after Ctrl-C, 143 after SIGTERM; None for any other error.

    Before the first batch Lightning's own clean-up fails, and its error hides the interruption.
    """
    while error is not None and not isinstance(error, SystemExit | KeyboardInterrupt):
        error = error.__context__
    if error is None:
        return None
    return 130 if isinstance(error, KeyboardInterrupt) or error.code == 1 else error.code


def _summarise(trainer: pl.Trainer, seconds: float) -> dict[str, float]:
    metrics = metrics_of(trainer)
    took = timedelta(seconds=round(seconds))
    log.info("trained to epoch %d, step %d in %s", trainer.current_epoch, trainer.global_step, took)
    titles = {"val/jf": "J&F", "val/j": "J", "val/f": "F", "val/loss": "loss"}
    if shown := [f"{title} {metrics[name]:.3f}" for name, title in titles.items() if name in metrics]:
        log.info("validation: %s", ", ".join(shown))
    best = trainer.checkpoint_callback
    if isinstance(best, ModelCheckpoint) and best.best_model_score is not None:
        log.info("best checkpoint: %s (%s %.3f)", best.best_model_path, best.monitor, best.best_model_score)
        metrics["best/" + str(best.monitor).removeprefix("val/")] = float(best.best_model_score)
    elif isinstance(best, ModelCheckpoint):
        log.warning("not validated, so there is no best checkpoint; use ckpt_path=last, or train for a whole epoch")
    log.info("run: %s", trainer.default_root_dir)
    return metrics

"""Resuming an interrupted training: atomic checkpoints, and what a resumed run keeps or changes."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from maskvos.environment import delayed_signals
from maskvos.errors import UserError
from maskvos.media.files import cannot_write
from maskvos.models.state_dict import read_checkpoint
from maskvos.text import flatten
from maskvos.weights.config import migrate

log = logging.getLogger(__name__)

LAST = "last"
PREVIOUS = "last-previous"
WANDB_ID = "wandb_id"
"""Key of a checkpoint that holds the id of its training's wandb run."""
WARM_START = "start a new training from its weights with init_from="
# Kinds of a checkpoint's parts.
_STATE: dict[str, type] = {"maskvos": dict, "loops": dict, "callbacks": dict, "epoch": int, "global_step": int}
_STATE |= {"optimizer_states": list, "lr_schedulers": list, "pytorch-lightning_version": str}
# Settings that do not affect the training, and groups that appear again under model and data.
_FREE = (
    *("task", "name", "ckpt_path", "init_from", "input", "output", "predictions", "missing", "shard", "backend"),
    *("format", "paths", "logger", "callbacks", "writer", "benchmark", "report", "local", "protocol", "threshold"),
    *("backbone", "augment", "flow", "data._target_", "train._target_", "data.seed", "data.predict", "data.test"),
    *("mirror", "runs", "trust"),
    *("trainer.default_root_dir", "trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.plugins"),
)
# Locations, and the number of loading processes.
_FREE_LEAVES = ("root", "cache", "num_workers")
# Restored from the checkpoint with the state of optimiser and schedule.
_KEPT = ("optim", "train.backbone_factor", "train.layer_decay")


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically, whenever the process is killed, and keeps the last but one.

    Lightning moves a temporary file into place, which copies it if the temporary folder is on another file system: a
    kill during the copy leaves a truncated file. Here the file is written to the same folder, synchronised to disk and
    renamed. The previous ``last.ckpt`` is kept as ``last-previous.ckpt``.
    """

    @delayed_signals()
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            UserError: The disk is full or the folder not writable; an existing file is kept.
        """
        path = Path(path)
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                if path.stem == LAST and path.exists():
                    _keep(path, path.with_stem(PREVIOUS))
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:
            # torch reports a failed write as a RuntimeError raised from the OSError.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            raise cannot_write(path, cause) from error


def _keep(path: Path, name: Path) -> None:
    """Give a file a second name without ever removing its first one."""
    link = path.with_name(f".{name.name}.{uuid.uuid4().hex}.part")
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        os.replace(path, name)
    else:
        os.replace(link, name)


def read_resumable(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint to resume from, and log which settings differ from those it was trained with.

    Args:
        path: The checkpoint.
        config: The resolved configuration of this run.

    Returns:
        The checkpoint.

    Raises:
        UserError: It is damaged, has weights only, or was trained with another optimiser.
    """
    try:
        checkpoint = read_checkpoint(path)
    except UserError as error:
        if path.is_file() and (before := previous(path)):
            raise UserError(f"{error}; or resume from the one before it, ckpt_path={before}") from error
        raise
    if "optimizer_states" not in checkpoint or "loops" not in checkpoint:
        raise UserError(f"{path} holds weights but no training state to resume from; {WARM_START}")
    wrong = [name for name, kind in _STATE.items() if not isinstance(checkpoint.get(name, kind()), kind)]
    if wrong:
        raise cannot_restore(path, f"no training writes such {', '.join(wrong)}")
    try:
        made = migrate(checkpoint.get("maskvos", {}).get("config", {}))
        optimizer = made.get("optim", config["optim"])["_target_"]
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise cannot_restore(path, f"its configuration: {error!r}") from error
    if optimizer != config["optim"]["_target_"]:
        raise UserError(
            f"{path} was trained with {optimizer}, whose state {config['optim']['_target_']} cannot "
            f"load; give the optim= that it was trained with, or {WARM_START}"
        )
    log.info("resuming %s, epoch %s, step %s", path, checkpoint.get("epoch"), checkpoint.get("global_step"))
    changed = changed_settings(made, config)
    for line in changed:
        log.warning("resume: %s", line)
    if any("ignored" in line for line in changed):
        log.warning("resume: to change settings of the optimiser, %s", WARM_START)
    return checkpoint


def cannot_restore(path: str | Path, reason: str) -> UserError:
    """The error for a checkpoint whose training state is damaged."""
    return UserError(f"{path}: its training state cannot be restored ({reason}); {WARM_START}")


def previous(path: Path) -> Path | None:
    """The checkpoint before the last one, if ``path`` is the last one and there is one before it."""
    before = path.with_stem(PREVIOUS)
    return before if path.stem == LAST and before.is_file() else None


def changed_settings(made: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings of a resumed training that differ from the checkpoint's, and whether they take effect.

    Args:
        made: The resolved configuration in the checkpoint.
        now: The resolved configuration of this run.

    Returns:
        One line per setting that differs and affects the training.
    """
    before, after = dict(flatten(made)), dict(flatten(now))
    lines = []
    # A setting that only one side has belongs to another version, or to another group member, which differs itself.
    for key in before.keys() & after.keys():
        same = before[key] == after[key] or (key.endswith("_target_") and _class(before[key]) == _class(after[key]))
        if same or _within(key, _FREE) or key.rpartition(".")[2] in _FREE_LEAVES:
            continue
        if _within(key, _KEPT):
            lines.append(f"{key}={before[key]} is kept from the checkpoint; {key}={after[key]} is ignored")
        else:
            lines.append(f"{key} was {before[key]} and is {after[key]} from now on")
    return sorted(lines)


def _class(target: Any) -> str:
    """Name of a class without its module, which another version may keep elsewhere."""
    return str(target).rpartition(".")[2]


def _within(key: str, parts: tuple[str, ...]) -> bool:
    return any(key == part or key.startswith(part + ".") for part in parts)

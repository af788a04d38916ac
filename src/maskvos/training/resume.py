"""Going on with an interrupted training: checkpoints that are whole, finding them, telling what goes on as it was."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from maskvos.errors import UserError, nearest
from maskvos.media.files import cannot_write
from maskvos.weights import bundled

LAST = "last"
PREVIOUS = "last-previous"
WANDB_ID = "wandb_id"
"""Under this a checkpoint holds the id of the wandb run that its training was logged as."""
# What runs beside the training, and groups that stand a second time under model and data: no difference to tell.
_FREE = (
    *("task", "name", "ckpt_path", "init_from", "input", "output", "predictions", "missing", "shard", "backend"),
    *("format", "paths", "logger", "callbacks", "writer", "benchmark", "report", "local", "protocol"),
    *("backbone", "augment", "flow", "data.seed", "data.predict", "data.test"),
    *("trainer.default_root_dir", "trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.plugins"),
)
# Where things lie and how many load them.
_FREE_LEAVES = ("root", "cache", "num_workers")
# A checkpoint brings these with the state of the optimiser and of the schedule.
_KEPT = ("optim", "train.backbone_factor", "train.layer_decay")


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or not there, whenever the process is killed; the last one but one is kept.

    Lightning's own way moves a temporary file into place, which on another file system than that of the temporary
    folder copies it, and a kill meanwhile leaves a part. Here the file is written beside its place, reaches the disk,
    and is renamed. What ``last.ckpt`` held before stays as ``last-previous.ckpt``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            UserError: The disk is full, or the place cannot be written to; what was there before stays.
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
            # torch tells a failed write as a RuntimeError, on top of the system's own.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            raise cannot_write(path, cause) from error


def _keep(path: Path, name: Path) -> None:
    """Give a file a second name, so that at no time its first one is missing."""
    link = path.with_name(f".{name.name}.{uuid.uuid4().hex}.part")
    try:
        os.link(path, link)
    except OSError:  # a file system without links
        os.replace(path, name)
    else:
        os.replace(link, name)


def find_checkpoint(wanted: str, run: str | Path, experiment: str | Path, setting: str = "ckpt_path") -> Path:
    """The file that ``ckpt_path`` or ``init_from`` means.

    Args:
        wanted: A path; or the bare name of a checkpoint (``last``, ``last-previous``, ``best``), which is looked for
            in the run's own folder, as a job that was requeued has it, and then in the experiment's newest run.
        run: The run's own folder.
        experiment: The folder with the runs of the experiment.
        setting: Which of the two it is.

    Raises:
        UserError: There is no checkpoint of that name.
    """
    path = Path(wanted)
    if path.suffix or len(path.parts) > 1 or path.is_file():
        return path
    own = Path(run) / "checkpoints" / f"{wanted}.ckpt"
    if own.is_file():
        return own
    found = list(Path(experiment).glob(f"*/checkpoints/{wanted}.ckpt"))
    if not found:
        there = {file.stem for file in Path(experiment).glob("*/checkpoints/*.ckpt")}
        raise UserError(
            f"{setting}={wanted}: no weights of that name come with the package, and no run under {experiment} has a "
            f"checkpoints/{wanted}.ckpt; train first, or give the name= and paths.runs= that the training had, or the "
            f"checkpoint's path; {nearest(wanted, {*there, *bundled.names()})}"
        )
    return max(found, key=lambda file: file.stat().st_mtime)


def previous(path: Path) -> Path | None:
    """The checkpoint before the last one, where ``path`` is the last one and it is there."""
    before = path.with_stem(PREVIOUS)
    return before if path.stem == LAST and before.is_file() else None


def changed_settings(made: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What a resumed training was asked to do differently, and whether it will.

    Args:
        made: The resolved configuration in the checkpoint.
        now: That of this run.

    Returns:
        One line per setting that differs and matters.
    """
    before, after = dict(_leaves(made)), dict(_leaves(now))
    lines = []
    # A setting that one side does not know belongs to another version, or to another choice that differs itself.
    for key in before.keys() & after.keys():
        if before[key] == after[key] or _within(key, _FREE) or key.rpartition(".")[2] in _FREE_LEAVES:
            continue
        if _within(key, _KEPT):
            lines.append(f"{key}={before[key]} goes on, as the checkpoint has it; {key}={after[key]} is ignored")
        else:
            lines.append(f"{key} was {before[key]} and is {after[key]} from here on")
    return sorted(lines)


def _within(key: str, parts: tuple[str, ...]) -> bool:
    return any(key == part or key.startswith(part + ".") for part in parts)


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

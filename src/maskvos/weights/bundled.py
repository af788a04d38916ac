"""The weights that come with the package, in half precision: found by name, and chosen where none are named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from maskvos.errors import UserError
from maskvos.media.files import write_bytes

FOLDER = Path(__file__).resolve().parent
DEFAULT = "light"
"""What ``task=predict`` uses when no checkpoint is named."""


def names() -> list[str]:
    """Names of the bundled weights; each is that of the experiment that trained them."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def find(wanted: str) -> Path | None:
    """The file of bundled weights, or None where ``wanted`` is no name of such, or a file of the user's own."""
    return FOLDER / f"{wanted}.safetensors" if wanted in names() and not Path(wanted).is_file() else None


def complete(overrides: Sequence[str]) -> list[str]:
    """A command line with what bundled weights need: without a checkpoint named, ``task=predict`` uses them.

    Args:
        overrides: As typed: ``["task=predict", "input=clip.mp4"]``.

    Returns:
        The same, with ``ckpt_path=light`` and ``+experiment=light`` before the first setting where they are meant.
        Whoever chooses an experiment, or a backend for exported files, says what is to be loaded.
    """
    typed = dict(item.split("=", 1) for item in overrides if "=" in item)
    added = []
    if typed.get("task") == "predict" and not typed.keys() & {"ckpt_path", "+experiment", "backend"}:
        added.append(f"ckpt_path={DEFAULT}")
    weights = typed.get("ckpt_path", DEFAULT if added else "")
    if "+experiment" not in typed and find(weights):
        added.insert(0, f"+experiment={weights}")
    first = next((place for place, item in enumerate(overrides) if "=" in item), len(overrides))
    return [*overrides[:first], *added, *overrides[first:]]


def about(name: str) -> dict[str, str]:
    """How bundled weights were made: version, commit, command, data, date, scores.

    Raises:
        UserError: There are none of that name.
    """
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        raise UserError(f"no weights '{name}' come with the package; there are: {', '.join(names()) or 'none'}")
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def write(path: Path, tensors: Mapping[str, Tensor], made: Mapping[str, object]) -> None:
    """Write weights in half precision, with how they were made.

    Args:
        path: The file, ``.safetensors``; it appears whole or not at all.
        tensors: The network's state.
        made: What `about` is to tell.

    Raises:
        UserError: A weight does not fit into half precision, or the file cannot be written.
    """
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    lost = [name for name, tensor in halves.items() if not torch.isfinite(tensor).all()]
    if lost:
        raise UserError(f"weights: {lost[0]} has values beyond half precision; train with a smaller rate or with decay")
    told = {key: value if isinstance(value, str) else json.dumps(value) for key, value in made.items()}
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in halves.items()}, metadata=told))

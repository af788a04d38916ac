"""Rebuilding a network from a checkpoint, and loading weights into a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskvos.build import build
from maskvos.models.network import MaskVOS
from maskvos.models.state_dict import load_state, read_checkpoint, tensors_of
from maskvos.weights.config import without_pretrained


def load_network(path: str | Path, model: Mapping[str, Any], trained_as: str = "") -> MaskVOS:
    """Build a network and load the weights of a checkpoint.

    Args:
        path: The checkpoint.
        model: The network's configuration.
        trained_as: Name of the experiment, for messages.

    Returns:
        The network in evaluation mode, on the CPU.

    Raises:
        UserError: The file cannot be read, or holds another architecture.
    """
    network: MaskVOS = build(without_pretrained(model), "model")
    load_weights(network, read_checkpoint(path), path, trained_as=trained_as)
    return network.eval()


def load_weights(
    network: MaskVOS, checkpoint: Mapping[str, Any], path: str | Path, strict: bool = True, trained_as: str = ""
) -> list[str]:
    """Load the weights of a checkpoint into a network.

    Args:
        network: Changed in place.
        checkpoint: What `read_checkpoint` returned for ``path``.
        path: The file, for messages.
        strict: Every tensor must fit; otherwise those that do not are skipped.
        trained_as: Name of the experiment, for messages.

    Returns:
        One line per skipped tensor.

    Raises:
        UserError: The file holds another architecture.
    """
    about = checkpoint.get("maskvos")
    config = about.get("config") if isinstance(about, Mapping) else None
    name = trained_as or (config.get("name") if isinstance(config, Mapping) else "")
    source = f"{path} (trained as '{name}')" if name else str(path)
    tensors = {key.removeprefix("network."): value for key, value in tensors_of(checkpoint, source).items()}
    return load_state(network, tensors, source=source, strict=strict)

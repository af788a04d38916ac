"""Base class of backbones: the feature pyramid interface and loading of pretrained weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from torch import Tensor, nn

from maskvos.errors import UserError
from maskvos.models.state_dict import load_state, read_checkpoint, tensors_of

log = logging.getLogger(__name__)


class Backbone(nn.Module):
    """Encoder that returns a pyramid of four feature maps.

    ``forward`` takes normalised images ``(B, 3, H, W)`` of any size and returns four maps ``(B, C_i, ceil(H / s_i),
    ceil(W / s_i))``, fine to coarse.

    Attributes:
        channels: C_i, the channels of the four maps.
        strides: s_i, always (4, 8, 16, 32).
        pretrained: Whether pretrained weights were loaded.
        dynamic_size: Whether `torch.export` supports dynamic height and width. For padded and shifted windows, its
            constraint solver does not finish in minutes.
        activation_checkpointing: Whether activation checkpointing is enabled; None: it is not supported.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...] = (4, 8, 16, 32)
    pretrained: bool = False
    dynamic_size: bool = True
    activation_checkpointing: bool | None = None

    def layer_ids(self) -> dict[str, int]:
        """Layer of each parameter, for layer-wise learning-rate decay.

        Returns:
            Parameter names to layer indices, 0 for the first layer; empty if not supported.
        """
        return {}

    def number_layers(self, layers: Sequence[nn.Module]) -> dict[str, int]:
        """`layer_ids` from the ordered layers; other parameters belong to the layer registered before them."""
        owner = {id(parameter): i for i, layer in enumerate(layers) for parameter in layer.parameters()}
        ids, current = {}, 0
        for name, parameter in self.named_parameters():
            current = owner.get(id(parameter), current)
            ids[name] = current
        return ids

    def enable_activation_checkpointing(self) -> None:
        """Keep only the inputs of the blocks in training and recompute their activations in the backward pass.

        Raises:
            UserError: This backbone does not support it.
        """
        if self.activation_checkpointing is None:
            raise UserError(
                f"train.activation_checkpointing=true: {type(self).__name__} does not support activation "
                "checkpointing; set it to false or choose another backbone"
            )
        self.activation_checkpointing = True

    def load_pretrained(
        self,
        pretrained: bool | str | Path,
        name: str,
        fetch: Callable[[], dict[str, Tensor]],
        translate: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    ) -> None:
        """Load pretrained weights.

        Args:
            pretrained: False: random weights. True: download the published weights; if that fails, warn once and keep
                random ones. Otherwise: path of a weights file.
            name: Name of the backbone in messages.
            fetch: Downloads the published weights; raises OSError if they are not available.
            translate: Renames the tensors of any supported layout to the names of this module.

        Raises:
            UserError: The file cannot be read, or is of another architecture.
        """
        if pretrained is False:
            return
        if pretrained is True:
            try:
                weights, source = fetch(), f"the published weights of {name}"
            except (OSError, ImportError) as error:
                _warn_once(name, str(error).strip().split("\n")[0][:160])
                return
        else:
            source = f"'{pretrained}'"
            weights = tensors_of(read_checkpoint(pretrained), source)
        load_state(self, translate(weights), source)
        self.pretrained = True


@cache
def _warn_once(name: str, reason: str) -> None:
    log.warning(
        "%s: pretrained weights are not available, using random weights (%s). This is harmless if a checkpoint is "
        "loaded; for training, set backbone.pretrained=<file>, or backbone.pretrained=false",
        name,
        reason,
    )

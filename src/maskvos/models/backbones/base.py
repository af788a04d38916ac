"""What every backbone is: a pyramid of four maps that publishes its widths; and how it gets pretrained weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from torch import Tensor, nn

from maskvos.errors import UserError
from maskvos.models.state_dict import load_state, read_checkpoint, tensors_of


class Backbone(nn.Module):
    """A pyramid of four maps.

    ``forward`` takes ``(B, 3, H, W)`` normalised images of any size and returns four maps ``(B, C_i, ceil(H / s_i),
    ceil(W / s_i))``, fine to coarse.

    Attributes:
        channels: C_i, the widths of the four maps.
        strides: s_i; always (4, 8, 16, 32).
        pretrained: Whether it holds weights that somebody trained.
        open_size: Whether `torch.export` can leave height and width open. Over windows that are padded and shifted its
            solver does not come to an end in minutes.
        checkpointing: Whether blocks keep their inputs alone in training and are computed again for the gradient.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...] = (4, 8, 16, 32)
    pretrained: bool = False
    open_size: bool = True
    checkpointing: bool | None = None  # None: it does not know how

    def depths(self) -> dict[str, int]:
        """How far along the network each parameter lies, for learning rates by layer.

        Returns:
            Name of every parameter to its layer, 0 for the first; empty where the backbone does not tell.
        """
        return {}

    def depths_of(self, layers: Sequence[nn.Module]) -> dict[str, int]:
        """`depths` from the layers in order; a parameter outside of them goes with the layer registered before it."""
        owner = {id(parameter): i for i, layer in enumerate(layers) for parameter in layer.parameters()}
        depths, depth = {}, 0
        for name, parameter in self.named_parameters():
            depth = owner.get(id(parameter), depth)
            depths[name] = depth
        return depths

    def checkpoint_activations(self) -> None:
        """From now on keep the blocks' inputs alone in training, and compute what is between again for the gradient.

        Raises:
            UserError: This backbone does not know how.
        """
        if self.checkpointing is None:
            raise UserError(
                f"train.checkpointing: {type(self).__name__} does not know how to compute its blocks again; "
                "say train.checkpointing=false or choose another backbone"
            )
        self.checkpointing = True

    def load_pretrained(
        self,
        pretrained: bool | str | Path,
        name: str,
        fetch: Callable[[], dict[str, Tensor]],
        translate: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    ) -> None:
        """Load trained weights.

        Args:
            pretrained: False: none. True: fetch the published ones; where that fails, warn once and go on without.
                Otherwise: a weights file.
            name: How to call the backbone in messages.
            fetch: Gets the published weights; raises OSError where there is no way to them.
            translate: Turns any known layout of these weights into this module's names.

        Raises:
            UserError: The file cannot be read, or holds another architecture.
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
    warnings.warn(
        f"{name}: no pretrained weights, it starts from random ones ({reason}). This is harmless where a checkpoint "
        "brings the weights; to train, give backbone.pretrained=<file>, or say backbone.pretrained=false",
        UserWarning,
        stacklevel=4,
    )

"""What every backbone is: a pyramid of four maps that publishes its widths; and how it gets pretrained weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

from torch import Tensor, nn

from maskvos.models.checkpoint import load_state, read_checkpoint, tensors_of


class Backbone(nn.Module):
    """A pyramid of four maps.

    ``forward`` takes ``(B, 3, H, W)`` normalised images of any size and returns four maps ``(B, C_i, ceil(H / s_i),
    ceil(W / s_i))``, fine to coarse.

    Attributes:
        channels: C_i, the widths of the four maps.
        strides: s_i; always (4, 8, 16, 32).
        pretrained: Whether it holds weights that somebody trained.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...] = (4, 8, 16, 32)
    pretrained: bool = False

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

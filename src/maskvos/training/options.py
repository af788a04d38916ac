"""Options of a training that change the network's parts or their rates; a recipe needs none of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from maskvos.errors import UserError, nearest
from maskvos.models.backbones.base import Backbone
from maskvos.models.pixel_decoder import DeformablePixelDecoder

FREEZE = ("none", "encoders", "all")
COMPILE = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@dataclass(frozen=True)
class Training:
    """How the parts of a network are trained.

    Attributes:
        backbone_factor: Learning rate of the encoders, as a share of that of the rest; at 0 only the statistics of
            their norms still move.
        layer_decay: Factor on that for every layer further from the decoder, in (0, 1].
        freeze_norms: Batch norms that keep their statistics and their weights: ``none``, those of the ``encoders``, or
            ``all``. Layer norms keep no statistics and are trained.
        ema: Decay of the running average of the weights, in (0, 1); None: none is kept.
        compile: Mode of ``torch.compile`` for the parts of the network; None: not compiled.
        channels_last: Keep convolutions' weights, and so their maps, with channels innermost: faster on GPUs with
            tensor cores.
        checkpointing: Keep only the inputs of the encoders' blocks and of the deformable layers, and compute what is
            between again for the backward pass: less memory, a forward pass more.

    Raises:
        UserError: A value out of its range.
    """

    backbone_factor: float = 1.0
    layer_decay: float = 1.0
    freeze_norms: str = "none"
    ema: float | None = None
    compile: str | None = None
    channels_last: bool = False
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.backbone_factor < 0:
            raise UserError(f"train.backbone_factor: {self.backbone_factor}; it must not be negative")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"train.layer_decay: {self.layer_decay}; it must be above 0 and at most 1 (no decay)")
        if self.freeze_norms not in FREEZE:
            raise UserError(f"train.freeze_norms: {self.freeze_norms!r}; {nearest(str(self.freeze_norms), FREEZE)}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise UserError(f"train.ema: {self.ema}; it must lie between 0 and 1, such as 0.999, or be null for none")
        if self.compile is not None and self.compile not in COMPILE:
            raise UserError(f"train.compile: {self.compile!r}; {nearest(str(self.compile), COMPILE)}, or null")

    def prepare(self, network: nn.Module) -> list[nn.Module]:
        """Apply what is to be there before an optimiser is made.

        Returns:
            The frozen norms, which have to stay in evaluation mode.

        Raises:
            UserError: ``checkpointing`` for a backbone that cannot.
        """
        if self.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.checkpointing:
            for part in network.modules():
                if isinstance(part, Backbone | DeformablePixelDecoder):
                    part.checkpoint_activations()
        frozen = self._frozen(network)
        if frozen:  # Lightning need not warn of what was asked for
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        for norm in frozen:
            norm.requires_grad_(False)
        return frozen

    def compile_parts(self, network: nn.Module) -> None:
        """Compile each part on its own, in place: names of parameters stay as they are."""
        if self.compile is not None:
            for part in network.children():
                part.compile(mode=self.compile)

    def _frozen(self, network: nn.Module) -> list[nn.Module]:
        if self.freeze_norms == "none":
            return []
        if self.freeze_norms == "all":
            return [*batch_norms(network)]
        return [norm for part in network.modules() if isinstance(part, Backbone) for norm in batch_norms(part)]


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """All layers inside that keep running statistics of batches."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]

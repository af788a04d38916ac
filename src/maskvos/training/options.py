"""Optional training features: learning rates by layer, frozen norms, EMA, compilation, activation checkpointing."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from maskvos.errors import UserError
from maskvos.models.backbones.base import Backbone
from maskvos.models.pixel_decoder import DeformablePixelDecoder
from maskvos.settings.table import check_settings
from maskvos.training.depthwise import speed_up_depthwise


@dataclass(frozen=True)
class TrainingOptions:
    """Optional training features; all are off by default.

    Attributes:
        backbone_factor: Learning rate of the encoders relative to the rest; at 0 only the statistics of their batch
            norms change.
        layer_decay: Layer-wise learning-rate decay of the encoders, in (0, 1]; 1: none.
        freeze_layers: Number of layers (`Backbone.layer_ids`) of the appearance encoder, counted from the input, that
            are not trained, batch norms included.
        freeze_norms: Batch norms whose statistics and weights are frozen: ``none``, those of the ``encoders``, or
            ``all``. Layer norms have no statistics and are always trained.
        ema: Decay of the exponential moving average of the weights, in (0, 1); None: no average.
        compile: Mode of ``torch.compile`` for the parts of the network; None: not compiled.
        channels_last: Use the channels-last memory format, faster for convolutions on GPUs with tensor cores.
        activation_checkpointing: Keep only the inputs of the encoder blocks and deformable layers, and recompute
            their activations in the backward pass: less memory for one more forward pass.

    Raises:
        UserError: A value is out of range.
    """

    backbone_factor: float = 1.0
    layer_decay: float = 1.0
    freeze_layers: int = 0
    freeze_norms: str = "none"
    ema: float | None = None
    compile: str | None = None
    channels_last: bool = False
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        check_settings(vars(self), "train")

    def prepare(self, network: nn.Module) -> list[nn.Module]:
        """Apply the options to a network, before the optimiser is created.

        Args:
            network: The network, modified in place.

        Returns:
            The frozen batch norms, which must stay in evaluation mode.

        Raises:
            UserError: The backbone does not support activation checkpointing, or numbers no layers.
        """
        speed_up_depthwise(network)
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        if self.activation_checkpointing:
            for part in network.modules():
                if isinstance(part, Backbone | DeformablePixelDecoder):
                    part.enable_activation_checkpointing()
        frozen = [*self._frozen_norms(network), *self._freeze_layers(network)]
        if frozen:  # evaluation mode is intended, so silence Lightning's warning
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        for norm in frozen:
            norm.requires_grad_(False)
        return frozen

    def compile_parts(self, network: nn.Module) -> None:
        """Compile each part of the network in place, so that parameter names do not change."""
        if self.compile is not None:
            for part in network.children():
                part.compile(mode=self.compile)

    def _freeze_layers(self, network: nn.Module) -> list[_BatchNorm]:
        """Freeze the lower layers of the appearance encoder; returns their batch norms."""
        encoder = getattr(network, "rgb_encoder", None)
        if not self.freeze_layers or not isinstance(encoder, Backbone):
            return []
        layers = encoder.layer_ids()
        if not layers:
            raise UserError(
                f"train.freeze_layers={self.freeze_layers}: {type(encoder).__name__} does not number its layers; set "
                "it to 0 or choose another backbone"
            )
        for name, parameter in encoder.named_parameters():
            if layers[name] < self.freeze_layers:
                parameter.requires_grad_(False)
        return [norm for norm in batch_norms(encoder) if not norm.weight.requires_grad]

    def _frozen_norms(self, network: nn.Module) -> list[nn.Module]:
        if self.freeze_norms == "none":
            return []
        if self.freeze_norms == "all":
            return [*batch_norms(network)]
        return [norm for part in network.modules() if isinstance(part, Backbone) for norm in batch_norms(part)]


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """All batch-norm layers of a module."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]

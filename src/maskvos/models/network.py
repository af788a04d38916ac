"""The MaskVOS network: two encoders, fusion, pixel decoder, masked transformer decoder, and head."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Literal, overload

import torch
from torch import Tensor, nn

from maskvos.errors import UserError, nearest
from maskvos.models.backbones.base import Backbone
from maskvos.models.folding import FoldedHead, fold_batch_norms
from maskvos.models.fusion import Fusion
from maskvos.models.head import MapProjections, SegFormerHead
from maskvos.models.inputs import InputEncoder
from maskvos.models.layers import crop, resize
from maskvos.models.transformer_decoder import MaskedTransformerDecoder

_INITS = ("default", "original")
_SURE = math.log(0.99 / 0.01)


class MaskVOS(nn.Module):
    """Two-stream video object segmentation network; `build_network` constructs it from its configuration.

    Args:
        rgb_encoder: Appearance encoder; None if the fusion uses motion only.
        flow_encoder: Motion encoder; None if the fusion uses appearance only, or with ``shared``.
        fusion: Combines the two feature pyramids.
        pixel_decoder: From the fused pyramid to multi-scale features and mask features.
        transformer_decoder: From these features to maps per query.
        projections: From the query maps to the input channels of the head.
        head: From four scales to one logit per pixel.
        inputs: Input preprocessing.
        shared: Use the appearance encoder for both streams.
        saliency: From images (B, 3, H, W) in [0, 1] to logits (B, 1, h, w) of the salient object, which `segment`
            averages with those of the network, except in training.
    """

    def __init__(
        self,
        rgb_encoder: Backbone | None,
        flow_encoder: Backbone | None,
        fusion: Fusion,
        pixel_decoder: nn.Module,
        transformer_decoder: MaskedTransformerDecoder,
        projections: MapProjections,
        head: SegFormerHead,
        inputs: InputEncoder,
        shared: bool = False,
        saliency: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.rgb_encoder = rgb_encoder
        self.flow_encoder = flow_encoder
        self.fusion = fusion
        self.pixel_decoder = pixel_decoder
        self.transformer_decoder = transformer_decoder
        self.projections: nn.Module = projections
        self.head: nn.Module = head
        self.shared = shared
        self.saliency = saliency

    def forward(self, rgb: Tensor, flow_rgb: Tensor) -> Tensor:
        """Segment preprocessed inputs.

        Args:
            rgb: (B, 3, H, W) float, normalised image.
            flow_rgb: (B, 3, H, W) float, input of the motion encoder.

        Returns:
            Logits (B, 1, H, W).
        """
        return self._decode(rgb, flow_rgb, False)[0]

    @overload
    def segment(self, rgb: Tensor, flow: Tensor, motion: Tensor | None = None) -> Tensor: ...

    @overload
    def segment(
        self, rgb: Tensor, flow: Tensor, motion: Tensor | None = None, *, aux: Literal[True]
    ) -> tuple[Tensor, list[Tensor]]: ...

    def segment(
        self, rgb: Tensor, flow: Tensor, motion: Tensor | None = None, *, aux: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Segment frames: input preprocessing and the network.

        Args:
            rgb: (B, 3, H, W) float in [0, 1].
            flow: (B, 2, H, W) float, pixels, x then y.
            motion: (B,) bool; False where the motion encoder reads the RGB frame; None: it reads the flow everywhere.
            aux: Also return the logits for auxiliary losses.

        Returns:
            Logits (B, 1, H, W). With ``aux`` also a list of (B, 1, h, w), stride 4, one per decoder layer: the soft
            union ``log(mean(exp(masks)))`` of its query masks, which is parameter-free and foreground wherever one
            query is.
        """
        appearance, flow_rgb = self.inputs(rgb, flow, motion)
        logits, auxiliary = self._decode(appearance, flow_rgb, aux)
        if self.saliency is not None and not self.training:
            salient = resize(self.saliency(rgb).to(logits.dtype), logits.shape[-2:])
            # Limited, so that neither outvotes the other where it is very sure.
            logits = (logits.clamp(-_SURE, _SURE) + salient.clamp(-_SURE, _SURE)) / 2
        return (logits, auxiliary) if aux else logits

    def fold(self) -> MaskVOS:
        """Inference folding: a faster copy with folded batch norms and linear layers, equal up to rounding.

        Returns:
            A network in evaluation mode without gradients; the original is not modified.
        """
        folded = copy.deepcopy(self).eval().requires_grad_(False)
        with torch.no_grad():
            if isinstance(folded.head, SegFormerHead) and isinstance(folded.projections, MapProjections):
                folded.head = FoldedHead(folded.projections, folded.head)
                folded.projections = nn.Identity()
            for name in ("rgb_encoder", "flow_encoder"):
                encoder = getattr(folded, name)
                if encoder is not None:
                    setattr(folded, name, fold_batch_norms(encoder))
        return folded.requires_grad_(False)

    def _decode(self, rgb: Tensor, flow_rgb: Tensor, aux: bool) -> tuple[Tensor, list[Tensor]]:
        pyramid = self.fusion(*self._encode(rgb, flow_rgb))
        levels, mask_features = self.pixel_decoder(pyramid)
        query_maps = self.transformer_decoder(levels, mask_features, aux=aux)
        scales = self.projections([query_maps.masks, *reversed(query_maps.classes)])
        logits = crop(self.head(scales), rgb.shape[-2:])
        if not aux:
            return logits, []
        count = query_maps.masks.shape[1]
        auxiliary = [
            masks.float().logsumexp(1, keepdim=True) - math.log(count)
            for masks in (*query_maps.auxiliary, query_maps.masks)
        ]
        return logits, auxiliary

    def _encode(self, rgb: Tensor, flow_rgb: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        if self.shared and self.rgb_encoder is not None:
            both = self.rgb_encoder(torch.cat((rgb, flow_rgb)))
            return [x[: rgb.shape[0]] for x in both], [x[rgb.shape[0] :] for x in both]
        return (
            [] if self.rgb_encoder is None else self.rgb_encoder(rgb),
            [] if self.flow_encoder is None else self.flow_encoder(flow_rgb),
        )


def build_network(
    rgb_encoder: Backbone | None,
    flow_encoder: Backbone | None,
    fusion: Callable[..., Fusion],
    pixel_decoder: Callable[..., nn.Module],
    transformer_decoder: Callable[..., MaskedTransformerDecoder],
    head: Callable[..., SegFormerHead],
    inputs: InputEncoder | None = None,
    shared: bool = False,
    init: str = "default",
    saliency: nn.Module | None = None,
) -> MaskVOS:
    """Build a network from its parts, passing the channels of each part to the next.

    Args:
        rgb_encoder: Appearance encoder; may be None for a fusion that does not use it.
        flow_encoder: Motion encoder; may be None for a fusion that does not use it, or with ``shared``.
        fusion: Called with ``rgb_channels`` and ``flow_channels``.
        pixel_decoder: Called with ``in_channels``.
        transformer_decoder: Called with ``channels``.
        head: Called with ``in_channels``.
        inputs: Input preprocessing; None: `InputEncoder`.
        shared: Use the appearance encoder for both streams.
        init: ``"default"``, or ``"original"``: initialise all convolutions from N(0, 0.01) with zero bias, as the
            original does (pretrained encoders keep their weights).
        saliency: See `MaskVOS`.

    Returns:
        The network, in training mode.

    Raises:
        UserError: A required encoder is missing, or ``init`` is unknown.
    """
    if init not in _INITS:
        raise UserError(f"model.init={init}: unknown; {nearest(init, _INITS)}")
    if shared:
        flow_encoder = rgb_encoder
    encoders = {"rgb": rgb_encoder, "flow": flow_encoder}
    channels = {stream: encoder.channels for stream, encoder in encoders.items() if encoder is not None}
    if not channels:
        raise UserError("model: both encoders are null; set model.rgb_encoder, model.flow_encoder or both")
    fallback = next(iter(channels.values()))  # for the channels of a stream without encoder
    stream_fusion = fusion(rgb_channels=channels.get("rgb", fallback), flow_channels=channels.get("flow", fallback))
    for stream in stream_fusion.streams:
        if encoders[stream] is None:
            raise UserError(
                f"model.fusion: {type(stream_fusion).__name__} uses the {stream} stream, but model.{stream}_encoder is "
                "null; set that encoder, or choose model/fusion=rgb_only or flow_only"
            )
    decoder = pixel_decoder(in_channels=stream_fusion.channels)
    queries = transformer_decoder(channels=decoder.channels)
    shared = shared and len(stream_fusion.streams) == 2
    network = MaskVOS(
        rgb_encoder=rgb_encoder if "rgb" in stream_fusion.streams else None,
        flow_encoder=flow_encoder if "flow" in stream_fusion.streams and not shared else None,
        fusion=stream_fusion,
        pixel_decoder=decoder,
        transformer_decoder=queries,
        projections=MapProjections(queries.queries, stream_fusion.channels),
        head=head(in_channels=stream_fusion.channels),
        inputs=inputs if inputs is not None else InputEncoder(),
        shared=shared,
        saliency=saliency,
    )
    if init == "original":
        _original_init(network)
    return network


def _original_init(network: MaskVOS) -> None:
    pretrained = {
        id(module)
        for encoder in (network.rgb_encoder, network.flow_encoder)
        if encoder is not None and encoder.pretrained
        for module in encoder.modules()
    }
    pretrained |= {id(module) for module in network.saliency.modules()} if network.saliency is not None else set()
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and id(module) not in pretrained:
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

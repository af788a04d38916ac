"""MaskVOS: appearance and motion encoders, fusion, pixel decoder, masked transformer decoder, head."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from maskvos.errors import UserError, nearest
from maskvos.models.backbones.base import Backbone
from maskvos.models.folding import FusedHead, fold_batch_norms
from maskvos.models.fusion import Fusion
from maskvos.models.head import MapProjections, SegFormerHead
from maskvos.models.inputs import InputEncoder
from maskvos.models.layers import crop
from maskvos.models.transformer_decoder import MaskedTransformerDecoder

_INITS = ("default", "original")


class MaskVOS(nn.Module):
    """The network, from built parts.

    Args:
        rgb_encoder: Reads the frame; None when the fusion reads motion alone.
        flow_encoder: Reads the flow's image; None when the fusion reads appearance alone, or with ``shared``.
        fusion: Two pyramids into one.
        pixel_decoder: One pyramid into decoded levels and mask features.
        transformer_decoder: These into maps per query.
        projections: Maps per query to the widths of the head's scales.
        head: Scales into one logit per pixel.
        inputs: Normalises images and draws the flow.
        shared: The appearance encoder reads both streams.
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

    def forward(self, rgb: Tensor, flow_rgb: Tensor) -> Tensor:
        """Segment normalised inputs.

        Args:
            rgb: (B, 3, H, W) float, normalised.
            flow_rgb: (B, 3, H, W) float: the flow's image, normalised.

        Returns:
            Logits (B, 1, H, W).
        """
        return self._decode(rgb, flow_rgb, False)[0]

    def segment(
        self, rgb: Tensor, flow: Tensor, motion: Tensor | None = None, aux: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Segment what travels.

        Args:
            rgb: (B, 3, H, W) float in [0, 1].
            flow: (B, 2, H, W) float, pixels, x then y.
            motion: (B,) bool: False where the motion stream is to see the RGB frame; None: the flow everywhere.
            aux: Also return auxiliary logits for training.

        Returns:
            Logits (B, 1, H, W). With ``aux`` also a list of (B, 1, h, w) of stride 4, one per decoder layer: the soft
            union of the layer's query masks, ``log(mean(exp(masks)))`` over the queries. It has no parameters, so it
            costs inference nothing and changes no checkpoint; a pixel is foreground there as soon as one query says so.
        """
        rgb, flow_rgb = self.inputs(rgb, flow, motion)
        logits, auxiliary = self._decode(rgb, flow_rgb, aux)
        return (logits, auxiliary) if aux else logits

    def fuse(self) -> MaskVOS:
        """A copy for inference in which linear chains are folded: equal to rounding, faster, not to be trained.

        Returns:
            A network in evaluation mode without gradients; this one stays as it is.
        """
        fused = copy.deepcopy(self).eval().requires_grad_(False)
        with torch.no_grad():
            if isinstance(fused.head, SegFormerHead) and isinstance(fused.projections, MapProjections):
                fused.head = FusedHead(fused.projections, fused.head)
                fused.projections = nn.Identity()
            for name in ("rgb_encoder", "flow_encoder"):
                encoder = getattr(fused, name)
                if encoder is not None:
                    setattr(fused, name, fold_batch_norms(encoder))
        return fused.requires_grad_(False)

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
) -> MaskVOS:
    """Build a network whose parts take their widths from one another.

    Args:
        rgb_encoder: Appearance encoder, built; may be None for a fusion that does not read it.
        flow_encoder: Motion encoder, built; may be None for a fusion that does not read it, or with ``shared``.
        fusion: Called with ``rgb_channels`` and ``flow_channels``.
        pixel_decoder: Called with ``in_channels``.
        transformer_decoder: Called with ``channels``.
        head: Called with ``in_channels``.
        inputs: Built; the usual one by default.
        shared: One encoder (the appearance one) reads both streams.
        init: ``"default"``, or ``"original"``: every convolution from N(0, 0.01) with zero bias, as the original
            does it (pretrained encoders keep their weights).

    Returns:
        The network, in training mode.

    Raises:
        UserError: Parts are missing or do not fit.
    """
    if init not in _INITS:
        raise UserError(f"model.init: {init!r} is unknown; {nearest(init, _INITS)}")
    if shared:
        flow_encoder = rgb_encoder
    encoders = {"rgb": rgb_encoder, "flow": flow_encoder}
    channels = {stream: encoder.channels for stream, encoder in encoders.items() if encoder is not None}
    if not channels:
        raise UserError("model: no encoder; give model.rgb_encoder, model.flow_encoder or both")
    anything = next(iter(channels.values()))
    fused = fusion(
        rgb_channels=channels.get("rgb", anything),
        flow_channels=channels.get("flow", anything),
    )
    for stream in fused.streams:
        if encoders[stream] is None:
            raise UserError(
                f"model.fusion: {type(fused).__name__} reads the {stream} stream, but model.{stream}_encoder is null; "
                "give that encoder, or choose fusion rgb_only or flow_only"
            )
    decoder = pixel_decoder(in_channels=fused.channels)
    queries = transformer_decoder(channels=decoder.channels)
    one = shared and len(fused.streams) == 2
    network = MaskVOS(
        rgb_encoder=rgb_encoder if "rgb" in fused.streams else None,
        flow_encoder=flow_encoder if "flow" in fused.streams and not one else None,
        fusion=fused,
        pixel_decoder=decoder,
        transformer_decoder=queries,
        projections=MapProjections(queries.queries, fused.channels),
        head=head(in_channels=fused.channels),
        inputs=inputs if inputs is not None else InputEncoder(),
        shared=one,
    )
    if init == "original":
        _original_init(network)
    return network


def _original_init(network: MaskVOS) -> None:
    kept = {
        id(module)
        for encoder in (network.rgb_encoder, network.flow_encoder)
        if encoder is not None and encoder.pretrained
        for module in encoder.modules()
    }
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and id(module) not in kept:
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

"""Import checkpoints of the original MaskVOS network: renames its state dict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from maskvos.errors import UserError
from maskvos.models.backbones.swin import Swin
from maskvos.models.fusion import ConcatFusion
from maskvos.models.head import SegFormerHead
from maskvos.models.network import MaskVOS, build_network
from maskvos.models.pixel_decoder import DeformablePixelDecoder
from maskvos.models.state_dict import load_state, read_checkpoint, tensors_of
from maskvos.models.transformer_decoder import MaskedTransformerDecoder

_PIXEL = r"mask2former\.sem_seg_head\.pixel_decoder\."
_QUERY = r"mask2former\.sem_seg_head\.predictor\."

# Names in the original and here; the first matching pattern applies. <n>: an index that starts at 1 in the original.
_NAMES: tuple[tuple[str, str], ...] = (
    (r"backbone_x\.(.+)", r"rgb_encoder.\1"),
    (r"backbone_y\.(.+)", r"flow_encoder.\1"),
    (r"project(\d)\.(.+)", r"fusion.projections.<\1>.\2"),
    (_PIXEL + r"input_proj\.(.+)", r"pixel_decoder.input_projections.\1"),
    (_PIXEL + r"transformer\.level_embed", r"pixel_decoder.level_embed"),
    (_PIXEL + r"transformer\.encoder\.layers\.(\d)\.self_attn\.(.+)", r"pixel_decoder.layers.\1.attention.\2"),
    (_PIXEL + r"transformer\.encoder\.layers\.(\d)\.(.+)", r"pixel_decoder.layers.\1.\2"),
    (_PIXEL + r"mask_features\.(.+)", r"pixel_decoder.mask_features.\1"),
    (_PIXEL + r"adapter_1\.(.+)", r"pixel_decoder.lateral.\1"),
    (_PIXEL + r"layer_1\.(.+)", r"pixel_decoder.output.\1"),
    (
        _QUERY + r"transformer_(self|cross)_attention_layers\.(\d)\.(?:self_attn|multihead_attn)\.(.+)",
        r"transformer_decoder.layers.\2.\1_attention.\3",
    ),
    (
        _QUERY + r"transformer_(self|cross)_attention_layers\.(\d)\.norm\.(.+)",
        r"transformer_decoder.layers.\2.\1_norm.\3",
    ),
    (_QUERY + r"transformer_ffn_layers\.(\d)\.norm\.(.+)", r"transformer_decoder.layers.\1.ffn_norm.\2"),
    (_QUERY + r"transformer_ffn_layers\.(\d)\.(.+)", r"transformer_decoder.layers.\1.\2"),
    (_QUERY + r"decoder_norm\.(.+)", r"transformer_decoder.norm.\1"),
    (_QUERY + r"out_embed\.(.+)", r"transformer_decoder.class_embed.\1"),
    (_QUERY + r"((?:query_feat|query_embed|level_embed|mask_embed)\..+)", r"transformer_decoder.\1"),
    (r"mask2former\.conv(\d)\.(.+)", r"projections.convs.<\1>.\2"),
    (r"decode_head\.linear_c(\d)\.proj\.(.+)", r"head.linears.<\1>.\2"),
    (r"decode_head\.linear_fuse\.conv\.(.+)", r"head.fuse.conv.\1"),
    (r"decode_head\.linear_fuse\.bn\.(.+)", r"head.fuse.norm.\1"),
    (r"decode_head\.linear_project\.conv\.(.+)", r"head.refine.conv.\1"),
    (r"decode_head\.linear_project\.bn\.(.+)", r"head.refine.norm.\1"),
    (r"decode_head\.linear_saliency_pred\.(.+)", r"head.predict.\1"),
)
# Buffers that follow from the window size.
_DERIVED = re.compile(r"\.(relative_position_index|attn_mask)$")


def translate_original(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the original network.

    Args:
        state_dict: Tensors by the original names (``backbone_x...``, ``mask2former...``, ``decode_head...``).

    Returns:
        Tensors by the names of `MaskVOS`, without derived buffers.

    Raises:
        UserError: A name is not one of the original network.
    """
    own = {}
    for key, value in state_dict.items():
        if _DERIVED.search(key):
            continue
        for pattern, name in _NAMES:
            match = re.fullmatch(pattern, key)
            if match:
                renamed = re.sub(r"<(\d)>", lambda m: str(int(m[1]) - 1), match.expand(name))
                own[renamed] = value
                break
        else:
            raise UserError(
                f"weights: {key!r} is not a tensor of the original MaskVOS network; choose one of its checkpoints, or "
                "load a checkpoint of this project with ckpt_path or init_from"
            )
    return own


def original_network() -> MaskVOS:
    """The architecture of the original, as published: Swin-T in both streams, random weights."""
    return build_network(
        rgb_encoder=Swin(),
        flow_encoder=Swin(),
        fusion=ConcatFusion,
        pixel_decoder=DeformablePixelDecoder,
        transformer_decoder=MaskedTransformerDecoder,
        head=partial(SegFormerHead, width=192),
    )


def from_original(state_dict: Mapping[str, Tensor]) -> MaskVOS:
    """Build the original network with the weights of one of its checkpoints.

    Args:
        state_dict: The 644 tensors, or the checkpoint ``{'epoch', 'network', 'optimizer'}``; names may be prefixed with
            ``module.``.

    Returns:
        The network in evaluation mode; ``forward(rgb, flow_rgb)`` takes normalised images.

    Raises:
        UserError: A tensor is missing, unexpected, or of another shape.
    """
    source = "the original checkpoint"
    network = original_network()
    load_state(network, translate_original(tensors_of(state_dict, source)), source)
    return network.eval()


def load_original(path: str | Path) -> MaskVOS:
    """Build the original network from a checkpoint file, see `from_original`."""
    return from_original(read_checkpoint(path))

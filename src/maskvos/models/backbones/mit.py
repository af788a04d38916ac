"""Mix Transformer (MiT), the encoder of SegFormer (Xie et al., NeurIPS 2021), written from the paper."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn

from maskvos.errors import UserError, nearest
from maskvos.models.backbones.base import Backbone
from maskvos.models.backbones.hub import offline_if_unreachable
from maskvos.models.layers import Linear, maps, maybe_checkpoint, tokens
from maskvos.models.state_dict import read_checkpoint

# Channels and depths from table 6 of the paper; heads, reduction ratio and expansion are the same for all variants.
_VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
_HEADS = (1, 2, 5, 8)
_REDUCTION = (8, 4, 2, 1)
_EXPANSION = 4


class OverlapPatchEmbed(nn.Module):
    """Overlapping patch embedding: a strided convolution and a norm.

    Args:
        in_channels: Input channels.
        channels: Channels of the tokens.
        kernel: Side of a patch, odd, pixels.
        stride: Distance between patches, pixels.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        """(B, in_channels, H, W) to tokens (B, h * w, channels), h and w."""
        x = self.proj(x)
        return self.norm(tokens(x)), x.shape[2], x.shape[3]


class ReducedAttention(nn.Module):
    """Efficient self-attention: keys and values are computed from a map downsampled by a strided convolution.

    Args:
        channels: C.
        heads: Number of heads.
        reduction: Downsampling factor per axis; 1: plain attention.
    """

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.reduction = reduction
        self.q = Linear(channels, channels)
        self.kv = Linear(channels, 2 * channels)
        self.proj = Linear(channels, channels)
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, stride=reduction)
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, H * W, C) to (B, H * W, C)."""
        batch, count, channels = x.shape
        query = self.q(x).view(batch, count, self.heads, -1).transpose(1, 2)
        source = x
        if self.reduction > 1:
            grid = maps(x, height, width)
            # Pad a map smaller than the kernel, so that one row and one column remain.
            grid = F.pad(grid, (0, max(self.reduction - width, 0), 0, max(self.reduction - height, 0)))
            source = self.norm(tokens(self.sr(grid)))
        key, value = self.kv(source).view(batch, source.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value)
        return self.proj(out.transpose(1, 2).reshape(batch, count, channels))


class DepthwiseConv(nn.Module):
    """3x3 depthwise convolution, the implicit position encoding of Mix-FFN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, H * W, C) to (B, H * W, C)."""
        return tokens(self.dwconv(maps(x, height, width)))


class MixFFN(nn.Module):
    """Mix-FFN: linear, 3x3 depthwise convolution, GELU, linear."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(channels, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = Linear(hidden, channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, H * W, C) to (B, H * W, C)."""
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), height, width)))


class MitBlock(nn.Module):
    """Transformer block: efficient attention and Mix-FFN, both pre-norm and residual."""

    def __init__(self, channels: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = ReducedAttention(channels, heads, reduction)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MixFFN(channels, _EXPANSION * channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, H * W, C) to (B, H * W, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x), height, width))


class MitStage(nn.Module):
    """Patch embedding, blocks and an output norm."""

    def __init__(
        self, in_channels: int, channels: int, heads: int, reduction: int, drop_path: Sequence[float], first: bool
    ) -> None:
        super().__init__()
        self.patch_embed = OverlapPatchEmbed(in_channels, channels, *((7, 4) if first else (3, 2)))
        self.blocks = nn.ModuleList(MitBlock(channels, heads, reduction, rate) for rate in drop_path)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, activation_checkpointing: bool = False) -> Tensor:
        """(B, in_channels, H, W) to (B, channels, h, w)."""
        x, height, width = self.patch_embed(x)
        for block in self.blocks:
            x = maybe_checkpoint(block, x, height, width, enabled=activation_checkpointing)
        return maps(self.norm(x), height, width)


class MixTransformer(Backbone):
    """MiT-B0 to MiT-B5.

    Args:
        variant: ``"b0"`` to ``"b5"``.
        drop_path: Stochastic depth rate of the last block; it increases linearly from 0 at the first.
        pretrained: True, False or a weights file (the authors' ``.pth``, or a SegFormer of ``transformers``).

    Raises:
        UserError: The variant is unknown.
    """

    activation_checkpointing = False

    def __init__(self, variant: str = "b0", drop_path: float = 0.1, pretrained: bool | str | Path = False) -> None:
        super().__init__()
        if variant not in _VARIANTS:
            raise UserError(f"backbone.variant={variant}: unknown MiT variant; {nearest(variant, _VARIANTS)}")
        self.channels, depths = _VARIANTS[variant]
        rates = torch.linspace(0, drop_path, sum(depths)).tolist()
        starts = [sum(depths[:stage]) for stage in range(4)]
        inputs = (3, *self.channels[:3])
        self.stages: Any = nn.ModuleList(
            MitStage(
                inputs[i],
                self.channels[i],
                _HEADS[i],
                _REDUCTION[i],
                rates[starts[i] : starts[i] + depths[i]],
                first=i == 0,
            )
            for i in range(4)
        )
        self.apply(_initialise)
        self.load_pretrained(pretrained, f"mit_{variant}", lambda: _published(variant), translate)

    def forward(self, x: Tensor) -> list[Tensor]:
        """See `Backbone`."""
        outputs = []
        for stage in self.stages:
            x = stage(x, bool(self.activation_checkpointing))
            outputs.append(x)
        return outputs

    def layer_ids(self) -> dict[str, int]:
        """See `Backbone`: the first patch embedding, then each block, with the patch embedding that follows it."""
        first = self.stages[0].patch_embed
        return self.number_layers([first, *(block for stage in self.stages for block in stage.blocks)])


# Names in the authors' files (stages start at 1) and in both layouts of the transformers library, and ours.
_AUTHORS = (
    (r"patch_embed(\d)\.", "stages.{}.patch_embed."),
    (r"block(\d)\.", "stages.{}.blocks."),
    (r"norm(\d)\.", "stages.{}.norm."),
)
_TRANSFORMERS = (
    (r"encoder\.patch_embeddings\.(\d)\.", r"stages.\1.patch_embed."),
    (r"encoder\.block\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"encoder\.layer_norm\.(\d)\.", r"stages.\1.norm."),
    (r"stages\.(\d)\.patch_embeddings\.", r"stages.\1.patch_embed."),
    (r"stages\.(\d)\.layer_norm\.", r"stages.\1.norm."),
)
_INNER = (
    (r"\.patch_embed\.layer_norm\.", ".patch_embed.norm."),
    (r"\.(layer_norm_1|layernorm_before)\.", ".norm1."),
    (r"\.(layer_norm_2|layernorm_after)\.", ".norm2."),
    (r"\.attention\.self\.sr\.", ".attn.sr."),
    (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
    (r"\.attention\.sequence_reduction\.sequence_reduction\.", ".attn.sr."),
    (r"\.attention\.sequence_reduction\.layer_norm\.", ".attn.norm."),
    (r"\.attention\.(self\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(self\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(self\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.mlp\.dense1\.", ".mlp.fc1."),
    (r"\.mlp\.dense2\.", ".mlp.fc2."),
)


def translate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename published MiT weights, of the authors or of ``transformers``."""
    own: dict[str, Tensor] = {}
    for key, value in weights.items():
        key = re.sub(r"^(backbone|segformer)\.", "", key)
        if re.match(r"(head|classifier|decode_head)\.", key):
            continue
        for pattern, name in _AUTHORS:
            match = re.match(pattern, key)
            if match:
                key = name.format(int(match[1]) - 1) + key[match.end() :]
                break
        for pattern, name in (*_TRANSFORMERS, *_INNER):
            key = re.sub(pattern, name, key)
        own[key] = value
    for key in [key for key in own if ".attn.k." in key]:
        own[key.replace(".k.", ".kv.")] = torch.cat((own.pop(key), own.pop(key.replace(".k.", ".v."))))
    return own


def _published(variant: str) -> dict[str, Tensor]:
    from huggingface_hub import hf_hub_download

    with offline_if_unreachable():
        return read_checkpoint(hf_hub_download(f"nvidia/mit-{variant}", "pytorch_model.bin"))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)

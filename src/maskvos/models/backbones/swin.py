"""Swin Transformer (Liu et al., ICCV 2021) as a feature pyramid for any image size.

As in the authors' code for detection and segmentation, maps are zero-padded on the right and bottom to a multiple of
the window size, after the norm. Parameter names are those of the authors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn

from maskvos.errors import UserError
from maskvos.models.backbones.base import Backbone
from maskvos.models.backbones.hub import offline_if_unreachable
from maskvos.models.layers import Linear, maybe_checkpoint


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with relative position bias.

    Args:
        channels: C.
        heads: Number of heads.
        window: Side of a window in tokens.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.area = window * window
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", _relative_index(window), persistent=False)

    def position_bias(self) -> Tensor:
        """Relative position bias of all pairs of tokens: (heads, area, area)."""
        bias = self.relative_position_bias_table[self.relative_position_index]
        return bias.view(self.area, self.area, self.heads).permute(2, 0, 1)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows.

        Args:
            windows: (B * N, area, C) float, the N windows of an image consecutive.
            mask: (N, area, area) float32, added to the attention scores; or None.

        Returns:
            (B * N, area, C).
        """
        count, area, channels = windows.shape
        query, key, value = self.qkv(windows).view(count, area, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.position_bias().to(query.dtype)[None]
        if mask is not None:
            bias = bias + mask.to(query.dtype)[:, None]
            bias = bias.repeat(count // mask.shape[0], 1, 1, 1)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(out.transpose(1, 2).reshape(count, area, channels))


def _relative_index(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens, flattened: (window ** 4,) int64."""
    place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    offset = place[:, :, None] - place[:, None] + window - 1
    return (offset[0] * (2 * window - 1) + offset[1]).flatten()


class Mlp(nn.Module):
    """Two linear layers with a GELU in between."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(channels, hidden)
        self.fc2 = Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Transformer block: (shifted) window attention and MLP, both pre-norm and residual.

    Args:
        channels: C.
        heads: Number of heads.
        window: Side of a window in tokens.
        shift: Shift of the windows in tokens; 0: none.
        drop_path: Stochastic depth rate: probability of dropping a residual branch in training.
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 4 * channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C); ``mask`` from `shift_mask`."""
        x = x + self.drop_path(self._attend(self.norm1(x), mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        window, shift = self.window, self.shift
        x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        rows, columns = x.shape[1] // window, x.shape[2] // window
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
        x = x.view(batch, rows, window, columns, window, channels).transpose(2, 3)
        x = self.attn(x.reshape(-1, window * window, channels), mask if shift else None)
        x = x.view(batch, rows, columns, window, window, channels).transpose(2, 3)
        x = x.reshape(batch, rows * window, columns * window, channels)
        if shift:
            x = x.roll((shift, shift), (1, 2))
        return x[:, :height, :width]


def shift_mask(height: int, width: int, window: int, like: Tensor) -> Tensor:
    """Attention mask of shifted windows: separates tokens that share a window only by the cyclic shift.

    Args:
        height: H of the map before padding.
        width: W of the map before padding.
        window: Side of a window in tokens; the shift is half of it.
        like: Tensor on the device of the mask.

    Returns:
        (windows, window ** 2, window ** 2) float32: 0 where two tokens attend to each other, -100 elsewhere.
    """

    def regions(size: int) -> Tensor:
        padded = size + -size % window
        place = torch.arange(padded, device=like.device)
        return ((place >= padded - window).int() + (place >= padded - window // 2).int()).view(-1, window)

    rows, columns = regions(height), regions(width)
    region = (3 * rows[:, None, :, None] + columns[None, :, None, :]).flatten(2).flatten(0, 1)
    return (region[:, :, None] != region[:, None]).float() * -100.0


class PatchMerging(nn.Module):
    """Patch merging: concatenate 2x2 neighbours, normalise, and project to twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        batch, height, width, channels = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(batch, height // 2, width // 2, 4 * channels)))


class PatchEmbed(nn.Module):
    """Patch embedding: 4x4 pixel patches to normalised tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 4, stride=4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, ceil(H / 4), ceil(W / 4), C)."""
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class SwinStage(nn.Module):
    """Blocks at one resolution and, except in the last stage, the downsampling that follows."""

    def __init__(self, channels: int, heads: int, window: int, drop_path: Sequence[float], merge: bool) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            SwinBlock(channels, heads, window, window // 2 if index % 2 else 0, rate)
            for index, rate in enumerate(drop_path)
        )
        self.downsample = PatchMerging(channels) if merge else None

    def forward(self, x: Tensor, activation_checkpointing: bool = False) -> Tensor:
        """(B, H, W, C) to (B, H, W, C), without the downsampling."""
        mask = shift_mask(x.shape[1], x.shape[2], self.window, x)
        for block in self.blocks:
            x = maybe_checkpoint(block, x, mask, enabled=activation_checkpointing)
        return x


class Swin(Backbone):
    """Swin Transformer.

    Args:
        channels: Channels of the first stage; they double at each stage.
        depths: Number of blocks per stage.
        heads: Number of heads per stage.
        window: Side of a window in tokens.
        drop_path: Stochastic depth rate of the last block; it increases linearly from 0 at the first.
        output_norm: Apply a layer norm to the output of each stage.
        pretrained: True, False or a weights file (the authors' ``.pth`` or timm's).
        published: timm's name of the weights that ``pretrained=True`` downloads.

    Raises:
        UserError: ``depths`` or ``heads`` does not have four entries.
    """

    activation_checkpointing = False
    dynamic_size = False

    def __init__(
        self,
        channels: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        drop_path: float = 0.2,
        output_norm: bool = False,
        pretrained: bool | str | Path = False,
        published: str = "swin_tiny_patch4_window7_224.ms_in1k",
    ) -> None:
        super().__init__()
        if len(depths) != 4 or len(heads) != 4:
            raise UserError(f"backbone: depths {depths} and heads {heads} need one entry per stage, four each")
        self.channels = tuple(channels * 2**stage for stage in range(4))
        self.patch_embed = PatchEmbed(channels)
        rates = torch.linspace(0, drop_path, sum(depths)).tolist()
        starts = [sum(depths[:stage]) for stage in range(4)]
        self.layers: Any = nn.ModuleList(
            SwinStage(width, heads[i], window, rates[starts[i] : starts[i] + depths[i]], merge=i < 3)
            for i, width in enumerate(self.channels)
        )
        self.output_norms = nn.ModuleList(nn.LayerNorm(width) for width in self.channels) if output_norm else None
        self.apply(_initialise)
        self.load_pretrained(pretrained, published, lambda: _published(published), self.translate)

    def forward(self, x: Tensor) -> list[Tensor]:
        """See `Backbone`."""
        x = self.patch_embed(x)
        outputs = []
        stage: Any
        for index, stage in enumerate(self.layers):
            x = stage(x, bool(self.activation_checkpointing))
            out = x if self.output_norms is None else self.output_norms[index](x)
            outputs.append(out.permute(0, 3, 1, 2))
            if index < 3:
                x = stage.downsample(x)
        return outputs

    def layer_ids(self) -> dict[str, int]:
        """See `Backbone`: the patch embedding, then each block, with the downsampling that follows it."""
        return self.number_layers([self.patch_embed, *(block for stage in self.layers for block in stage.blocks)])

    def translate(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename published weights, of the authors or of timm.

        The classifier, the last norm and derived buffers are dropped. timm has the downsampling at the start of the
        next stage instead of the end of a stage.
        """
        weights = {key.removeprefix("backbone."): value for key, value in weights.items()}
        from_timm = "layers.3.downsample.norm.weight" in weights
        own = {}
        for key, value in weights.items():
            if re.search(r"^(head|norm|fc_norm)\b|attn_mask|relative_position_index|^norm\d", key):
                continue
            moved = re.match(r"layers\.(\d)\.downsample\.(.*)", key)
            if from_timm and moved:
                key = f"layers.{int(moved[1]) - 1}.downsample.{moved[2]}"
            own[key] = value
        if self.output_norms is not None:
            own |= {k: v for k, v in self.state_dict().items() if k.startswith("output_norms.") and k not in own}
        return own


def _published(name: str) -> dict[str, Tensor]:
    with offline_if_unreachable():
        return timm.create_model(name, pretrained=True).state_dict()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, WindowAttention):
        trunc_normal_(module.relative_position_bias_table, std=0.02)

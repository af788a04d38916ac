"""Queries that look at the decoded maps through the masks that they predict (Cheng et al., Mask2Former, CVPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskvos.errors import UserError
from maskvos.models.layers import MLP, Linear, linear, resize, sine_position, tokens


class QueryMaps(NamedTuple):
    """What the decoder says.

    Attributes:
        masks: (B, Q, h, w), stride 4: the mask logits of the last layer.
        classes: Three (B, Q, h, w), strides 32, 16, 8: the class maps of the last three layers.
        auxiliary: Mask logits (B, Q, h, w), stride 4, after each layer but the last; empty unless asked for.
    """

    masks: Tensor
    classes: list[Tensor]
    auxiliary: list[Tensor]


class Attention(nn.Module):
    """Multi-head attention with the projections of query, key and value in one matrix.

    Args:
        channels: C.
        heads: Number of heads.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key: (B, N, C).
            value: (B, N, C).
            visible: (B, Q, N) bool, True where a query may look; None for everywhere.

        Returns:
            (B, Q, C).
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        query, key, value = (
            linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if visible is None else visible[:, None]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and FFN, all post-norm.

    Args:
        channels: C.
        heads: Number of heads.
        ffn_channels: Hidden width of the FFN.
    """

    def __init__(self, channels: int, heads: int, ffn_channels: int) -> None:
        super().__init__()
        self.cross_attention = Attention(channels, heads)
        self.cross_norm = nn.LayerNorm(channels)
        self.self_attention = Attention(channels, heads)
        self.self_norm = nn.LayerNorm(channels)
        self.linear1 = Linear(channels, ffn_channels)
        self.linear2 = Linear(ffn_channels, channels)
        self.ffn_norm = nn.LayerNorm(channels)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, position: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
        """Update the queries.

        Args:
            queries: (B, Q, C).
            position: (Q, C), the queries' own positions.
            key: (B, N, C): memory with positions.
            value: (B, N, C): memory.
            visible: (B, Q, N) bool.

        Returns:
            (B, Q, C).
        """
        queries = self.cross_norm(queries + self.cross_attention(queries + position, key, value, visible))
        placed = queries + position
        queries = self.self_norm(queries + self.self_attention(placed, placed, queries))
        return self.ffn_norm(queries + self.linear2(F.relu(self.linear1(queries))))


class MaskedTransformerDecoder(nn.Module):
    """Learnt queries, refined by layers that attend the levels in turn, coarse to fine.

    A query sees only where its mask of the layer before is at least 0.5 (nothing there: it sees everything). Masks are
    dot products with the mask features; since a dot product and bilinear resizing commute, masks that only guide
    attention are computed at the attended level's resolution.

    Args:
        channels: C, as the pixel decoder publishes it.
        queries: Q.
        layers: Number of layers, at least 3.
        heads: Number of heads.
        ffn_channels: Hidden width of the FFN.
    """

    def __init__(
        self, channels: int, queries: int = 100, layers: int = 6, heads: int = 8, ffn_channels: int = 2048
    ) -> None:
        super().__init__()
        if layers < 3:
            raise UserError(
                f"model.transformer_decoder.layers: {layers}; at least 3, since the last three layers give a map each"
            )
        if channels % heads:
            raise UserError(f"model.transformer_decoder.heads: {heads} does not divide the width {channels}")
        self.channels, self.queries = channels, queries
        self.query_feat = nn.Embedding(queries, channels)
        self.query_embed = nn.Embedding(queries, channels)
        self.level_embed = nn.Embedding(3, channels)
        self.layers = nn.ModuleList(DecoderLayer(channels, heads, ffn_channels) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.mask_embed = MLP(channels, channels)
        self.class_embed = MLP(channels, channels)

    def forward(self, levels: Sequence[Tensor], mask_features: Tensor, aux: bool = False) -> QueryMaps:
        """Decode.

        Args:
            levels: Three maps (B, C, h, w), strides 32, 16, 8.
            mask_features: (B, C, h, w), stride 4.
            aux: Also return the masks of the earlier layers at full resolution.

        Returns:
            See `QueryMaps`.
        """
        values = [tokens(level) + self.level_embed.weight[i] for i, level in enumerate(levels)]
        keys = [
            value + sine_position(level.shape[2], level.shape[3], self.channels, value)
            for value, level in zip(values, levels, strict=True)
        ]
        guides = [resize(mask_features, level.shape[-2:]) for level in levels]
        queries = self.query_feat.weight.expand(mask_features.shape[0], -1, -1)
        classes: list[Tensor] = [levels[0]] * 3
        auxiliary = []
        for index, layer in enumerate(self.layers):
            turn = index % 3
            visible = self._visible(queries, guides[turn])
            queries = layer(queries, self.query_embed.weight, keys[turn], values[turn], visible)
            if index >= len(self.layers) - 3:
                classes[turn] = _dot(self.class_embed(self.norm(queries)), levels[turn])
            if aux and index < len(self.layers) - 1:
                auxiliary.append(_dot(self.mask_embed(self.norm(queries)), mask_features))
        masks = _dot(self.mask_embed(self.norm(queries)), mask_features)
        return QueryMaps(masks, classes, auxiliary)

    @torch.no_grad()
    def _visible(self, queries: Tensor, guide: Tensor) -> Tensor:
        """Where each query may look: (B, Q, h * w) bool."""
        visible = _dot(self.mask_embed(self.norm(queries)), guide).flatten(2) >= 0
        return visible | ~visible.any(-1, keepdim=True)


def _dot(embedding: Tensor, features: Tensor) -> Tensor:
    """(B, Q, C) . (B, C, h, w) to (B, Q, h, w)."""
    batch, _, height, width = features.shape
    dots = torch.bmm(embedding, features.flatten(2).to(embedding.dtype))
    return dots.view(batch, embedding.shape[1], height, width)

"""Masked-attention transformer decoder (Cheng et al., Mask2Former, CVPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskvos.errors import UserError
from maskvos.models.layers import MLP, Linear, linear, resize, sine_position, tokens


class QueryMaps(NamedTuple):
    """Output of the transformer decoder: maps per query.

    Attributes:
        masks: (B, Q, h, w), stride 4: mask logits of the last layer.
        classes: Three (B, Q, h, w), strides 32, 16, 8: class maps of the last three layers.
        auxiliary: Mask logits (B, Q, h, w), stride 4, of each layer except the last; empty without ``aux``.
    """

    masks: Tensor
    classes: list[Tensor]
    auxiliary: list[Tensor]


class Attention(nn.Module):
    """Multi-head attention with one projection matrix for query, key and value.

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

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C) float.
            key: (B, N, C) float.
            value: (B, N, C) float.
            mask: (B, Q, N) bool, True where a query attends; None: everywhere.

        Returns:
            (B, Q, C).
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        query, key, value = (
            linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if mask is None else mask[:, None]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and FFN, all post-norm.

    Args:
        channels: C.
        heads: Number of heads.
        ffn_channels: Hidden channels of the FFN.
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

    def forward(self, queries: Tensor, position: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Update the queries.

        Args:
            queries: (B, Q, C) float.
            position: (Q, C) float, the learnt positions of the queries.
            key: (B, N, C) float, pixel features with position encoding.
            value: (B, N, C) float, pixel features.
            mask: (B, Q, N) bool, True where a query attends.

        Returns:
            (B, Q, C).
        """
        queries = self.cross_norm(queries + self.cross_attention(queries + position, key, value, mask))
        positioned = queries + position
        queries = self.self_norm(queries + self.self_attention(positioned, positioned, queries))
        return self.ffn_norm(queries + self.linear2(F.relu(self.linear1(queries))))


class MaskedTransformerDecoder(nn.Module):
    """Learnt queries, refined by decoder layers that attend to the feature levels in turn, coarse to fine.

    Masked attention: a query attends only where the previous layer predicts a mask probability of at least 0.5, or
    everywhere if it predicts an empty mask. Masks are dot products with the mask features. Dot products and bilinear
    resizing commute, so masks that only guide attention are computed at the resolution of the attended level.

    Args:
        channels: C, the channels of the pixel decoder.
        queries: Q.
        layers: Number of layers, at least 3.
        heads: Number of heads.
        ffn_channels: Hidden channels of the FFN.

    Raises:
        UserError: Too few layers, or ``heads`` does not divide ``channels``.
    """

    def __init__(
        self, channels: int, queries: int = 100, layers: int = 6, heads: int = 8, ffn_channels: int = 2048
    ) -> None:
        super().__init__()
        if layers < 3:
            raise UserError(
                f"model.transformer_decoder.layers={layers}: must be at least 3, because each of the last three layers "
                "outputs a class map"
            )
        if channels % heads:
            raise UserError(
                f"model.transformer_decoder.heads={heads}: must divide the channels of the pixel decoder ({channels}); "
                "choose for example 4 or 8"
            )
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
            levels: Three (B, C, h, w) float, strides 32, 16, 8.
            mask_features: (B, C, h, w) float, stride 4.
            aux: Also return the mask logits of the intermediate layers, for auxiliary losses.

        Returns:
            The maps per query, see `QueryMaps`.
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
            level = index % 3
            mask = self._attention_mask(queries, guides[level])
            queries = layer(queries, self.query_embed.weight, keys[level], values[level], mask)
            if index >= len(self.layers) - 3:
                classes[level] = _dot(self.class_embed(self.norm(queries)), levels[level])
            if aux and index < len(self.layers) - 1:
                auxiliary.append(_dot(self.mask_embed(self.norm(queries)), mask_features))
        masks = _dot(self.mask_embed(self.norm(queries)), mask_features)
        return QueryMaps(masks, classes, auxiliary)

    @torch.no_grad()
    def _attention_mask(self, queries: Tensor, guide: Tensor) -> Tensor:
        """Pixels that each query attends to: (B, Q, h * w) bool; all of them where its predicted mask is empty."""
        mask = _dot(self.mask_embed(self.norm(queries)), guide).flatten(2) >= 0
        return mask | ~mask.any(-1, keepdim=True)


def _dot(embedding: Tensor, features: Tensor) -> Tensor:
    """Dot products of (B, Q, C) and (B, C, h, w): (B, Q, h, w)."""
    batch, _, height, width = features.shape
    dots = torch.bmm(embedding, features.flatten(2).to(embedding.dtype))
    return dots.view(batch, embedding.shape[1], height, width)

"""Standard implementation of the network's parts: the baseline of the speed benchmark.

`Stock` uses the weights of a `MaskVOS` network and returns the same logits, but its parts are written as in common
public code: deformable attention per level with ``grid_sample``, attention as two matrix products around a softmax, all
query maps at full resolution even if unused, position encodings recomputed at every call, and a head that upsamples all
channels first.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskvos.models.backbones.swin import Swin
from maskvos.models.network import MaskVOS


def stock_position(x: Tensor, channels: int) -> Tensor:
    """Sine position encoding from cumulative sums over a mask of ones: (B, C, H, W) to (B, channels, H, W)."""
    half = channels // 2
    ones = torch.ones((x.shape[0], *x.shape[-2:]), device=x.device)
    y, x_ = ones.cumsum(1), ones.cumsum(2)
    y = y / (y[:, -1:, :] + 1e-6) * (2 * math.pi)
    x_ = x_ / (x_[:, :, -1:] + 1e-6) * (2 * math.pi)
    index = torch.arange(half, dtype=torch.float32, device=x.device)
    wavelength = 10000 ** (2 * torch.div(index, 2, rounding_mode="floor") / half)
    parts = []
    for place in (y, x_):
        angle = place[..., None] / wavelength
        parts.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=4).flatten(3))
    return torch.cat(parts, dim=3).permute(0, 3, 1, 2)


def stock_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Scaled dot-product attention, unfused; ``bias`` is added to the scores."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1) @ value


def dense(layer: Any, x: Tensor) -> Tensor:
    """Linear layer by PyTorch."""
    return F.linear(x, layer.weight, layer.bias)


def perceptron(mlp: Any, x: Tensor) -> Tensor:
    """MLP: linear layers with ReLU in between."""
    for layer in mlp.layers[:-1]:
        x = F.relu(dense(layer, x))
    return dense(mlp.layers[-1], x)


class StockSwin(nn.Module):
    """Swin with unfused attention and windows as contiguous copies."""

    def __init__(self, swin: Swin) -> None:
        super().__init__()
        self.swin = swin

    def forward(self, image: Tensor) -> list[Tensor]:
        """See `Swin.forward`."""
        embed = self.swin.patch_embed
        image = F.pad(image, (0, -image.shape[3] % 4, 0, -image.shape[2] % 4))
        x = embed.proj(image)
        height, width = x.shape[-2:]
        x = embed.norm(x.flatten(2).transpose(1, 2))
        outputs = []
        stage: Any
        for stage in self.swin.layers:
            mask = self._mask(height, width, stage.window, x)
            for block in stage.blocks:
                x = self._block(block, x, height, width, mask)
            outputs.append(x.view(-1, height, width, x.shape[-1]).permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None:
                x = self._merge(stage.downsample, x, height, width)
                height, width = (height + 1) // 2, (width + 1) // 2
        return outputs

    @staticmethod
    def _mask(height: int, width: int, window: int, x: Tensor) -> Tensor:
        rows, columns = -(-height // window) * window, -(-width // window) * window
        region = torch.zeros((1, rows, columns, 1), device=x.device)
        cuts = (slice(0, -window), slice(-window, -(window // 2)), slice(-(window // 2), None))
        for index, (rows_cut, columns_cut) in enumerate((a, b) for a in cuts for b in cuts):
            region[:, rows_cut, columns_cut] = index
        region = _windows(region, window).view(-1, window * window)
        difference = region.unsqueeze(1) - region.unsqueeze(2)
        return difference.masked_fill(difference != 0, -100.0).masked_fill(difference == 0, 0.0)

    @staticmethod
    def _block(block: Any, x: Tensor, height: int, width: int, mask: Tensor) -> Tensor:
        batch, _, channels = x.shape
        window, shift, attention = block.window, block.shift, block.attn
        shortcut = x
        x = block.norm1(x).view(batch, height, width, channels)
        x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        padded = x.shape[1:3]
        if shift:
            x = torch.roll(x, (-shift, -shift), (1, 2))
        windows = _windows(x, window).view(-1, window * window, channels)
        count = windows.shape[0]
        qkv = (
            dense(attention.qkv, windows).reshape(count, window * window, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)
        )
        query, key, value = qkv[0], qkv[1], qkv[2]
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        bias = attention.relative_position_bias_table[attention.relative_position_index]
        scores = scores + bias.view(window**2, window**2, -1).permute(2, 0, 1).contiguous().unsqueeze(0)
        if shift:
            number = mask.shape[0]
            scores = scores.view(count // number, number, attention.heads, window**2, window**2)
            scores = (scores + mask.unsqueeze(1).unsqueeze(0)).view(-1, attention.heads, window**2, window**2)
        windows = (scores.softmax(-1) @ value).transpose(1, 2).reshape(count, window * window, channels)
        windows = dense(attention.proj, windows).view(-1, window, window, channels)
        x = windows.view(batch, padded[0] // window, padded[1] // window, window, window, channels)
        x = x.permute(0, 1, 3, 2, 4, 5).contiguous().view(batch, *padded, channels)
        if shift:
            x = torch.roll(x, (shift, shift), (1, 2))
        x = shortcut + x[:, :height, :width].contiguous().view(batch, height * width, channels)
        return x + dense(block.mlp.fc2, F.gelu(dense(block.mlp.fc1, block.norm2(x))))

    @staticmethod
    def _merge(merge: Any, x: Tensor, height: int, width: int) -> Tensor:
        x = x.view(-1, height, width, x.shape[-1])
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        quarters = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        x = torch.cat(quarters, -1).flatten(1, 2)
        return dense(merge.reduction, merge.norm(x))


def _windows(x: Tensor, window: int) -> Tensor:
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window, window, channels)


class Stock(nn.Module):
    """A `MaskVOS` network with Swin encoders, in the standard implementation.

    Args:
        network: Network whose weights are used; not modified.
    """

    def __init__(self, network: MaskVOS) -> None:
        super().__init__()
        self.network = network
        self.encoders = nn.ModuleList(
            StockSwin(encoder) for encoder in (network.rgb_encoder, network.flow_encoder) if isinstance(encoder, Swin)
        )

    def forward(self, rgb: Tensor, flow_rgb: Tensor) -> Tensor:
        """See `MaskVOS.forward`."""
        pyramid = self.network.fusion(self.encoders[0](rgb), self.encoders[1](flow_rgb))
        levels, mask_features = self._pixel_decoder(pyramid)
        masks, classes = self._transformer_decoder(levels, mask_features)
        scales = self.network.projections([masks, *reversed(classes)])
        return self._head(scales)[..., : rgb.shape[2], : rgb.shape[3]]

    def _pixel_decoder(self, pyramid: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        decoder: Any = self.network.pixel_decoder
        maps = [p(x) for p, x in zip(decoder.input_projections, pyramid[:0:-1], strict=True)]
        sizes = [tuple(x.shape[-2:]) for x in maps]
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        positions = [stock_position(m, decoder.channels).flatten(2).transpose(1, 2) for m in maps]
        position = torch.cat([p + e.view(1, 1, -1) for p, e in zip(positions, decoder.level_embed, strict=True)], 1)
        for layer in decoder.layers:
            attended = self._deformable(layer.attention, x + position, self._reference(sizes, x), x, sizes)
            x = layer.norm1(x + attended)
            x = layer.norm2(x + dense(layer.linear2, F.relu(dense(layer.linear1, x))))
        parts = torch.split(x, [h * w for h, w in sizes], dim=1)
        decoded = [p.transpose(1, 2).reshape(x.shape[0], -1, *s) for p, s in zip(parts, sizes, strict=True)]
        fine = F.relu(decoder.lateral(pyramid[0]))
        fine = fine + F.interpolate(decoded[-1], size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return decoded, decoder.mask_features(F.relu(decoder.output(fine)))

    @staticmethod
    def _reference(sizes: list[tuple[int, int]], x: Tensor) -> Tensor:
        points = []
        for height, width in sizes:
            y, x_ = torch.meshgrid(
                torch.linspace(0.5, height - 0.5, height, device=x.device),
                torch.linspace(0.5, width - 0.5, width, device=x.device),
                indexing="ij",
            )
            points.append(torch.stack((x_.reshape(-1) / width, y.reshape(-1) / height), -1))
        return torch.cat(points)[None, :, None].expand(x.shape[0], -1, len(sizes), 2)

    @staticmethod
    def _deformable(
        attention: Any, query: Tensor, reference: Tensor, x: Tensor, sizes: list[tuple[int, int]]
    ) -> Tensor:
        batch, count, _ = query.shape
        heads, levels, points = attention.heads, attention.levels, attention.points
        value = dense(attention.value_proj, x).view(batch, count, heads, -1)
        offsets = dense(attention.sampling_offsets, query).view(batch, count, heads, levels, points, 2)
        weights = dense(attention.attention_weights, query).view(batch, count, heads, levels * points).softmax(-1)
        scale = torch.tensor([(w, h) for h, w in sizes], dtype=torch.float32, device=x.device)
        places = reference[:, :, None, :, None] + offsets / scale[None, None, None, :, None]
        grids = 2 * places - 1
        sampled = []
        for level, (plane, (height, width)) in enumerate(
            zip(value.split([h * w for h, w in sizes], dim=1), sizes, strict=True)
        ):
            plane = plane.flatten(2).transpose(1, 2).reshape(batch * heads, -1, height, width)
            grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
            sampled.append(F.grid_sample(plane, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
        weights = weights.transpose(1, 2).reshape(batch * heads, 1, count, levels * points)
        out = (torch.stack(sampled, dim=-2).flatten(-2) * weights).sum(-1).view(batch, -1, count)
        return dense(attention.output_proj, out.transpose(1, 2).contiguous())

    def _transformer_decoder(self, levels: list[Tensor], mask_features: Tensor) -> tuple[Tensor, list[Tensor]]:
        decoder = self.network.transformer_decoder
        values = [x.flatten(2).transpose(1, 2) + e for x, e in zip(levels, decoder.level_embed.weight, strict=True)]
        positions = [stock_position(x, decoder.channels).flatten(2).transpose(1, 2) for x in levels]
        queries = decoder.query_feat.weight.expand(mask_features.shape[0], -1, -1)
        embed = decoder.query_embed.weight
        predictions = [self._predict(queries, levels[2], mask_features, levels[0])]
        layer: Any
        for index, layer in enumerate(decoder.layers):
            turn = index % 3
            blocked = predictions[-1][2]
            blocked = blocked & ~blocked.all(-1, keepdim=True)
            bias = torch.zeros(blocked.shape, device=queries.device).masked_fill(blocked, -torch.inf)[:, None]
            key = values[turn] + positions[turn]
            queries = layer.cross_norm(
                queries + self._attend(layer.cross_attention, queries + embed, key, values[turn], bias)
            )
            placed = queries + embed
            queries = layer.self_norm(queries + self._attend(layer.self_attention, placed, placed, queries, None))
            queries = layer.ffn_norm(queries + dense(layer.linear2, F.relu(dense(layer.linear1, queries))))
            predictions.append(self._predict(queries, levels[turn], mask_features, levels[(index + 1) % 3]))
        return predictions[-1][0], [classes for _, classes, _ in predictions[-3:]]

    def _predict(
        self, queries: Tensor, level: Tensor, mask_features: Tensor, following: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Masks, class maps and the attention mask of the next layer."""
        decoder = self.network.transformer_decoder
        normed = decoder.norm(queries)
        classes = torch.einsum("bqc,bchw->bqhw", perceptron(decoder.class_embed, normed), level)
        masks = torch.einsum("bqc,bchw->bqhw", perceptron(decoder.mask_embed, normed), mask_features)
        guide = F.interpolate(masks, size=following.shape[-2:], mode="bilinear", align_corners=False)
        return masks, classes, guide.sigmoid().flatten(2) < 0.5

    @staticmethod
    def _attend(attention: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        query, key, value = (
            F.linear(x, w, b).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        return dense(attention.out_proj, stock_attention(query, key, value, bias).transpose(1, 2).flatten(2))

    def _head(self, scales: list[Tensor]) -> Tensor:
        head = self.network.head
        size = scales[0].shape[-2:]
        enlarged = []
        for x, linear in zip(reversed(scales), reversed(list(head.linears)), strict=True):
            flat = F.linear(x.flatten(2).transpose(1, 2), linear.weight, linear.bias)
            x = flat.permute(0, 2, 1).reshape(x.shape[0], -1, *x.shape[-2:])
            enlarged.append(F.interpolate(x, size=size, mode="bilinear", align_corners=False))
        x = head.fuse(torch.cat(enlarged, 1))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = F.interpolate(head.refine(x), scale_factor=2, mode="bilinear", align_corners=False)
        return head.predict(head.dropout(x))

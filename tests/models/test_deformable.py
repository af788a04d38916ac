"""Deformable attention: both implementations agree, and sample as in the paper."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskvos.models.deformable import DeformableAttention, Grid, _gather, _sample_by_level

side = st.integers(1, 7)
levels = st.lists(st.tuples(side, side), min_size=1, max_size=3)


def case(sizes: list[tuple[int, int]], seed: int, spread: float) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(seed)
    count, heads, points = sum(h * w for h, w in sizes), 2, 3
    value = torch.randn(2, count, heads, 4)
    grid = Grid.create(sizes, value)
    offsets = spread * torch.randn(2, count, heads, len(sizes), points, 2)
    weights = torch.rand(2, count, heads, len(sizes), points)
    return value, offsets, weights, grid


@given(levels, st.integers(0, 99), st.sampled_from([0.0, 1.0, 30.0]))
@settings(deadline=None, max_examples=40)
def test_both_implementations_agree(sizes: list[tuple[int, int]], seed: int, spread: float) -> None:
    arguments = case(sizes, seed, spread)
    torch.testing.assert_close(_gather(*arguments), _sample_by_level(*arguments), atol=1e-4, rtol=1e-4)


@given(levels, st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_zero_offsets_sample_the_query_pixel(sizes: list[tuple[int, int]], seed: int) -> None:
    """On its own level, the reference point of a query is a pixel centre, so sampling returns that pixel."""
    value, offsets, weights, grid = case(sizes, seed, 0.0)
    start = 0
    for level, (h, w) in enumerate(sizes):
        own = torch.zeros_like(weights)
        own[:, :, :, level, 0] = 1
        sampled = _gather(value, offsets, own, grid)[:, start : start + h * w]
        torch.testing.assert_close(sampled, value[:, start : start + h * w].flatten(2), atol=1e-4, rtol=1e-4)
        start += h * w


def test_samples_outside_of_the_map_are_zero() -> None:
    value, offsets, weights, grid = case([(3, 4)], 0, 0.0)
    assert (_gather(value, offsets + 100, weights, grid) == 0).all()
    assert (_gather(value, offsets - 100, weights, grid) == 0).all()


def test_half_precision_keeps_exact_locations() -> None:
    """On a ramp, a value equals its location; bfloat16 locations would be off by up to 1/8 pixel."""
    sizes = [(1, 128)]
    grid = Grid.create(sizes, torch.zeros(1))
    # Around the location, the ramp is exact in bfloat16 and small enough to ignore rounding.
    ramp = (torch.arange(128.0) - 100).clamp(-2, 2).view(1, 128, 1, 1)
    offsets = torch.tensor([100.25, 0]) - grid.points[None, :, None, :, None]
    weights = torch.ones(1, 128, 1, 1, 1)
    for sample in (_sample_by_level, _gather):
        out = sample(ramp.bfloat16(), offsets, weights.bfloat16(), grid)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), torch.full_like(out.float(), 0.25), atol=2e-3, rtol=0)


def test_training_and_inference_agree() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(16, levels=2, heads=4)
    torch.nn.init.normal_(attention.sampling_offsets.weight)
    torch.nn.init.normal_(attention.attention_weights.weight)
    sizes = [(4, 3), (8, 6)]
    x = torch.randn(2, 60, 16)
    grid = Grid.create(sizes, x)
    trained = attention(x, x, grid)
    assert trained.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(attention(x, x, grid), trained, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [1, 4, 8])
def test_heads_start_in_different_directions(heads: int) -> None:
    bias = DeformableAttention(8, heads=heads).sampling_offsets.bias.view(heads, 3, 4, 2)
    assert (bias.abs().amax(-1) == torch.arange(1, 5)).all()
    assert len({tuple(row) for row in bias[:, 0, 0].round(decimals=4).tolist()}) == heads

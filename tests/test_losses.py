"""Losses: values by hand, bounds, and gradients that point the right way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from maskvos.models.losses import BCE, Dice, WeightedSum


@pytest.fixture
def mask() -> Tensor:
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, 2:5, 3:7] = 1
    return mask


def test_bce_of_undecided_logits_is_log_two(mask: Tensor) -> None:
    assert BCE()(torch.zeros_like(mask), mask).item() == pytest.approx(math.log(2))


def test_dice_by_hand() -> None:
    mask = torch.tensor([[[[1.0, 0.0]]]])
    logits = torch.tensor([[[[0.0, 0.0]]]])  # probability 0.5 on both pixels
    assert Dice(smooth=1.0)(logits, mask).item() == pytest.approx(1 - (2 * 0.5 + 1) / (1 + 1 + 1))


@pytest.mark.parametrize("loss", [BCE(), Dice(), WeightedSum({"bce": BCE(), "dice": Dice()})])
def test_perfect_is_near_zero_and_wrong_is_worse(loss: nn.Module, mask: Tensor) -> None:
    right = loss(40 * (mask - 0.5), mask)
    wrong = loss(-40 * (mask - 0.5), mask)
    assert right < 1e-3 < wrong


@pytest.mark.parametrize("loss", [BCE(), Dice()])
def test_gradient_pulls_logits_to_the_mask(loss: nn.Module, mask: Tensor) -> None:
    logits = torch.zeros_like(mask, requires_grad=True)
    loss(logits, mask).backward()
    assert (logits.grad[mask > 0] < 0).all()
    assert (logits.grad[mask == 0] > 0).all()


def test_empty_mask_predicted_empty_costs_nothing() -> None:
    empty = torch.zeros(1, 1, 8, 8)
    assert Dice()(torch.full_like(empty, -40.0), empty).item() == pytest.approx(0, abs=1e-6)


def test_weighted_sum_weighs(mask: Tensor) -> None:
    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    both = WeightedSum({"bce": BCE(), "dice": Dice()}, {"dice": 0.25})
    assert both(logits, mask).item() == pytest.approx((BCE()(logits, mask) + 0.25 * Dice()(logits, mask)).item())


def test_half_precision_logits_give_a_float_loss(mask: Tensor) -> None:
    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for loss in (BCE(), Dice()):
        half = loss(logits.bfloat16(), mask)
        assert half.dtype == torch.float32
        assert half.item() == pytest.approx(loss(logits, mask).item(), rel=1e-2)

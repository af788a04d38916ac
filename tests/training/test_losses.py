"""Losses: hand-computed values, definitions, gradients, batches, and invalid settings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from maskvos.errors import UserError
from maskvos.training.losses import BCE, BoundaryBCE, Dice, Focal, Lovasz, WeightedSum

LOSSES = [BCE(), BoundaryBCE(width=3), Focal(), Dice(), Lovasz(), WeightedSum({"bce": BCE(), "dice": Dice()})]
NAMES = ["bce", "boundary_bce", "focal", "dice", "lovasz", "sum"]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=NAMES)


def noise(seed: int, size: tuple[int, ...] = (2, 1, 8, 8)) -> Tensor:
    return 3 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def mask() -> Tensor:
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, 2:5, 3:7] = 1
    return mask


def test_bce_of_zero_logits_is_log_two(mask: Tensor) -> None:
    assert BCE()(torch.zeros_like(mask), mask).item() == pytest.approx(math.log(2))


def test_dice_by_hand() -> None:
    mask = torch.tensor([[[[1.0, 0.0]]]])
    logits = torch.tensor([[[[0.0, 0.0]]]])  # probability 0.5 on both pixels
    assert Dice(smooth=1.0)(logits, mask).item() == pytest.approx(1 - (2 * 0.5 + 1) / (1 + 1 + 1))


@every_loss
def test_perfect_predictions_are_near_zero_and_wrong_ones_worse(loss: nn.Module, mask: Tensor) -> None:
    right = loss(40 * (mask - 0.5), mask)
    wrong = loss(-40 * (mask - 0.5), mask)
    assert right < 1e-3 < wrong


@every_loss
def test_gradient_moves_logits_towards_the_mask(loss: nn.Module, mask: Tensor) -> None:
    logits = torch.zeros_like(mask, requires_grad=True)
    loss(logits, mask).backward()
    assert (logits.grad[mask > 0] < 0).all()
    # Lovasz has zero gradient for further background pixels once the whole object is wrong.
    assert (logits.grad[mask == 0] >= 0).all()
    assert logits.grad[mask == 0].sum() > 0
    assert loss(logits - 0.1 * logits.grad, mask) < loss(logits, mask)


@every_loss
def test_correct_empty_mask_has_zero_loss(loss: nn.Module) -> None:
    empty = torch.zeros(1, 1, 8, 8)
    assert loss(torch.full_like(empty, -40.0), empty).item() == pytest.approx(0, abs=1e-6)


@every_loss
def test_batch_loss_is_the_mean_over_maps(loss: nn.Module, mask: Tensor) -> None:
    logits = noise(0)
    alone = [loss(logits[i : i + 1], mask[i : i + 1]).item() for i in range(2)]
    assert loss(logits, mask).item() == pytest.approx(sum(alone) / 2, rel=1e-5)


@every_loss
def test_losses_are_invariant_to_mirroring(loss: nn.Module, mask: Tensor) -> None:
    logits = noise(1)
    assert loss(logits.flip(-1), mask.flip(-1)).item() == pytest.approx(loss(logits, mask).item(), rel=1e-5)


@every_loss
def test_extreme_logits_give_finite_values_and_gradients(loss: nn.Module, mask: Tensor) -> None:
    for scale in (1e4, -1e4):
        logits = (scale * (mask - 0.5)).requires_grad_()
        value = loss(logits, mask)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()


def test_focal_by_hand_and_as_plain_cross_entropy(mask: Tensor) -> None:
    half = torch.tensor([[[[0.0, 0.0]]]])
    target = torch.tensor([[[[1.0, 0.0]]]])
    expected = (0.25 + 0.75) / 2 * 0.5**2 * math.log(2)
    assert Focal(2.0, 0.25)(half, target).item() == pytest.approx(expected)
    assert Focal(0.0, None)(noise(2), mask).item() == pytest.approx(BCE()(noise(2), mask).item())


def test_boundary_weights_by_hand_and_as_plain_cross_entropy(mask: Tensor) -> None:
    # In a row of two pixels, one of each kind, with a square of 3: the local mean is 1/2 for both, the weights equal.
    row, target = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    assert BoundaryBCE(3)(row, target).item() == pytest.approx(BCE()(row, target).item())
    # In a row of three, the middle of 1 0 0 has mean 1/3 (weight 1 + f/3), the first 1/2 (1 + f/2), the last 0 (1).
    row, target = torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.tensor([[[[1.0, 0.0, 0.0]]]])
    losses = np.log1p(np.exp(np.array([-1.0, 2.0, 3.0])))
    weights = 1 + 6 * np.array([1 / 2, 1 / 3, 0])
    assert BoundaryBCE(3, 6.0)(row, target).item() == pytest.approx((weights * losses).sum() / weights.sum())
    assert BoundaryBCE(3, 0.0)(noise(3), mask).item() == pytest.approx(BCE()(noise(3), mask).item())


def jaccard_loss(truth: np.ndarray, wrong: np.ndarray) -> float:
    """1 - J of the prediction that is wrong at exactly these pixels."""
    predicted = truth ^ wrong
    union = (truth | predicted).sum()
    return 1 - (truth & predicted).sum() / union if union else 0.0


def lovasz_extension(truth: np.ndarray, errors: np.ndarray) -> float:
    """The definition: sorted errors times the increments of the set function."""
    wrong, before, total = np.zeros_like(truth), 0.0, 0.0
    for pixel in np.argsort(-errors):
        wrong[pixel] = True
        after = jaccard_loss(truth, wrong)
        total += max(errors[pixel], 0.0) * (after - before)
        before = after
    return total


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_lovasz_equals_its_definition(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    truth, logits = rng.random(30) < share, rng.normal(0, 2, 30).astype(np.float32)
    expected = lovasz_extension(truth, 1 - logits * (2.0 * truth - 1))
    value = Lovasz()(torch.from_numpy(logits).view(1, 1, 5, 6), torch.from_numpy(truth).view(1, 1, 5, 6))
    assert value.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@given(st.integers(0, 10_000))
def test_lovasz_of_confident_maps_is_one_minus_jaccard(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.random(40) < 0.5, rng.random(40) < 0.5
    # Correct pixels have a margin of 1 (zero loss), wrong ones are at the threshold.
    logits = np.where(predicted == truth, np.where(truth, 1.0, -1.0), 0.0)
    value = Lovasz()(torch.from_numpy(logits).view(1, 1, 5, 8), torch.from_numpy(truth).view(1, 1, 5, 8))
    assert value.item() == pytest.approx(jaccard_loss(truth, truth != predicted), abs=1e-6)


def test_weighted_sum(mask: Tensor) -> None:
    logits = noise(0)
    both = WeightedSum({"bce": BCE(), "dice": Dice()}, {"dice": 0.25})
    assert both(logits, mask).item() == pytest.approx((BCE()(logits, mask) + 0.25 * Dice()(logits, mask)).item())


def test_parts_are_unweighted_and_skip_zero_weights(mask: Tensor) -> None:
    loss = WeightedSum({"bce": BCE(), "dice": Dice(), "focal": Focal()}, {"bce": 2.0, "focal": 0.0})
    parts = loss.parts(noise(0), mask)
    assert parts.keys() == {"bce", "dice"}
    assert parts["bce"].item() == BCE()(noise(0), mask).item()
    assert loss.add(parts).item() == loss(noise(0), mask).item()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightedSum({"bce": BCE()}, {"bc": 1.0}), "'bce'"),
        (lambda: WeightedSum({"bce": BCE()}, {"bce": -1.0}), "bce=-1.0: must be a number of at least 0"),
        (lambda: WeightedSum({"bce": BCE()}, {"bce": 0.0}), "above 0"),
        (lambda: BoundaryBCE(30), "odd"),
        (lambda: BoundaryBCE(31, -1.0), "factor=-1.0"),
        (lambda: Focal(-1.0), "gamma=-1"),
        (lambda: Focal(2.0, 25), "alpha=25"),
    ],
)
def test_invalid_settings(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@every_loss
def test_half_precision_logits_give_a_float_loss(loss: nn.Module, mask: Tensor) -> None:
    half = loss(noise(0).bfloat16(), mask)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss(noise(0), mask).item(), rel=1e-2)

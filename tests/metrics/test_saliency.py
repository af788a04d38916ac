"""Saliency metrics against naive implementations, invariants, and the package pysodmetrics if installed."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskvos.errors import UserError
from maskvos.metrics import functional as F
from maskvos.metrics.saliency import Saliency


@st.composite
def pairs(draw):
    """A map (H, W) uint8 (noise, steps, blur, constant) and a ground truth (rectangle, full, empty)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.tuples(st.integers(2, 30), st.integers(2, 30)))
    truth = np.zeros((height, width), bool)
    shape = draw(st.sampled_from(["rectangle"] * 6 + ["nothing", "all"]))
    if shape == "all":
        truth[:] = True
    elif shape == "rectangle":
        top, left = rng.integers(0, height - 1), rng.integers(0, width - 1)
        truth[top : top + rng.integers(1, height + 1), left : left + rng.integers(1, width + 1)] = True
    levels = {
        "noise": rng.integers(0, 256, truth.shape),
        "binary": np.roll(truth, 1) * 255,
        "steps": np.where(np.roll(truth, 1), rng.integers(0, 256), rng.integers(0, 256)),
        "constant": np.full(truth.shape, rng.integers(0, 256)),
        "soft": cv2.GaussianBlur(truth * 200.0, (0, 0), 2) + 20,
    }
    return levels[draw(st.sampled_from(sorted(levels)))].astype(np.uint8), truth


def naive_f(mask, truth):
    hits = (mask & truth).sum()
    if hits == 0:
        return 0.0
    precision, recall = hits / mask.sum(), hits / truth.sum()
    return 1.3 * precision * recall / (0.3 * precision + recall)


def naive_e(mask, truth):
    if truth.all() or not truth.any():
        aligned = mask == truth
    else:
        a, b = mask - mask.mean(), truth - truth.mean()
        aligned = (2 * a * b / (a * a + b * b + 2e-16) + 1) ** 2 / 4
    return aligned.sum() / (truth.size - 1)


def naive_ssim(x, y):
    if x.size == 1:
        return 1.0
    covariance = np.cov(x.ravel(), y.ravel())
    upper = 4 * x.mean() * y.mean() * covariance[0, 1]
    lower = (x.mean() ** 2 + y.mean() ** 2) * (covariance[0, 0] + covariance[1, 1])
    return upper / lower if lower > 1e-12 else 1.0


def quadrants(truth, offset):
    """Non-empty quadrants around the centroid of the ground truth."""
    row, column = np.argwhere(truth).mean(axis=0).round().astype(int) + offset
    boxes = [(r, c) for r in (slice(0, row), slice(row, None)) for c in (slice(0, column), slice(column, None))]
    return [box for box in boxes if truth[box].size]


def varied(levels, truth, offset):
    """Whether no quadrant is constant; in a constant one rounding decides between 0 and 1."""
    return truth.any() and all(np.ptp(levels[box]) for box in quadrants(truth, offset))


def naive_s(values, truth, offset):
    if truth.all() or not truth.any():
        return values.mean() if truth.all() else 1 - values.mean()

    def alike(x):
        return 2 * x.mean() / (x.mean() ** 2 + 1 + (x.std(ddof=1) if x.size > 1 else 0))

    likeness = truth.mean() * alike(values[truth]) + (1 - truth.mean()) * alike(1 - values[~truth])
    similarity = sum(
        truth[box].size / truth.size * naive_ssim(values[box], truth[box].astype(float))
        for box in quadrants(truth, offset)
    )
    return max(0, 0.5 * likeness + 0.5 * similarity)


@given(pairs())
@settings(max_examples=60, deadline=None)
def test_equals_a_naive_implementation(pair):
    levels, truth = pair
    values = levels / 255
    assert F.mae(levels, truth) == pytest.approx(np.abs(values - truth).mean(), abs=1e-12)
    masks = [levels >= threshold for threshold in range(256)]
    np.testing.assert_allclose(F.f_curve(levels, truth), [naive_f(mask, truth) for mask in masks], atol=1e-12)
    np.testing.assert_allclose(F.e_curve(levels, truth), [naive_e(mask, truth) for mask in masks], atol=1e-9)
    adaptive = values >= min(2 * values.mean(), 1)
    assert F.adaptive_f(levels, truth) == pytest.approx(naive_f(adaptive, truth), abs=1e-12)
    assert F.adaptive_e(levels, truth) == pytest.approx(naive_e(adaptive, truth), abs=1e-9)
    if varied(levels, truth, 1):  # constant quadrants: see test_equals_pysodmetrics
        assert F.s_measure(levels, truth) == pytest.approx(naive_s(values, truth, 1), abs=1e-9)
    if varied(levels, truth, 0) and truth.mean() >= 1e-4:
        ported = F.s_measure(levels, truth, structure="torch")
        assert ported == pytest.approx(naive_s(values, truth, 0), abs=1e-9)


@given(pairs(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_equals_pysodmetrics(pair, minmax):
    package = pytest.importorskip("py_sod_metrics")
    levels, truth = pair
    step = (levels, truth * np.uint8(255)) if minmax else (levels / 255, truth)
    theirs = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("MAE", "Fmeasure", "Emeasure", "Smeasure", "WeightedFmeasure"):
            measure = getattr(package, name)()
            measure.step(*step, normalize=minmax)
            theirs.update(measure.get_results())
    ours = Saliency.of(levels, truth, minmax)
    assert ours.mae == pytest.approx(theirs["mae"], abs=1e-9)
    np.testing.assert_allclose(ours.f_curve[::-1], theirs["fm"]["curve"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.e_curve[::-1], theirs["em"]["curve"], rtol=0, atol=1e-9)
    assert ours.adaptive_f == pytest.approx(theirs["fm"]["adp"], abs=1e-9)
    assert ours.adaptive_e == pytest.approx(theirs["em"]["adp"], abs=1e-9)
    assert F.weighted_f(levels, truth, minmax) == pytest.approx(theirs["wfm"], abs=1e-9)
    if np.isfinite(theirs["sm"]):  # it is nan where a quadrant is empty
        assert ours.s == pytest.approx(theirs["sm"], abs=1e-9)


@given(pairs())
@settings(max_examples=50, deadline=None)
def test_invariants_of_saliency_metrics(pair):
    levels, truth = pair
    perfect = truth * np.uint8(255)
    assert F.mae(perfect, truth) == 0
    assert F.mae(255 - perfect, truth) == 1
    assert F.mae(255 - levels, truth) == pytest.approx(1 - F.mae(levels, truth))
    assert np.isfinite(F.s_measure(levels, truth))
    if truth.any():
        assert F.max_f(perfect, truth) == pytest.approx(1)
        assert F.weighted_f(perfect, truth) == pytest.approx(1)
        assert F.s_measure(perfect, truth) == pytest.approx(1)
    assert F.max_e(perfect, truth) == pytest.approx(truth.size / (truth.size - 1))
    # Transposition swaps two quadrants.
    for measure in (F.mae, F.max_f, F.mean_e, F.adaptive_f):
        assert measure(levels.T, truth.T) == pytest.approx(measure(levels, truth), abs=1e-12)
    # Min-max normalisation does not change a map that is already normalised.
    if levels.min() == 0 and levels.max() == 255:
        assert F.mean_f(levels, truth, minmax=True) == F.mean_f(levels, truth)
    # A float map scores like its 8-bit image.
    assert F.s_measure(levels / np.float32(255), truth) == F.s_measure(levels, truth)
    assert F.mae(truth, truth) == 0


def test_tiny_ground_truth_counts_as_empty_with_structure_torch():
    truth = np.zeros((200, 200), bool)
    truth[50, 50] = True
    levels = np.full(truth.shape, 51, np.uint8)
    assert F.s_measure(levels, truth, structure="torch") == pytest.approx(0.8)
    assert F.s_measure(levels, truth) != pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (np.full((4, 5), 1.5), r"from 1.5 to 1.5.*sigmoid"),
        (np.full((4, 5), np.nan), "sigmoid"),
        (np.zeros((4, 5), np.int64), "int64"),
        (np.zeros((5, 4), np.uint8), "5x4, ground truth of 4x5"),
        (np.zeros((4, 5, 1), np.uint8), "height, width"),
    ],
)
def test_invalid_maps_are_rejected(prediction, message):
    with pytest.raises(UserError, match=message):
        F.mae(prediction, np.zeros((4, 5), bool))

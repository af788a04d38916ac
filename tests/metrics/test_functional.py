"""Region and boundary metrics against naive implementations, invariants, and values of the official code."""

from __future__ import annotations

import csv
import itertools
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskvos.errors import UserError
from maskvos.metrics import functional as F

sizes = st.tuples(st.integers(1, 40), st.integers(1, 150))


@st.composite
def mask_pairs(draw):
    """Two masks of one size: noise of any density, or a few rectangles."""
    shape = draw(sizes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks = []
    for _ in range(2):
        if draw(st.booleans()):
            masks.append(rng.random(shape) < draw(st.sampled_from([0.0, 0.001, 0.05, 0.5, 0.97, 1.0])))
        else:
            mask = np.zeros(shape, bool)
            for _ in range(draw(st.integers(1, 3))):
                top, left = rng.integers(0, shape[0]), rng.integers(0, shape[1])
                mask[top : top + rng.integers(1, shape[0] + 1), left : left + rng.integers(1, shape[1] + 1)] ^= True
            masks.append(mask)
    return masks


def naive_boundary(mask):
    height, width = mask.shape
    return np.array(
        [
            [
                any(
                    mask[y, x] != mask[y + dy, x + dx]
                    for dy, dx in ((0, 1), (1, 0), (1, 1))
                    if y + dy < height and x + dx < width
                )
                for x in range(width)
            ]
            for y in range(height)
        ],
        bool,
    ).reshape(mask.shape)


def naive_boundary_f(prediction, truth, tolerance):
    radius = math.ceil(tolerance if tolerance >= 1 else tolerance * math.hypot(*truth.shape))
    edges = [np.argwhere(naive_boundary(mask)) for mask in (prediction, truth)]
    if not len(edges[0]) or not len(edges[1]):
        return float(len(edges[0]) == len(edges[1]))
    near = ((edges[0][:, None] - edges[1][None]) ** 2).sum(axis=2) <= radius**2
    precision, recall = near.any(axis=1).sum() / len(edges[0]), near.any(axis=0).sum() / len(edges[1])
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(mask_pairs(), st.sampled_from([0.0, 0.008, 0.05, 0.2, 1, 2, 3, 9, 70]))
@settings(max_examples=100, deadline=None)
def test_equals_a_naive_implementation(pair, tolerance):
    prediction, truth = pair
    union = (prediction | truth).sum()
    region = (prediction & truth).sum() / union if union else 1.0
    contour = naive_boundary_f(prediction, truth, tolerance)
    assert F.jaccard(prediction, truth) == region
    assert F.boundary_f(prediction, truth, tolerance) == contour
    assert F.jaccard_and_boundary_f(prediction, truth, tolerance) == (region, contour)
    assert F.boundary(truth).dtype == bool
    np.testing.assert_array_equal(F.boundary(truth), naive_boundary(truth))


@given(mask_pairs())
@settings(max_examples=100, deadline=None)
def test_invariants_of_mask_metrics(pair):
    a, b = pair
    for measure in (F.jaccard, F.boundary_f, F.boundary_iou):
        assert measure(a, a) == 1
        assert measure(a, b) == measure(b, a)
        assert 0 <= measure(a, b) <= 1
        # The boundary treats right and down alike, so it commutes with transposition.
        assert measure(a.T, b.T) == measure(a, b)
    assert F.precision_recall(a, b) == F.precision_recall(b, a)[::-1]
    # Any nonzero value is foreground, and the memory layout does not matter.
    assert F.jaccard(a.astype(np.uint8) * 2, np.asfortranarray(b)) == F.jaccard(a, b)
    assert F.boundary_f(a.astype(np.int64) * 256, b[::-1][::-1]) == F.boundary_f(a, b)


@given(mask_pairs(), st.integers(0, 70), st.integers(0, 70))
@settings(max_examples=100, deadline=None)
def test_invariant_to_translation_of_both_masks(pair, down, right):
    height, width = pair[0].shape
    scores = set()
    for top, left in ((1, 1), (1 + down, 1 + right)):
        moved = [np.zeros((height + 72, width + 72), bool) for _ in pair]
        for canvas, mask in zip(moved, pair, strict=True):
            canvas[top : top + height, left : left + width] = mask
        scores.add((*F.jaccard_and_boundary_f(*moved), F.boundary_iou(*moved), F.precision_recall(*moved)))
    assert len(scores) == 1


@pytest.mark.parametrize(
    ("radius", "rows", "columns"),
    [*((r, range(r + 2), range(r + 2)) for r in (1, 4, 9, 15)), (70, (0, 1, 66, 69, 70), range(72))],
)
def test_boundaries_match_everywhere_in_the_disk_of_the_tolerance(radius, rows, columns):
    corner = np.zeros((80, 80), bool)
    corner[0, 0] = True  # the only one whose boundary is one pixel; that of others is 2x2 pixels
    for y, x in itertools.product(rows, columns):
        other = np.zeros((80, 80), bool)
        other[y, x] = True
        edge = [(a, b) for a in (y - 1, y) for b in (x - 1, x) if min(a, b) >= 0]
        near = [a * a + b * b <= radius**2 for a, b in edge]
        recall = sum(near) / len(near)  # and the precision is 1, unless nothing is near
        assert F.boundary_f(corner, other, tolerance=radius) == pytest.approx(2 * recall / (1 + recall)), (y, x)


@given(hnp.arrays(bool, (30, 100)), st.integers(0, 8))
@settings(max_examples=30, deadline=None)
def test_a_shift_within_the_tolerance_scores_1(mask, shift):
    mask[:, -10:] = mask[:, :10] = mask[:1] = mask[-1:] = False
    assert F.boundary_f(np.roll(mask, shift, axis=1), mask, tolerance=8) == 1


@pytest.mark.parametrize(
    ("size", "options", "width"),
    [((40, 30), {}, 1), ((60, 80), {}, 2), ((60, 80), {"dilation": 0.03}, 3), ((60, 80), {"dilation": 0.001}, 1)],
)
def test_boundary_iou_by_hand(size, options, width):
    # Two 10x10 squares side by side by 5, whose rings cross; the diagonals are 50 and 100 pixels long.
    a, b = np.zeros(size, bool), np.zeros(size, bool)
    a[10:20, 5:15] = b[10:20, 10:20] = True
    ring_a, ring_b = a.copy(), b.copy()
    ring_a[10 + width : 20 - width, 5 + width : 15 - width] = False
    ring_b[10 + width : 20 - width, 10 + width : 20 - width] = False
    assert F.boundary_iou(a, b, **options) == (ring_a & ring_b).sum() / (ring_a | ring_b).sum()


def test_the_image_border_is_a_contour_in_boundary_iou():
    full, half = np.ones((40, 30), bool), np.ones((40, 30), bool)
    half[:, 15:] = False
    ring_full, ring_half = full.copy(), half.copy()
    ring_full[1:-1, 1:-1] = ring_half[1:-1, 1:14] = False
    assert F.boundary_iou(full, half) == (ring_full & ring_half).sum() / (ring_full | ring_half).sum()


def test_precision_and_recall_of_empty_masks():
    empty, some = np.zeros((4, 5), bool), np.eye(4, 5, dtype=bool)
    assert F.precision_recall(empty, empty) == (1, 1)
    assert F.precision_recall(empty, some) == F.precision_recall(some, empty) == (0, 0)
    assert F.precision_recall(np.ones((4, 5), bool), some) == (4 / 20, 1)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((4, 5), bool), np.zeros((5, 4), bool), "4x5, ground truth of 5x4"),
        (np.zeros((1, 4, 5), bool), np.zeros((1, 4, 5), bool), "height, width"),
        (np.zeros((0, 5), bool), np.zeros((0, 5), bool), "at least 1"),
        (np.zeros((4, 5)), np.zeros((4, 5), bool), "threshold"),
    ],
)
def test_invalid_masks_are_rejected(prediction, truth, message):
    for measure in (F.jaccard, F.boundary_f, F.boundary_iou, F.precision_recall, F.object_scores):
        with pytest.raises(UserError, match=message):
            measure(prediction, truth)


def test_negative_tolerance_is_rejected():
    with pytest.raises(UserError, match="tolerance=-1"):
        F.boundary_f(np.eye(5, dtype=bool), np.eye(5, dtype=bool)[::-1], tolerance=-1)


def test_recall_counts_nan_and_exactly_one_half_as_misses():
    series = np.array([0.5, 0.6, np.nan, 1.0])
    assert F.series_mean(series) == pytest.approx(0.7)
    assert F.series_recall(series) == 0.5


@pytest.mark.parametrize("statistic", [F.series_mean, F.series_recall, F.series_decay])
def test_statistics_of_nothing_are_nan_without_a_warning(statistic):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(statistic(np.array([])))
        if statistic is not F.series_recall:  # there, nan counts as below
            assert math.isnan(statistic(np.full(8, np.nan)))


def test_series_of_lower_precision_are_computed_in_float64():
    series = np.random.default_rng(0).random(99).astype(np.float32)
    assert F.series_mean(series) == series.astype(np.float64).mean()
    assert F.series_recall(series, above=0.1) == (series.astype(np.float64) > 0.1).mean()
    tenth = np.float32(0.1)  # a little more than 0.1
    assert F.series_recall(np.array([tenth]), above=0.1) == 1


@given(st.integers(1, 1200), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_decay_is_right_for_any_length(length, seed):
    series = np.random.default_rng(seed).random(length)
    assert F.series_decay(series + 1) == pytest.approx(F.series_decay(series), abs=1e-12)
    assert F.series_decay(np.full(length, 0.3)) == pytest.approx(0, abs=1e-15)
    # Linear decrease from 1 to 0: the centres of the first and last quarter are 3/4 apart.
    assert F.series_decay(np.linspace(1, 0, length)) == pytest.approx(0.75 if length > 1 else 0, abs=2 / length)
    if length < 256:
        assert {F.series_decay(series, variant) for variant in ("davis2016", "davis2017")} == {F.series_decay(series)}


@pytest.mark.parametrize(
    ("variant", "length", "first", "last"),
    [
        ("exact", 1, (0, 1), (0, 1)),
        ("exact", 3, (0, 2), (2, 3)),  # edges at 1, 1.5, 2, 2.5 and 3: halves are rounded up
        ("exact", 9, (0, 3), (6, 9)),
        ("exact", 1200, (0, 301), (899, 1200)),
        ("davis2016", 256, (0, 65), (191, 256)),
        ("davis2017", 256, (0, 65), None),  # the end of the last quarter, 256, is stored as 0
        ("davis2016", 257, (0, 65), None),  # so is its edge
        ("davis2017", 257, (0, 65), None),
        ("davis2016", 1200, (0, 45), (131, 176)),  # edges 300, 899 and 1199, modulo 256
        ("davis2017", 1200, (0, 45), (131, 176)),
    ],
)
def test_decay_compares_these_quarters(variant, length, first, last):
    series = np.random.default_rng(length).random(length)
    if last is None:
        assert math.isnan(F.series_decay(series, variant))
    else:
        expected = series[slice(*first)].mean() - series[slice(*last)].mean()
        assert F.series_decay(series, variant) == pytest.approx(expected, abs=1e-12)


def blocks(rng, ids):
    """Object ids (54, 99) in blocks of 9x11 pixels."""
    return np.kron(rng.integers(0, ids, (6, 9)), np.ones((9, 11), int)).astype(np.uint8)


def apart():
    """Three predicted objects, the last of one pixel, of which only that one meets the true object."""
    prediction, truth = np.zeros((2, 12, 70), np.uint8)
    prediction[1:4, 1:5], prediction[6:9, 1:5], prediction[5, 66] = 1, 3, 2
    truth[5, 66] = 1
    return prediction, truth


@pytest.mark.parametrize("pair", [(blocks(np.random.default_rng(3), 4), blocks(np.random.default_rng(4), 3)), apart()])
def test_object_scores_equal_those_of_single_objects(pair):
    prediction, truth = pair
    objects = [int(ids.max()) + 1 for ids in pair]
    void = truth.copy()
    void[truth == 0] = 255
    region, contour = F.object_scores(prediction, void)
    assert region.shape == contour.shape == tuple(objects)
    nothing = np.zeros_like(truth)
    for p in range(objects[0]):
        for o in range(objects[1]):
            one = prediction == p if p else nothing
            other = truth == o if o else nothing
            assert region[p, o] == F.jaccard(one, other)
            assert contour[p, o] == F.boundary_f(one, other)


def test_matching_is_one_to_one_and_optimal():
    # Greedy matching would give object 0 its best prediction 0 (0.9) and leave 0.1 for object 1.
    region = np.array([[0.9, 0.8], [0.7, 0.1], [0.0, 0.2]])[:, :, None].repeat(3, axis=2)
    chosen, pairs = F.match_objects(region, region)
    assert chosen.tolist() == [1, 0]
    np.testing.assert_allclose(pairs, region[:, :, 0])


def test_a_missing_scipy_is_reported_where_objects_are_matched(monkeypatch):
    monkeypatch.setattr("maskvos.errors.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^matching objects: the package 'scipy' is not installed"):
        F.match_objects(np.ones((1, 1, 1)), np.ones((1, 1, 1)))


def test_does_not_import_torch():
    code = "import sys, maskvos.metrics.functional, maskvos.metrics.folder; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.shared
@pytest.mark.parametrize("evaluator", ["davis2016", "davis2017"])
def test_edge_cases_of_the_official_code(shared, evaluator):
    masks = np.load(shared / "golden/edge_cases.npz")
    rows = [row for row in csv.DictReader((shared / "golden/edge_cases.csv").open()) if row["evaluator"] == evaluator]
    assert len(rows) == 38
    for row in rows:
        prediction, truth = (masks[f"{row['case']}|{side}"] for side in ("pred", "gt"))
        assert F.jaccard(prediction, truth) == float(row["J"]), row
        assert F.boundary_f(prediction, truth) == float(row["F"]), row


@pytest.mark.shared
def test_series_of_the_official_code(shared):
    series = np.load(shared / "golden/edge_series.npz")
    rows = list(csv.DictReader((shared / "golden/edge_series.csv").open()))
    assert len(rows) == 48
    for row in rows:
        scores = series[row["series"]]
        inner = scores[1:-1] if row["evaluator"] == "davis2016" else scores
        np.testing.assert_allclose(F.series_mean(scores), float(row["mean"]), atol=1e-12)
        np.testing.assert_allclose(F.series_recall(inner), float(row["recall"]), atol=1e-12)
        np.testing.assert_allclose(F.series_decay(inner, row["evaluator"]), float(row["decay"]), atol=1e-12)
        if len(inner) < 256:
            np.testing.assert_allclose(F.series_decay(inner), float(row["decay"]), atol=1e-12)
        else:
            assert not math.isnan(F.series_decay(inner))

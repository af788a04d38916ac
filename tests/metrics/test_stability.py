"""Temporal stability and the outlines that it compares; golden values are in test_golden.py."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from maskvos.errors import UserError
from maskvos.metrics import Protocol
from maskvos.metrics.outline import outline
from maskvos.metrics.results import FrameScore
from maskvos.metrics.stability import _match, _sector, stability_series, temporal_stability

HEIGHT, WIDTH = 90, 120


def disk(x=60, y=45, radius=30):
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def blob(seed=0):
    """Some overlapping ellipses; irregular, with parts that touch at corners."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for _ in range(5):
        x, y, a, b = rng.uniform(40, 80), rng.uniform(30, 60), *rng.uniform(4, 20, 2)
        mask |= ((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 <= 1
    return mask


def area(points):
    x, y = points.T.astype(float)
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)


@pytest.mark.parametrize("seed", range(4))
def test_equal_masks_are_stable(seed):
    assert temporal_stability(blob(seed), blob(seed)) == 0


def test_translation_costs_nothing_and_jitter_does():
    assert temporal_stability(disk(), disk(x=67, y=41)) == pytest.approx(0, abs=1e-12)
    jitter = disk()
    jitter[10:20, 55:65] = False
    assert 0.01 < temporal_stability(disk(), jitter) < temporal_stability(disk(), blob()) <= 5


def test_a_larger_copy_is_nearly_stable():
    assert temporal_stability(disk(radius=20), disk(radius=40)) < 0.2


@pytest.mark.parametrize(
    "empty", [np.zeros((HEIGHT, WIDTH), bool), np.eye(HEIGHT, WIDTH, dtype=bool) & (disk(radius=1))]
)
def test_masks_without_an_outline_have_no_stability(empty):
    assert math.isnan(temporal_stability(empty, disk()))
    assert math.isnan(temporal_stability(disk(), empty))


def test_sizes_must_be_equal():
    with pytest.raises(UserError, match="same size"):
        temporal_stability(disk(), disk()[1:])


def test_the_outline_of_a_rectangle_has_its_corners():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:50, 30:90] = True
    points = outline(mask)
    assert set(map(tuple, points.tolist())) == {(30, 20), (90, 20), (90, 50), (30, 50)}
    assert points[0].tolist() == points[-1].tolist()
    assert abs(area(points)) == 30 * 60


def test_a_frame_that_is_all_foreground_has_an_outline():
    assert abs(area(outline(np.ones((HEIGHT, WIDTH), bool)))) == HEIGHT * WIDTH


def test_the_outline_with_the_most_corners_counts():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:80, 2:60] = True
    small = disk(x=95, radius=16)
    assert np.array_equal(outline(mask | small), outline(small))


def test_a_hole_is_passed_the_other_way():
    hole = np.ones((HEIGHT, WIDTH), bool) & ~disk()
    assert np.sign(area(outline(hole))) == -np.sign(area(outline(disk())))


def test_parts_that_touch_at_a_corner_are_outlines_of_their_own_or_one_that_turns():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:40, 10:40] = mask[40:70, 40:70] = True
    points = outline(mask)
    # Squares that touch at (40, 40): the outline does not cross there, so it never passes from one to the other and on.
    assert abs(area(points)) in (30 * 30, 2 * 30 * 30)
    assert (40, 40) in set(map(tuple, points.tolist()))


def test_any_mask_has_a_closed_outline_within_the_frame_or_none():
    rng = np.random.default_rng(1)
    outlines = 0
    for _ in range(150):
        height, width = rng.integers(1, 14, 2)
        points = outline(rng.random((height, width)) < rng.random())
        if points is not None:
            outlines += 1
            assert (points[0] == points[-1]).all()
            assert points.min() >= 0
            assert (points <= (width, height)).all()
    assert outlines > 50


@pytest.mark.parametrize("seed", range(3))
def test_outlines_stay_within_their_tolerance(seed):
    mask = blob(seed)
    points = outline(mask).astype(float)
    inside = np.zeros_like(mask, dtype=float)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for (x0, y0), (x1, y1) in pairwise(points):  # even-odd rule
        crosses = (y0 > rows) != (y1 > rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside += crosses & (columns < (x1 - x0) * (rows - y0) / (y1 - y0) + x0)
    wrong = (inside % 2 == 1) != mask
    assert wrong.sum() < 0.08 * mask.sum()


def test_directions_are_in_twelve_sectors():
    angle = np.radians([0, 29, 31, 89, 90, 121, 180, 209, 270, 331, 359])
    dx, dy = np.round(np.cos(angle), 9), np.round(np.sin(angle), 9)
    assert _sector(dx, dy).tolist() == [0, 0, 1, 2, 3, 4, 6, 6, 9, 11, 11]
    assert _sector(np.zeros(1), np.zeros(1)).tolist() == [0]


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (7, 5), (5, 8)])
def test_the_match_is_the_cheapest_path(size):
    costs = np.random.default_rng(3).random(size)
    sums = np.full(size, np.inf)
    for i, j in np.ndindex(size):
        before = [sums[a, b] for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if a >= 0 and b >= 0]
        sums[i, j] = costs[i, j] + min(before) if before else 0
    rows, columns = _match(costs)
    assert (rows[0], columns[0], rows[-1], columns[-1]) == (size[0] - 1, size[1] - 1, 0, 0)
    steps = set(zip(-np.diff(rows), -np.diff(columns), strict=True))
    assert steps <= {(0, 1), (1, 0), (1, 1)}
    assert costs[rows[:-1], columns[:-1]].sum() == pytest.approx(sums[-1, -1])


def series(masks, **options):
    protocol = Protocol("p", ("j", "t"), **options)
    return protocol, [protocol.score("clip", f"{i:05d}", mask, mask) for i, mask in enumerate(masks)]


def test_a_frame_has_the_stability_to_the_next_one():
    masks = [blob(), disk(), disk(), blob(), np.zeros((HEIGHT, WIDTH), bool), disk()]
    protocol, scores = series(masks)
    frames = protocol.summarise(scores).frames
    expected = temporal_stability(masks[0], masks[1]), 0.0, temporal_stability(masks[2], masks[3])
    assert [row.values.get("t") for row in frames] == [*expected, None, None, None]
    assert protocol.summarise(scores).overall["t"] == pytest.approx(np.mean(expected))


def test_frames_that_do_not_count_make_no_pairs():
    protocol, scores = series([blob(), disk(), disk(), blob()], trim="both")
    assert [row.values.get("t") for row in protocol.summarise(scores).frames] == [None, 0.0, None, None]


def test_the_mean_leaves_out_unstable_sequences_and_those_without_pairs():
    protocol = Protocol("p", ("t",), unstable=["wild"])
    scores = [protocol.score("calm", name, disk(), disk()) for name in "ab"]
    scores += [protocol.score("wild", name, mask, mask) for name, mask in (("a", blob()), ("b", disk()))]
    scores += [protocol.score("single", "a", disk(), disk())]
    summary = protocol.summarise(scores)
    assert summary.overall["t"] == 0
    assert {row.name: row.values["t"] > 0 for row in summary.sequences if row.name != "single"} == {
        "calm": False,
        "wild": True,
    }
    assert any("wild" in note for note in summary.notes)


def test_scores_with_outlines_survive_serialisation():
    _, (score,) = series([disk()])
    again = FrameScore.from_line(score.to_line())
    assert np.array_equal(again.outline, score.outline)
    assert stability_series([again.outline, score.outline]) == [0.0]

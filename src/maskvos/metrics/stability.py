"""Temporal stability T of DAVIS-2016: how much the outline of the mask changes from frame to frame.

The outline of each frame is a polygon. Each of its points is described by where the other points lie around it (its
shape context); the points of two successive frames are matched in order along the outlines, and T is the mean
difference of matched points. Translation and scaling cost nothing, jitter and jumps do. The ground truth is not used.

Source: F. Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
section 4.1, as its code computes it: only the polygon with the most corners counts, tolerances are in pixels whatever
the size of the frame, and values are multiplied by 5 to lie in the range of J and F. Polygons and costs are equal to
those of that code. Where two matchings cost the same to the last bit, it takes what the order of its priority queue
gives, and this module takes the diagonal step, which changes the mean of a sequence by less than 1e-4 of its value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from maskvos.metrics.arrays import as_masks
from maskvos.metrics.outline import outline

__all__ = ["Shape", "shape", "shape_distance", "stability_series", "temporal_stability"]

_SCALE = 5.0
_SPACING = np.float32(3)  # most pixels between two points of an outline
_SECTORS = 12
_RINGS = np.logspace(np.log10(1 / 8), np.log10(2), 5)  # radii, in mean distances between points
_TINY = 2.2204e-16  # as in the official code
_BLOCK = 1 << 15  # elements of a block of the cost matrix, which stays in the processor's cache

Shape = np.ndarray
"""Shape contexts of an outline, (N, bins) float64: for each of its points the share of points in each bin around it."""


def temporal_stability(first: np.ndarray, second: np.ndarray) -> float:
    """Temporal (in)stability T of two successive masks.

    Args:
        first: (H, W) bool.
        second: (H, W) bool.

    Returns:
        At least 0, lower is better: 0 for equal masks (and for translated ones whose outlines do not touch the frame's
        border, up to rounding), at most 5; nan if a mask has no outline, as it is empty or all its parts are tiny.

    Raises:
        UserError: The shapes differ, or an input is not a mask.
    """
    shapes = [shape(outline(mask)) for mask in as_masks(first, second)]
    return shape_distance(*shapes)


def stability_series(outlines: Iterable[np.ndarray | None]) -> list[float]:
    """T of each frame and the next one, from the `outline.outline` of successive frames: one value less than frames."""
    return [shape_distance(*pair) for pair in pairwise(map(shape, outlines))]


def shape(corners: np.ndarray | None) -> Shape | None:
    """Shape contexts of an outline; None if there is none."""
    if corners is None:
        return None
    x, y = _sample(corners).astype(np.float64).T
    step = max(1, _BLOCK // len(x))
    blocks = [slice(start, start + step) for start in range(0, len(x), step)]

    def offsets(block: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """From the points of a block to all points: (n, N) along x, along y, and the distance."""
        dx, dy = x - x[block, None], y - y[block, None]
        return dx, dy, np.sqrt(dx * dx + dy * dy)

    mean = sum(offsets(block)[2].sum() for block in blocks) / len(x) ** 2
    counts = np.empty((len(x), _SECTORS * len(_RINGS)))
    for block in blocks:
        dx, dy, distances = offsets(block)
        distances /= mean
        ring = sum((distances < radius).astype(np.int64) for radius in _RINGS)  # 0: too far away
        bins = ring + (len(_RINGS) + 1) * (_sector(dx, dy) + _SECTORS * np.arange(len(dx))[:, None])
        size = (len(dx), _SECTORS, len(_RINGS) + 1)
        found = np.bincount(bins.ravel(), minlength=math.prod(size)).reshape(size)
        counts[block] = found[..., 1:].reshape(len(dx), -1)
    return counts / (counts.sum(axis=1, keepdims=True) + _TINY)


def shape_distance(first: Shape | None, second: Shape | None) -> float:
    """T of two shapes: the mean cost of matched points, times 5; nan if one is None."""
    if first is None or second is None:
        return math.nan
    costs = _costs(first, second)
    rows, columns = _match(costs)
    # Match again from the best matched points on, since the outlines start anywhere.
    inner = costs[rows[:-1], columns[:-1]]
    best = int(np.argmin(inner)) if len(inner) else 0
    shift = rows[best] + 1, columns[best] + 1
    rows, columns = _match(np.roll(costs, (-shift[0], -shift[1]), (0, 1)))
    rows, columns = (rows + shift[0]) % len(first), (columns + shift[1]) % len(second)
    # Keep the cheapest match of each point of the first outline, then of each point of the second.
    for side in (0, 1):
        side_points = (rows, columns)[side]
        order = np.lexsort((np.arange(len(rows)), costs[rows, columns], side_points))
        kept = order[np.unique(side_points[order], return_index=True)[1]]
        rows, columns = rows[kept], columns[kept]
    return _SCALE * float(costs[rows, columns].mean())


def _sample(corners: np.ndarray) -> np.ndarray:
    """Points along a closed polygon (N, 2), its corners included, at most `_SPACING` apart: (M, 2) float32."""
    corners = corners.astype(np.float32)
    steps = np.diff(corners, axis=0)
    lengths = np.sqrt(steps[:, 0] * steps[:, 0] + steps[:, 1] * steps[:, 1])
    parts = np.ceil(lengths / _SPACING).astype(np.int64)
    steps /= parts[:, None].astype(np.float32)
    starts = np.cumsum(parts) - parts
    points = np.empty((parts.sum() + 1, 2), np.float32)
    points[starts], points[-1] = corners[:-1], corners[-1]
    # Step by step, as the sums are rounded to float32 on the way.
    for step in range(1, parts.max()):
        long = parts > step
        at = starts[long] + step
        points[at] = points[at - 1] + steps[long]
    return points


def _sector(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Which twelfth of the circle, counted from the x axis towards the y axis, a direction is in; 0 for (0, 0)."""
    quarter = np.where(dy > 0, (dx <= 0) * 1, np.where(dx < 0, 2, (dy < 0) * 3))
    odd = (quarter & 1).astype(bool)
    along, across = np.abs(np.where(odd, dy, dx)), np.abs(np.where(odd, dx, dy))
    return quarter * 3 + (across > along * math.tan(math.pi / 6)) + (across > along * math.tan(math.pi / 3))


def _costs(first: Shape, second: Shape) -> np.ndarray:
    """Half the chi-squared distance of each pair of points, (N, M) in [0, 1]."""
    used = first.any(axis=0) | second.any(axis=0)
    first, second = first.T[used], np.ascontiguousarray(second.T[used])
    costs = np.zeros((first.shape[1], second.shape[1]))
    rows = max(1, _BLOCK // costs.shape[1])
    for start in range(0, len(costs), rows):
        block = costs[start : start + rows]
        difference, total = np.empty_like(block), np.empty_like(block)
        for a, b in zip(first[:, start : start + rows], second, strict=True):
            np.subtract.outer(a, b, out=difference)
            np.add.outer(a + _TINY, b, out=total)
            np.multiply(difference, difference, out=difference)
            np.divide(difference, total, out=difference)
            np.add(block, difference, out=block)
        block *= 0.5
    return costs


def _match(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cheapest path through a cost matrix (N, M) from its first to its last element, in steps down, right or both.

    Returns:
        Rows and columns of its elements, the last first. The first element costs nothing.
    """
    height, width = costs.shape
    flat = np.ascontiguousarray(costs).ravel()
    # Costs to get to the elements, by antidiagonal (row + column) and row, after two antidiagonals and a row of inf.
    sums = np.full((height + width + 1, height + 1), np.inf)
    sums[2, 1] = 0
    for diagonal in range(1, height + width - 1):
        low, high = max(0, diagonal - width + 1), min(diagonal, height - 1) + 1
        before, last = sums[diagonal], sums[diagonal + 1]
        cheapest = np.minimum(last[low:high], last[low + 1 : high + 1])  # from above, from the left
        np.minimum(cheapest, before[low:high], out=cheapest)
        # One row down on an antidiagonal is one row down and one column to the left.
        here = diagonal + (width - 1) * low
        steps = flat[here : here + (width - 1) * (high - low - 1) + 1 : max(1, width - 1)]
        np.add(cheapest, steps, out=sums[diagonal + 2, low + 1 : high + 1])
    row, column = height - 1, width - 1
    path = [(row, column)]
    while row or column:
        at = row + column + 2
        both, above, left = sums[at - 2, row], sums[at - 1, row], sums[at - 1, row + 1]
        if both <= above and both <= left:
            row, column = row - 1, column - 1
        elif above <= left:
            row -= 1
        else:
            column -= 1
        path.append((row, column))
    rows, columns = np.array(path).T
    return rows, columns

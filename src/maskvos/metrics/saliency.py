"""Saliency metrics: MAE, F-measure, E-measure and S-measure of a soft map against a binary ground truth.

A map is (H, W) uint8, 255 for certain foreground. Float maps in [0, 1] are rounded to 8 bits, as in a saved image; a
bool mask counts as 0 and 255. Maps are not min-max normalised unless ``minmax`` is set.

These metrics depend on a map only through the histograms of its 256 levels in the foreground and background of four
quadrants. `Saliency` computes these in one pass; everything else is arithmetic on 256 numbers. Values agree with the
package ``pysodmetrics`` up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import numpy as np

from maskvos.errors import UserError
from maskvos.metrics.arrays import as_masks, check_axes, check_same_size

Structure = Literal["matlab", "torch"]
"""Two published implementations of the S-measure, see `s_measure`."""

_BETA2 = 0.3
EPS = np.spacing(1)
_TINY_TRUTH = 1e-4
_EXACT_IN_FLOAT32 = 2**24


@dataclass(frozen=True)
class Saliency:
    """Histograms of one frame, and the saliency metrics computed from them.

    Attributes:
        quadrants: (4, 2, 256) int64. Axes: quadrants around the ground truth's centroid (upper left, upper right, lower
            left, lower right); background and foreground; levels of the map.
        split: First row of the lower quadrants and first column of the right quadrants.
        shape: (H, W).
        minmax: Min-max normalise the map to [0, 1].
        structure: See `s_measure`.
    """

    quadrants: np.ndarray
    split: tuple[int, int]
    shape: tuple[int, int]
    minmax: bool = False
    structure: Structure = "matlab"

    @classmethod
    def of(
        cls, prediction: np.ndarray, truth: np.ndarray, minmax: bool = False, structure: Structure = "matlab"
    ) -> Saliency:
        """Compute the histograms of a map.

        Args:
            prediction: (H, W) uint8, float in [0, 1], or bool.
            truth: (H, W) bool.
            minmax: Min-max normalise the map to [0, 1].
            structure: See `s_measure`.

        Raises:
            UserError: Different sizes, or the map is neither 8-bit nor in [0, 1].
        """
        levels, (truth,) = as_levels(prediction), as_masks(truth)
        check_same_size(levels, truth)
        height, width = truth.shape
        row, column = _split(truth, structure)
        boxes = [
            (rows, columns)
            for rows in (slice(0, row), slice(row, height))
            for columns in (slice(0, column), slice(column, width))
        ]
        quadrants = np.stack([_count_levels(levels[box], truth[box]) for box in boxes])
        return cls(quadrants, (row, column), (height, width), minmax, structure)

    @cached_property
    def histogram(self) -> np.ndarray:
        """(2, 256) int64: counts of each level in the background and the foreground."""
        return self.quadrants.sum(axis=0)

    @cached_property
    def values(self) -> np.ndarray:
        """(256,) float64: the value in [0, 1] of each level."""
        values = np.arange(256) / 255
        present = np.flatnonzero(self.histogram.any(axis=0))
        low, high = values[present[0]], values[present[-1]]
        return (values - low) / (high - low) if self.minmax and low != high else values

    @cached_property
    def curve_histogram(self) -> np.ndarray:
        """`histogram` over the 256 thresholds of the curves, which differ from the levels if ``minmax`` is set."""
        if not self.minmax:
            return self.histogram
        bins = (self.values.clip(0, 1) * 255).astype(np.intp)
        return np.stack([np.bincount(bins, counts, 256) for counts in self.histogram]).astype(np.int64)

    @property
    def mae(self) -> float:
        """See `mae`."""
        background, foreground = self.histogram
        return float((background @ self.values + foreground @ (1 - self.values)) / self.histogram.sum())

    @cached_property
    def f_curve(self) -> np.ndarray:
        """See `f_curve`."""
        return f_curve_of(self.curve_histogram)

    @cached_property
    def e_curve(self) -> np.ndarray:
        """See `e_curve`."""
        return e_curve_of(self.curve_histogram)

    @property
    def max_f(self) -> float:
        """See `max_f`."""
        return float(self.f_curve.max())

    @property
    def mean_f(self) -> float:
        """See `mean_f`."""
        return float(self.f_curve.mean())

    @property
    def max_e(self) -> float:
        """See `max_e`."""
        return float(self.e_curve.max())

    @property
    def mean_e(self) -> float:
        """See `mean_e`."""
        return float(self.e_curve.mean())

    @property
    def adaptive_f(self) -> float:
        """See `adaptive_f`."""
        return self._adaptive(_f)

    @property
    def adaptive_e(self) -> float:
        """See `adaptive_e`."""
        return self._adaptive(_e)

    @property
    def s(self) -> float:
        """See `s_measure`, with alpha = 0.5."""
        return self.s_measure(0.5)

    def s_measure(self, alpha: float) -> float:
        """See `s_measure`."""
        background, foreground = self.histogram
        fraction = foreground.sum() / self.histogram.sum()
        mean = float((self.histogram.sum(axis=0) @ self.values) / self.histogram.sum())
        if fraction == 0 or (self.structure == "torch" and fraction < _TINY_TRUTH):
            return 1 - mean
        if fraction == 1:
            return mean
        inside, outside = _object_score(foreground, self.values), _object_score(background, 1 - self.values)
        objects = fraction * inside + (1 - fraction) * outside
        return float(max(0.0, alpha * objects + (1 - alpha) * self._region_score()))

    def _adaptive(self, measure: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
        """F- or E-measure of the map thresholded at twice its mean (at most 1)."""
        mean = (self.histogram.sum(axis=0) @ self.values) / self.histogram.sum()
        above = self.histogram[:, self.values >= min(2 * mean, 1.0)].sum(axis=1)
        return float(measure(above[:, None], self.histogram.sum(axis=1))[0])

    def _region_score(self) -> float:
        (row, column), (height, width) = self.split, self.shape
        area = height * width
        weights = [column * row / area, row * (width - column) / area, (height - row) * column / area]
        weights.append(1 - sum(weights))
        sizes = [(row, column), (row, width - column), (height - row, column), (height - row, width - column)]
        return sum(
            weight * _ssim(counts, self.values, size, self.shape)
            for counts, weight, size in zip(self.quadrants, weights, sizes, strict=True)
            if counts.any()
        )


def mae(prediction: np.ndarray, truth: np.ndarray, minmax: bool = False) -> float:
    """Mean absolute error of a map; arguments and errors as for `Saliency.of`.

    Source: F. Perazzi et al., "Saliency filters", CVPR 2012.
    """
    return Saliency.of(prediction, truth, minmax).mae


def f_curve(prediction: np.ndarray, truth: np.ndarray, minmax: bool = False) -> np.ndarray:
    """F-measure (beta^2 = 0.3) at each threshold: (256,), where entry t thresholds the map at >= t / 255.

    0 if there is no true positive. Arguments and errors as for `Saliency.of`.

    Source: R. Achanta et al., "Frequency-tuned salient region detection", CVPR 2009.
    """
    return Saliency.of(prediction, truth, minmax).f_curve


def e_curve(prediction: np.ndarray, truth: np.ndarray, minmax: bool = False) -> np.ndarray:
    """Enhanced-alignment measure at each threshold: (256,), as `f_curve`; arguments and errors as for `Saliency.of`.

    Source: D.-P. Fan et al., "Enhanced-alignment measure for binary foreground map evaluation", IJCAI 2018 (as in the
    authors' code, the sum is divided by the number of pixels minus one, so a perfect map scores slightly above 1).
    """
    return Saliency.of(prediction, truth, minmax).e_curve


def max_f(prediction: np.ndarray, truth: np.ndarray, minmax: bool = False) -> float:
    """Maximum of `f_curve`. Over several frames the curves are averaged first, see `Protocol`."""
    return Saliency.of(prediction, truth, minmax).max_f


def mean_f(prediction: np.ndarray, truth: np.ndarray, minmax: bool = False) -> float:
    """Mean of `f_curve` over the thresholds."""
    return Saliency.of(prediction, truth, minmax).mean_f


def adaptive_f(prediction: np.ndarray, truth: np.ndarray, minmax: bool = False) -> float:
    """F-measure (beta^2 = 0.3) of the map thresholded at twice its mean (at most 1); arguments as for `Saliency.of`."""
    return Saliency.of(prediction, truth, minmax).adaptive_f


def max_e(prediction: np.ndarray, truth: np.ndarray, minmax: bool = False) -> float:
    """Maximum of `e_curve`. Over several frames the curves are averaged first, see `Protocol`."""
    return Saliency.of(prediction, truth, minmax).max_e


def mean_e(prediction: np.ndarray, truth: np.ndarray, minmax: bool = False) -> float:
    """Mean of `e_curve` over the thresholds."""
    return Saliency.of(prediction, truth, minmax).mean_e


def adaptive_e(prediction: np.ndarray, truth: np.ndarray, minmax: bool = False) -> float:
    """E-measure of the map thresholded at twice its mean (at most 1); arguments as for `Saliency.of`."""
    return Saliency.of(prediction, truth, minmax).adaptive_e


def s_measure(
    prediction: np.ndarray,
    truth: np.ndarray,
    alpha: float = 0.5,
    minmax: bool = False,
    structure: Structure = "matlab",
) -> float:
    """Structure measure: object-aware similarity, and region-aware similarity of the quadrants around the centroid.

    Args:
        prediction: As for `Saliency.of`.
        truth: (H, W) bool.
        alpha: Weight of the object-aware term.
        minmax: As for `Saliency.of`.
        structure: ``matlab``: the centroid's row and column belong to the upper and left quadrants, as in the authors'
            code and pysodmetrics. ``torch``: they belong to the lower and right quadrants, and a ground truth of less
            than 1e-4 of the frame counts as empty, as in the PyTorch ports used in many video saliency papers.

    Raises:
        UserError: As for `Saliency.of`.

    Source: D.-P. Fan et al., "Structure-measure: a new way to evaluate foreground maps", ICCV 2017. Empty quadrants are
    ignored (the reference implementations return nan).
    """
    return Saliency.of(prediction, truth, minmax, structure).s_measure(alpha)


def f_curve_of(histogram: np.ndarray) -> np.ndarray:
    """`f_curve` from the histograms of background and foreground, (2, 256)."""
    return _f(_at_or_above(histogram), histogram.sum(axis=1))


def e_curve_of(histogram: np.ndarray) -> np.ndarray:
    """`e_curve` from the histograms of background and foreground, (2, 256)."""
    return _e(_at_or_above(histogram), histogram.sum(axis=1))


def as_levels(prediction: np.ndarray) -> np.ndarray:
    """Convert a map to (H, W) uint8: floats in [0, 1] are rounded, bool becomes 0 and 255.

    Raises:
        UserError: Unsupported dtype, or float values outside [0, 1].
    """
    prediction = np.asarray(prediction)
    check_axes(prediction)
    if prediction.dtype == np.uint8:
        return np.ascontiguousarray(prediction)
    if prediction.dtype == np.bool_:
        return np.where(prediction, np.uint8(255), np.uint8(0))
    if not np.issubdtype(prediction.dtype, np.floating):
        raise UserError(f"saliency map of type {prediction.dtype}: expected uint8, bool, or float in [0, 1]")
    low, high = prediction.min(), prediction.max()
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"saliency map with values from {low} to {high}: float maps must be in [0, 1]; apply the sigmoid, or"
            " divide by 255"
        )
    return np.rint(prediction * 255).astype(np.uint8)


def _split(truth: np.ndarray, structure: Structure) -> tuple[int, int]:
    """First row of the lower and first column of the right quadrants, for a ground truth (H, W) uint8 of 0 and 1."""
    count = cv2.countNonZero(truth)
    offset = 1 if structure == "matlab" else 0
    if not count:
        return truth.shape[0] // 2, truth.shape[1] // 2
    rows = cv2.reduce(truth, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    columns = cv2.reduce(truth, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    centroid = [np.round(np.arange(len(line)) @ line.astype(np.int64) / count) for line in (rows, columns)]
    return int(centroid[0]) + offset, int(centroid[1]) + offset


def _count_levels(levels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(2, 256) int64: histograms of a map (H, W) uint8 in background and foreground of a mask (H, W) uint8."""
    if not levels.size:
        return np.zeros((2, 256), np.int64)
    if levels.size < _EXACT_IN_FLOAT32:  # OpenCV returns counts as float32
        levels, truth = np.ascontiguousarray(levels), np.ascontiguousarray(truth)
        both = cv2.calcHist([levels], [0], None, [256], [0, 256]).ravel().astype(np.int64)
        foreground = cv2.calcHist([levels], [0], truth, [256], [0, 256]).ravel().astype(np.int64)
    else:
        both = np.bincount(levels.ravel(), minlength=256)
        foreground = np.bincount(levels[truth != 0], minlength=256)
    return np.stack([both - foreground, foreground])


def _at_or_above(histogram: np.ndarray) -> np.ndarray:
    """(2, 256): background and foreground pixels at or above each level."""
    return np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1]


def _f(above: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """F-measure of thresholded maps: above (2, N) and totals (2,), pixels of background and foreground."""
    found = above[1]
    precision = found / np.maximum(above.sum(axis=0), 1)
    recall = found / max(totals[1], 1)
    numerator = (1 + _BETA2) * precision * recall
    return numerator / np.where(numerator == 0, 1, _BETA2 * precision + recall)


def _e(above: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """E-measure of thresholded maps: above (2, N) and totals (2,), pixels of background and foreground."""
    pixels = totals.sum()
    predicted = above.sum(axis=0)
    if totals[1] == 0:
        aligned = (pixels - predicted).astype(np.float64)
    elif totals[0] == 0:
        aligned = predicted.astype(np.float64)
    else:
        mean_prediction, mean_truth = predicted / pixels, totals[1] / pixels
        aligned = np.zeros(above.shape[1])
        for is_truth in (1, 0):
            for is_predicted in (1, 0):
                count = above[is_truth] if is_predicted else totals[is_truth] - above[is_truth]
                a, b = is_predicted - mean_prediction, is_truth - mean_truth
                aligned += count * (2 * a * b / (a * a + b * b + EPS) + 1) ** 2 / 4
    return aligned / (pixels - 1 + EPS)


def _object_score(counts: np.ndarray, values: np.ndarray) -> float:
    """Object-aware similarity of a region that should be 1 everywhere: counts and values (256,)."""
    pixels = counts.sum()
    mean = counts @ values / pixels
    deviation = np.sqrt(counts @ (values - mean) ** 2 / (pixels - 1)) if pixels > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + EPS)


def _ssim(counts: np.ndarray, values: np.ndarray, size: tuple[int, int], shape: tuple[int, int]) -> float:
    """Structural similarity (SSIM) of one quadrant: counts (2, 256), values (256,), its size in a frame of `shape`."""
    pixels = counts.sum()
    present = np.flatnonzero(counts.any(axis=0))
    if len(present) == 1 and 0 < values[present[0]] < 1:
        # Whether the mean of equal floats is exactly that float depends on rounding, and decides between a score of 0
        # and 1 in the reference code: compute the same sum here.
        mean = np.full(shape, values[present[0]])[: size[0], : size[1]].mean()
    else:
        mean = counts.sum(axis=0) @ values / pixels
    fraction = counts[1].sum() / pixels
    scale = pixels - 1 + EPS
    variance = counts.sum(axis=0) @ (values - mean) ** 2 / scale
    variance_truth = pixels * fraction * (1 - fraction) / scale
    covariance = (counts[1] @ (values - mean) * (1 - fraction) - counts[0] @ (values - mean) * fraction) / scale
    numerator = 4 * mean * fraction * covariance
    denominator = (mean**2 + fraction**2) * (variance + variance_truth)
    if numerator != 0:
        return float(numerator / (denominator + EPS))
    return 1.0 if denominator == 0 else 0.0

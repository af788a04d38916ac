"""Segmentation metrics as pure functions of NumPy arrays, without torch.

A mask is (H, W) bool (or integer, where nonzero is foreground). Region similarity J, contour accuracy F and their
statistics follow F. Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation",
CVPR 2016, and are bit-exact with the official DAVIS-2016 and DAVIS-2017 code. The saliency metrics of
`maskvos.metrics.saliency` can also be imported from here.

F is fast because 64 pixels of a row are packed into one word: boundaries, dilation and counts are bitwise operations on
words, restricted to the bounding box of both boundaries. Nothing is approximated. The temporal stability T of
DAVIS-2016, which does not use the ground truth, is in `maskvos.metrics.stability`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import cv2
import numpy as np

from maskvos.errors import UserError, require
from maskvos.metrics.arrays import as_ids, as_masks
from maskvos.metrics.saliency import (
    adaptive_e,
    adaptive_f,
    e_curve,
    f_curve,
    mae,
    max_e,
    max_f,
    mean_e,
    mean_f,
    s_measure,
)
from maskvos.metrics.weighted_f import weighted_f

__all__ = [
    "adaptive_e",
    "adaptive_f",
    "boundary",
    "boundary_f",
    "boundary_iou",
    "e_curve",
    "f_curve",
    "jaccard",
    "jaccard_and_boundary_f",
    "mae",
    "match_objects",
    "max_e",
    "max_f",
    "mean_e",
    "mean_f",
    "object_scores",
    "precision_recall",
    "s_measure",
    "series_decay",
    "series_mean",
    "series_recall",
    "weighted_f",
]

Decay = Literal["exact", "davis2016", "davis2017"]
"""How `series_decay` splits long sequences into quarters."""

_WORD = 64
_TOLERANCE = 0.008


def jaccard(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Region similarity J: intersection over union.

    Args:
        prediction: (H, W) bool.
        truth: (H, W) bool.

    Returns:
        A value in [0, 1]; 1 if both masks are empty, 0 if only one is.

    Raises:
        UserError: The shapes differ, or an input is not a mask.

    Source: Perazzi et al., CVPR 2016, section 4.1.
    """
    prediction, truth = as_masks(prediction, truth)
    intersection = cv2.countNonZero(cv2.bitwise_and(prediction, truth))
    union = cv2.countNonZero(prediction) + cv2.countNonZero(truth) - intersection
    return intersection / union if union else 1.0


def boundary_f(prediction: np.ndarray, truth: np.ndarray, tolerance: float = _TOLERANCE) -> float:
    """Contour accuracy F: F1 score of boundary pixels, matched to the other boundary within a tolerance.

    Args:
        prediction: (H, W) bool.
        truth: (H, W) bool.
        tolerance: Matching radius: below 1 a fraction of the image diagonal (rounded up to pixels), else pixels.

    Returns:
        A value in [0, 1]; 1 if neither mask has a boundary (an empty mask or one that covers the image has none), 0 if
        only one has.

    Raises:
        UserError: As `jaccard`, or the tolerance is negative.

    Source: Perazzi et al., CVPR 2016, section 4.1, with the boundary of ``seg2bmap`` (see `boundary`).
    """
    pair = as_masks(prediction, truth)
    return _contour_accuracy(_pack(pair), pair[0].shape, tolerance)


def jaccard_and_boundary_f(
    prediction: np.ndarray, truth: np.ndarray, tolerance: float = _TOLERANCE
) -> tuple[float, float]:
    """J and F in one call, faster than `jaccard` and `boundary_f` separately; same arguments, values and errors."""
    pair = as_masks(prediction, truth)
    packed = _pack(pair)
    union = _count(packed[0] | packed[1])
    region = _count(packed[0] & packed[1]) / union if union else 1.0
    return region, _contour_accuracy(packed, pair[0].shape, tolerance)


def boundary(mask: np.ndarray) -> np.ndarray:
    """Boundary pixels of a mask: those that differ from their right, lower or lower right neighbour.

    The boundary is shifted half a pixel towards the origin. The image border is not a boundary; pixels in the last row
    and column are compared with their one neighbour inside the image.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) bool.

    Source: ``seg2bmap`` of D. Martin, University of California, 2003, as used by the DAVIS code.
    """
    (mask,) = as_masks(mask)
    height, width = mask.shape
    bits = np.unpackbits(_boundary(_pack([mask]), width).view(np.uint8), axis=-1, bitorder="little")
    return bits[0, :height, :width].astype(bool)


def boundary_iou(prediction: np.ndarray, truth: np.ndarray, dilation: float = 0.02) -> float:
    """Boundary IoU: IoU of the mask pixels within a distance of the contour.

    Args:
        prediction: (H, W) bool.
        truth: (H, W) bool.
        dilation: That distance as a fraction of the image diagonal (rounded, at least one pixel).

    Returns:
        A value in [0, 1]; 1 if both masks are empty.

    Raises:
        UserError: As `jaccard`.

    Source: B. Cheng et al., "Boundary IoU", CVPR 2021 (outside the image is background).
    """
    pair = as_masks(prediction, truth)
    width = max(1, round(dilation * math.hypot(*pair[0].shape)))
    return jaccard(*(_inner_border(mask, width) for mask in pair))


def precision_recall(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Pixel precision and recall.

    Args:
        prediction: (H, W) bool.
        truth: (H, W) bool.

    Returns:
        Precision and recall; both are 1 if both masks are empty, and 0 if only one is.

    Raises:
        UserError: As `jaccard`.
    """
    prediction, truth = as_masks(prediction, truth)
    correct = cv2.countNonZero(cv2.bitwise_and(prediction, truth))
    predicted, true = cv2.countNonZero(prediction), cv2.countNonZero(truth)
    if predicted == 0 or true == 0:
        both = float(predicted == true)
        return both, both
    return correct / predicted, correct / true


def series_mean(series: np.ndarray) -> float:
    """Mean of per-frame scores (T,), ignoring nan; nan if all are nan."""
    series = np.asarray(series, np.float64)
    known = ~np.isnan(series)
    return float(np.where(known, series, 0.0).sum() / known.sum()) if known.any() else math.nan


def series_recall(series: np.ndarray, above: float = 0.5) -> float:
    """Fraction of per-frame scores (T,) strictly above a threshold; nan counts as below.

    Source: Perazzi et al., CVPR 2016, section 4.2, as its code computes it.
    """
    series = np.asarray(series, np.float64)
    return float(np.mean(series > above)) if series.size else math.nan


def series_decay(series: np.ndarray, variant: Decay = "exact") -> float:
    """Performance decay over time: mean of the first quarter minus mean of the last quarter.

    Adjacent quarters share their edge frame: quarter i runs from edge i to edge i + 1, both inclusive.

    Args:
        series: (T,) per-frame scores in temporal order; nan is ignored.
        variant: ``exact``: as defined in the paper. The official code stores the edges as 8-bit integers, which
            overflow from 256 frames on, so that the decay is wrong or nan; ``davis2016`` and ``davis2017`` reproduce
            this (they differ if an edge is exactly 255: with NumPy 2, edge + 1 overflows in the latter too).

    Returns:
        The difference, positive if scores get worse over time; nan if a quarter has no score.

    Source: Perazzi et al., CVPR 2016, section 4.2, as its code computes it.
    """
    series = np.asarray(series)
    if not series.size:
        return math.nan
    edges = [int(edge) for edge in np.round(np.linspace(1, len(series), 5) + 1e-10) - 1]
    if variant != "exact":
        edges = [edge % 256 for edge in edges]
    ends = [(edge + 1) % 256 if variant == "davis2017" else edge + 1 for edge in edges]
    first, last = series[edges[0] : ends[1]], series[edges[3] : ends[4]]
    return series_mean(first) - series_mean(last)


def object_scores(
    prediction: np.ndarray, truth: np.ndarray, tolerance: float = _TOLERANCE
) -> tuple[np.ndarray, np.ndarray]:
    """J and F of all pairs of predicted and true objects in one frame.

    Args:
        prediction: (H, W) uint8, object ids from 1; 0 is background.
        truth: (H, W) uint8, object ids from 1; 0 is background, and so is 255 (void), as in the official code.
        tolerance: As for `boundary_f`.

    Returns:
        J and F, (P + 1, O + 1) float64, indexed by object id. Row and column 0 are for an object that is absent from
        this frame.

    Raises:
        UserError: The shapes differ, or an input is not an id map.
    """
    prediction, truth = as_ids(prediction, truth)
    truth = np.where(truth == 255, np.uint8(0), truth)
    counts = [int(ids.max()) + 1 for ids in (prediction, truth)]
    joint = np.bincount((prediction.astype(np.intp) * counts[1] + truth).ravel(), minlength=counts[0] * counts[1])
    joint = joint.reshape(counts)
    areas = [joint.sum(axis=axis) for axis in (1, 0)]
    # Id 0 means an absent object here, not the background.
    intersection = joint.copy()
    intersection[0, :] = intersection[:, 0] = areas[0][0] = areas[1][0] = 0
    union = areas[0][:, None] + areas[1][None, :] - intersection
    region = np.where(union == 0, 1.0, intersection / np.maximum(union, 1))

    radius = _radius(prediction.shape, tolerance)
    sides = []
    for ids, count in zip((prediction, truth), counts, strict=True):
        masks = [np.zeros(ids.shape, bool)] + [ids == i for i in range(1, count)]
        edge = _boundary(_pack(masks), ids.shape[1])
        sides.append((edge, _dilate(edge, radius), [_count(one) for one in edge]))
    contour = np.empty(counts)
    for p, o in np.ndindex(*counts):
        matched = _count(sides[0][0][p] & sides[1][1][o]), _count(sides[1][0][o] & sides[0][1][p])
        contour[p, o] = _f1(matched, (sides[0][2][p], sides[1][2][o]))
    return region, contour


def match_objects(region: np.ndarray, contour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Assign one predicted object to each true object of a sequence, maximising J&F (Hungarian algorithm).

    Args:
        region: (P, O, T) float64, J of each pair in each frame, P >= O (pad with absent objects).
        contour: (P, O, T) float64, F.

    Returns:
        Index of the predicted object for each true object, (O,), and the mean J&F of each pair, (P, O).

    Source: S. Caelles et al., "The 2019 DAVIS Challenge on VOS: Unsupervised Multi-Object Segmentation", 2019.
    """
    require("scipy", "matching objects")  # imported here, since other measures do without
    from scipy.optimize import linear_sum_assignment

    pairs = (region.mean(axis=2) + contour.mean(axis=2)) / 2
    rows, columns = linear_sum_assignment(-pairs)
    return rows[np.argsort(columns)], pairs


def _pack(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Pack N masks (H, W) into words of 64 pixels, least significant bit first, 0-padded: (N, H, words) uint64."""
    height, width = masks[0].shape
    packed = np.zeros((len(masks), height, -(-width // _WORD) * _WORD // 8), np.uint8)
    for row, mask in zip(packed, masks, strict=True):
        row[:, : -(-width // 8)] = np.packbits(mask, axis=1, bitorder="little")
    return packed.view("<u8")


def _count(packed: np.ndarray) -> int:
    """Number of set bits."""
    return int(cv2.norm(np.ascontiguousarray(packed).view(np.uint8).reshape(1, -1), cv2.NORM_HAMMING))


def _left(packed: np.ndarray, step: int) -> np.ndarray:
    """Shift the pixels of (..., words) to the left by 0 < step < 64."""
    shifted = packed >> np.uint64(step)
    shifted[..., :-1] |= packed[..., 1:] << np.uint64(_WORD - step)
    return shifted


def _widen(packed: np.ndarray, step: int) -> np.ndarray:
    """Union of the pixels of (words,) with themselves shifted left and right by 0 < step < 64."""
    wide = packed | packed >> np.uint64(step)
    wide |= packed << np.uint64(step)
    wide[:-1] |= packed[1:] << np.uint64(_WORD - step)
    wide[1:] |= packed[:-1] >> np.uint64(_WORD - step)
    return wide


def _boundary(packed: np.ndarray, width: int) -> np.ndarray:
    """`boundary` of packed masks (N, H, words) of the given width in pixels."""
    inner = np.zeros(packed.shape[-1] * _WORD, np.uint8)
    inner[: width - 1] = 1  # the last column has no right neighbour
    has_right = np.packbits(inner, bitorder="little").view("<u8")
    right = _left(packed, 1)
    edge = (packed ^ right) & has_right
    edge[:, :-1] |= packed[:, :-1] ^ packed[:, 1:]
    edge[:, :-1] |= (packed[:, :-1] ^ right[:, 1:]) & has_right
    return edge


def _dilate(packed: np.ndarray, radius: int) -> np.ndarray:
    """Dilate packed maps (N, H, words) by the digital disk x^2 + y^2 <= radius^2.

    Bits beyond the width are not cleared. The disk is decomposed into horizontal bars: the maps are widened from the
    shortest bar to the longest, and each width is or-ed into the rows at its vertical distances. All rows of all maps
    are concatenated into one array of words, each after padding as large as the radius, which keeps what is shifted
    out of the image and is needed to fill the next bar.
    """
    count, height, words = packed.shape
    padding = -(-radius // _WORD)
    canvas = np.zeros((count, height + radius, padding + words), packed.dtype)
    canvas[:, :height, padding:] = packed
    widened, reach = canvas.ravel(), 0
    dilated = np.zeros_like(widened)
    bars = [(math.isqrt(radius * radius - dy * dy), dy) for dy in range(radius, -1, -1)]
    for half, group in groupby(bars, key=lambda bar: bar[0]):
        while reach < half:
            # A run of 2 * reach + 1 pixels leaves no gap when shifted by at most its own length.
            step = min(half - reach, 2 * reach + 1, _WORD - 1)
            widened = _widen(widened, step)
            reach += step
        for _, dy in group:
            offset = dy * canvas.shape[2]
            dilated[offset:] |= widened[: len(widened) - offset]
            dilated[: len(widened) - offset] |= widened[offset:]
    return dilated.reshape(canvas.shape)[:, :height, padding:]


def _radius(shape: tuple[int, ...], tolerance: float) -> int:
    if tolerance < 0:
        raise UserError(f"tolerance={tolerance}: must not be negative; give a fraction of the diagonal, or pixels")
    return int(np.ceil(tolerance if tolerance >= 1 else tolerance * np.linalg.norm(shape)))


def _contour_accuracy(packed: np.ndarray, shape: tuple[int, int], tolerance: float) -> float:
    """F of two packed masks (2, H, words)."""
    edges = _boundary(packed, shape[1])
    rows, words = (np.flatnonzero((edges[0] | edges[1]).any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return 1.0
    edges = np.ascontiguousarray(edges[:, rows[0] : rows[-1] + 1, words[0] : words[-1] + 1])
    counts = _count(edges[0]), _count(edges[1])
    if 0 in counts:
        return 0.0
    # Only boundary pixels are matched, so nothing outside the bounding box of both boundaries matters.
    near = _dilate(edges, _radius(shape, tolerance))
    return _f1((_count(edges[0] & near[1]), _count(edges[1] & near[0])), counts)


def _f1(matched: tuple[int, int], counts: tuple[int, int]) -> float:
    """F1 of the matched boundary pixels of prediction and truth, with the operation order of the official code."""
    if 0 in counts:
        return float(counts[0] == counts[1])
    precision, recall = matched[0] / counts[0], matched[1] / counts[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _inner_border(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels of a mask (H, W) uint8 of 0 and 1 within `width` steps (8-connected) of the background."""
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    return mask - cv2.erode(mask, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)

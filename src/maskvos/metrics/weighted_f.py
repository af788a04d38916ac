"""Weighted F-measure of saliency maps, the one saliency metric that needs pixel positions and not only histograms."""

from __future__ import annotations

import cv2
import numpy as np

from maskvos.errors import require
from maskvos.metrics.arrays import as_masks
from maskvos.metrics.saliency import EPS, Saliency, as_levels


def weighted_f(prediction: np.ndarray, truth: np.ndarray, minmax: bool = False) -> float:
    """Weighted F-measure (beta = 1): errors weigh more far from the object, and less near correct pixels.

    Arguments and errors as for `Saliency.of`; 0 for an empty ground truth.

    Source: R. Margolin et al., "How to evaluate foreground maps?", CVPR 2014.
    """
    require("scipy", "the weighted F-measure")  # imported here, since other measures do without
    from scipy import ndimage

    saliency = Saliency.of(prediction, truth, minmax)
    foreground = as_masks(truth)[0].view(bool)
    if not foreground.any():
        return 0.0
    error = np.abs(saliency.values[as_levels(prediction)] - foreground)
    distance, (rows, columns) = ndimage.distance_transform_edt(~foreground, return_indices=True)
    # Before smoothing, a background pixel takes the error of the nearest foreground pixel.
    smooth = cv2.filter2D(error[rows, columns], -1, _GAUSSIAN, borderType=cv2.BORDER_CONSTANT)
    error = np.where(foreground & (smooth < error), smooth, error)
    error *= np.where(foreground, 1.0, 2 - np.exp(np.log(0.5) / 5 * distance))
    true, missed = np.count_nonzero(foreground), error[foreground].sum()
    recall = 1 - missed / true
    precision = (true - missed) / (true - missed + error[~foreground].sum() + EPS)
    return float(2 * recall * precision / (recall + precision + EPS))


def _gaussian_kernel(size: int = 7, sigma: float = 5.0) -> np.ndarray:
    axis = np.arange(size) - size // 2
    kernel = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * sigma**2))
    return kernel / kernel.sum()


_GAUSSIAN = _gaussian_kernel()

"""Input validation for the metrics: matching sizes, two axes, masks and object ids as 8-bit arrays."""

from __future__ import annotations

import numpy as np

from maskvos.errors import UserError


def as_masks(*masks: np.ndarray) -> tuple[np.ndarray, ...]:
    """Validate masks of one size and convert them to uint8.

    Args:
        masks: (H, W) bool, or integer where nonzero is foreground.

    Returns:
        The masks as C-contiguous (H, W) uint8 of 0 and 1; bool masks are not copied.

    Raises:
        UserError: Wrong number of axes, empty array, float probabilities, or different sizes.
    """
    checked = _check(masks)
    return tuple((mask if mask.dtype == np.bool_ else mask != 0).view(np.uint8) for mask in checked)


def as_ids(*maps: np.ndarray) -> tuple[np.ndarray, ...]:
    """Validate object id maps (H, W) of one size, ids 0 to 255, and convert them to uint8.

    Raises:
        UserError: As `as_masks`, or an id outside 0..255.
    """
    checked = _check(maps)
    for ids in checked:
        if ids.min() < 0 or ids.max() > 255:
            raise UserError(f"object ids from {ids.min()} to {ids.max()}: ids must be in 0..255; renumber them")
    return tuple(ids.astype(np.uint8, copy=False) for ids in checked)


def check_same_size(prediction: np.ndarray, truth: np.ndarray) -> None:
    """Raise `UserError` unless the two (H, W) arrays have the same size."""
    if prediction.shape != truth.shape:
        sizes = ["x".join(str(side) for side in array.shape) for array in (prediction, truth)]
        raise UserError(
            f"prediction of {sizes[0]}, ground truth of {sizes[1]} (height x width): they must have the same size;"
            " resize the prediction"
        )


def check_axes(values: np.ndarray) -> None:
    """Raise `UserError` unless the array is (H, W) with at least one pixel."""
    if values.ndim != 2 or 0 in values.shape:
        raise UserError(
            f"array of shape {values.shape}: a mask or map must be (height, width), both at least 1; squeeze other axes"
        )


def _check(arrays: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    arrays = tuple(np.asarray(array) for array in arrays)
    for array in arrays:
        check_axes(array)
        check_same_size(array, arrays[-1])
        if array.dtype != np.bool_ and not np.issubdtype(array.dtype, np.integer):
            raise UserError(
                f"mask of type {array.dtype}: a mask must be bool or integer; apply a threshold to probabilities first"
            )
    return [np.ascontiguousarray(array) for array in arrays]

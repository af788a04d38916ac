"""Checks of what the measures are given: same size, two axes, masks and ids as 8-bit arrays."""

from __future__ import annotations

import numpy as np

from maskvos.errors import UserError


def as_masks(*masks: np.ndarray) -> tuple[np.ndarray, ...]:
    """Check masks that belong together.

    Args:
        masks: (H, W) bool, or integers where not 0 is foreground.

    Returns:
        The masks as (H, W) uint8 of 0 and 1, rows one after the other in memory; of bool masks no copy is made.

    Raises:
        UserError: Not two axes, no pixel, probabilities in place of a mask, or different sizes.
    """
    plain = _plain(masks)
    return tuple((mask if mask.dtype == np.bool_ else mask != 0).view(np.uint8) for mask in plain)


def as_ids(*maps: np.ndarray) -> tuple[np.ndarray, ...]:
    """Check maps of object ids (H, W), 0 to 255, that belong together, and return them as uint8.

    Raises:
        UserError: As `as_masks`, or an id outside 0..255.
    """
    plain = _plain(maps)
    for ids in plain:
        if ids.min() < 0 or ids.max() > 255:
            raise UserError(f"object ids from {ids.min()} to {ids.max()}: ids lie in 0..255; renumber them")
    return tuple(ids.astype(np.uint8, copy=False) for ids in plain)


def check_same_size(prediction: np.ndarray, truth: np.ndarray) -> None:
    """Raise `UserError` unless the two (H, W) arrays have one size."""
    if prediction.shape != truth.shape:
        sizes = ["x".join(str(side) for side in array.shape) for array in (prediction, truth)]
        raise UserError(
            f"prediction of {sizes[0]} against a truth of {sizes[1]} (height x width): both must have one size;"
            " resize the prediction to the truth's"
        )


def check_axes(values: np.ndarray) -> None:
    """Raise `UserError` unless the array is (H, W) with at least one pixel."""
    if values.ndim != 2 or 0 in values.shape:
        raise UserError(
            f"array of shape {values.shape}: a mask or map is (height, width), both at least 1; remove other axes first"
        )


def _plain(arrays: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    arrays = tuple(np.asarray(array) for array in arrays)
    for array in arrays:
        check_axes(array)
        check_same_size(array, arrays[-1])
        if array.dtype != np.bool_ and not np.issubdtype(array.dtype, np.integer):
            raise UserError(
                f"mask of type {array.dtype}: a mask is bool or integer; compare probabilities with a threshold first"
            )
    return [np.ascontiguousarray(array) for array in arrays]

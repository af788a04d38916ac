"""Soft edges: opacity that follows the picture, and the object's own colours where it is half transparent."""

from __future__ import annotations

import math

import cv2
import numpy as np

HALF = 127
"""What is more opaque belongs to the object."""

# Half the width of the band around a mask's edge, as a share of the frame's diagonal: 8 pixels at 854x480. Networks see
# frames at half that size or less, so that their edges are wrong by some pixels.
_BAND = 0.008
# Regularisation of the guided filter for colours in [0, 1]: contrast well below its root, 0.01, is no edge.
_FLAT = 1e-4
# The filter's ramps are wider than edges are in pictures.
_STEEPNESS = 1.5


def soft_alpha(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Opacity of an object whose edge follows the picture at full resolution.

    In a band around the mask's edge, the mask is filtered with the frame as guide: "Guided Image Filtering", He et al.,
    TPAMI 2013, for colour guides, with coefficients at a lower resolution as in "Fast Guided Filter", He and Sun, 2015.
    Farther away, the mask is unchanged.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool.

    Returns:
        (H, W) uint8, 0 background to 255 object.

    Raises:
        ValueError: Image and mask differ in size.
    """
    if image.shape[:2] != mask.shape:
        raise ValueError(f"image of size {image.shape[:2]}, but mask of size {mask.shape}")
    alpha = np.where(mask, np.uint8(255), np.uint8(0))
    radius = _radius(mask.shape)
    box = _around(alpha, 3 * radius, _step(radius))
    if box is None:
        return alpha
    guide, hard = image[box], alpha[box]
    coefficients = _guided_filter(
        _small(guide, radius) / 255, _small(hard, radius) / 255, round(radius / _step(radius))
    )
    band = np.flatnonzero(cv2.morphologyEx(hard, cv2.MORPH_GRADIENT, _square(radius)))
    fitted = _large(coefficients, hard.shape)[band]
    soft = np.einsum("nc,nc->n", fitted[:, :3], guide.reshape(-1, 3)[band]) + 255 * fitted[:, 3]
    edge = hard.ravel()
    edge[band] = np.clip(_STEEPNESS * (soft - 127.5) + 128, 0, 255).astype(np.uint8)
    alpha[box] = edge.reshape(hard.shape)
    return alpha


def _guided_filter(guide: np.ndarray, target: np.ndarray, radius: int) -> np.ndarray:
    """Coefficients (h, w, 4) of the linear function of the colour that fits a target around each pixel.

    Args:
        guide: (h, w, 3) float32 in [0, 1].
        target: (h, w) float32 in [0, 1].
        radius: Of the window, pixels.
    """

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (2 * radius + 1, 2 * radius + 1))

    colour, level = mean(guide), mean(target)
    shared = mean(guide * target[..., None]) - colour * level[..., None]
    rows = [mean(guide * guide[..., c, None]) - colour * colour[..., c, None] for c in range(3)]
    for c, row in enumerate(rows):
        row[..., c] += _FLAT
    # Cramer's rule for a symmetric matrix: columns of its inverse are cross products of its rows.
    columns = [np.cross(rows[1], rows[2]), np.cross(rows[2], rows[0]), np.cross(rows[0], rows[1])]
    solved = np.einsum("chwd,hwc->hwd", np.stack(columns), shared)
    slope = solved / np.einsum("hwc,hwc->hw", rows[0], columns[0])[..., None]
    offset = level - np.einsum("hwc,hwc->hw", slope, colour)
    return mean(np.dstack([slope, offset]))


def foreground(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The object's own colours, without those of the background that shine through where it is half transparent.

    "Approximate Fast Foreground Colour Estimation", Forte, ICIP 2021: from local means of foreground and background,
    in which pixels count the more the surer they are.

    Args:
        image: (H, W, 3) uint8 RGB.
        alpha: (H, W) uint8, 0 background to 255 object.

    Returns:
        (H, W, 3) uint8 RGB; the frame, but near partial opacity the object's colours, which reach beyond its edge.
    """
    radius = _radius(alpha.shape)
    partial = cv2.inRange(alpha, 1, 254)
    box = _around(partial, 3 * radius, _step(radius))
    if box is None:
        return image
    part, opacity = image[box], alpha[box]
    colour, share = _small(part, radius), _small(opacity, radius)[..., None] / 255
    near = np.flatnonzero(cv2.bitwise_and(cv2.dilate(partial[box], _square(radius)), cv2.inRange(opacity, 0, 254)))
    inside, outside = (
        _large(_weighted_mean(colour, weight, radius), opacity.shape)[near] for weight in (share**4, (1 - share) ** 4)
    )
    a = opacity.reshape(-1, 1)[near] / np.float32(255)
    colours = part.reshape(-1, 3)
    found = inside + a * (colours[near] - a * inside - (1 - a) * outside)
    colours = colours.copy()
    colours[near] = np.clip(found + 0.5, 0, 255).astype(np.uint8)
    result = image.copy()
    result[box] = colours.reshape(part.shape)
    return result


def _weighted_mean(values: np.ndarray, weight: np.ndarray, radius: int) -> np.ndarray:
    """Means over windows of twice the radius, at the lower resolution."""
    side = 4 * (radius // _step(radius)) + 1
    total = cv2.blur(weight, (side, side))[..., None]
    return cv2.blur(values * weight, (side, side)) / np.maximum(total, 1e-6)


def _radius(shape: tuple[int, ...]) -> int:
    """Half the width of the band, pixels."""
    return max(round(_BAND * math.hypot(*shape)), 2)


def _step(radius: int) -> int:
    """Pixels along a side of a pixel of the lower resolution."""
    return max(radius // 2, 1)


def _around(mask: np.ndarray, margin: int, step: int) -> tuple[slice, slice] | None:
    """The box around what is not zero, on a grid of ``step`` pixels, so that it does not jitter in time."""
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return None
    low = [max(start - margin, 0) // step * step for start in (top, left)]
    high = [-(-(end + margin) // step) * step for end in (top + height, left + width)]
    return slice(low[0], min(high[0], mask.shape[0])), slice(low[1], min(high[1], mask.shape[1]))


def _square(radius: int) -> np.ndarray:
    return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)


def _small(values: np.ndarray, radius: int) -> np.ndarray:
    """At the lower resolution, float32."""
    step = _step(radius)
    size = (-(-values.shape[1] // step), -(-values.shape[0] // step))
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _large(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(h, w, C) at full resolution, a row for each pixel."""
    large = cv2.resize(values, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return large.reshape(-1, values.shape[-1])

"""Visualise masks with NumPy and OpenCV: overlays, error maps, cutouts, side-by-side frames, contact sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

Colour = tuple[int, int, int]

RED: Colour = (235, 50, 60)
GREEN: Colour = (0, 255, 0)
# From the Okabe-Ito palette, which is safe for colour-blind readers.
FALSE_POSITIVE: Colour = (213, 94, 0)
FALSE_NEGATIVE: Colour = (0, 114, 178)
TRUTH: Colour = (255, 255, 255)


def draw_overlay(
    image: np.ndarray,
    mask: np.ndarray,
    colour: Colour = RED,
    opacity: float = 0.45,
    outline: int = 2,
    outline_colour: Colour | None = None,
) -> np.ndarray:
    """Tint the masked object and draw its outline.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, or numbers where positive values are the object.
        colour: RGB of the tint, 0 to 255.
        opacity: Opacity of the tint, 0 to 1.
        outline: Line width of the outline in pixels; 0 for no outline.
        outline_colour: RGB of the outline; `colour` if None.

    Returns:
        A new (H, W, 3) uint8 RGB image.

    Raises:
        ValueError: Image and mask differ in size.
    """
    drawn = _tinted(image, mask, colour, opacity)
    if outline > 0:
        _outline(drawn, mask, colour if outline_colour is None else outline_colour, outline)
    return drawn


def draw_errors(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Draw an error map: `FALSE_POSITIVE` and `FALSE_NEGATIVE` tints, and the ground truth outlined in `TRUTH`.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) bool.
        prediction: (H, W) bool.

    Returns:
        A new (H, W, 3) uint8 RGB image.

    Raises:
        ValueError: Image and masks differ in size.
    """
    drawn = _tinted(image, prediction & ~truth, FALSE_POSITIVE, 0.65)
    drawn = _tinted(drawn, truth & ~prediction, FALSE_NEGATIVE, 0.65)
    width = max(1, round(min(image.shape[:2]) / 400))
    # A translucent dark rim keeps the white line visible on a white background.
    rimmed = drawn.copy()
    _outline(rimmed, truth, (0, 0, 0), 3 * width)
    drawn = cv2.addWeighted(drawn, 0.4, rimmed, 0.6, 0)
    _outline(drawn, truth, TRUTH, width)
    return drawn


def _tinted(image: np.ndarray, mask: np.ndarray, colour: Colour, opacity: float) -> np.ndarray:
    """A copy of the image with a colour blended in under the mask."""
    if image.shape[:2] != mask.shape:
        raise ValueError(f"image of size {image.shape[:2]}, but mask of size {mask.shape}")
    drawn = image.copy()
    inside = (mask > 0).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(inside)
    if width:
        box = np.s_[top : top + height, left : left + width]
        tint = np.full_like(image[box], colour)
        cv2.copyTo(cv2.addWeighted(image[box], 1 - opacity, tint, opacity, 0), inside[box], drawn[box])
    return drawn


def _outline(image: np.ndarray, mask: np.ndarray, colour: Colour, width: int) -> None:
    """Draw the contours of a mask, including those of its holes, in place."""
    contours, _ = cv2.findContours((mask > 0).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, colour, width, cv2.LINE_AA)


def side_by_side(images: Sequence[np.ndarray], max_width: int = 3840) -> np.ndarray:
    """Join images of one size horizontally, with a thin black gap between them.

    Args:
        images: Each (H, W, 3) uint8 RGB, or an (H, W) mask (bool, or float in [0, 1]).
        max_width: Pixels; a wider row is scaled down, since players and browsers limit the width of a video.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = images[0].shape[:2]
    gap = 4
    ratio = min(1.0, (max_width - gap * (len(images) - 1)) / (width * len(images)))
    high, wide = max(1, round(height * ratio)), max(1, int(width * ratio))
    row = np.zeros((high, len(images) * (wide + gap) - gap, 3), np.uint8)
    for index, image in enumerate(images):
        left = index * (wide + gap)
        row[:, left : left + wide] = _resized(_rgb(image), (high, wide))
    return row


def draw_cutout(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Cut the object out on a transparent background.

    Args:
        image: (H, W, 3) uint8 RGB.
        alpha: (H, W) uint8, 0 background to 255 object.

    Returns:
        (H, W, 4) uint8 RGBA, straight alpha; the background is black with zero alpha.
    """
    return cv2.merge([*cv2.split(cv2.bitwise_and(image, image, mask=alpha)), alpha])


def draw_fill(image: np.ndarray, alpha: np.ndarray, margin: int = 8) -> np.ndarray:
    """Cut the object out with straight alpha, as editors expect it: its colours reach beyond its edge.

    Where a codec mixes neighbouring pixels, no background shows at the edge, and no black.

    Args:
        image: (H, W, 3) uint8 RGB.
        alpha: (H, W) uint8, 0 background to 255 object.
        margin: How far the colours reach, pixels.

    Returns:
        (H, W, 4) uint8 RGBA; farther outside black, with zero alpha.
    """
    near = cv2.dilate(alpha, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))
    return cv2.merge([*cv2.split(cv2.bitwise_and(image, image, mask=near)), alpha])


def draw_background(image: np.ndarray, alpha: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The object on another background.

    Args:
        image: (H, W, 3) uint8 RGB.
        alpha: (H, W) uint8, 0 background to 255 object.
        background: (H, W, 3) uint8 RGB.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    weight = alpha * np.float32(1 / 255)
    return cv2.blendLinear(image, background, weight, 1 - weight)


def draw_label(image: np.ndarray, text: str) -> np.ndarray:
    """Draw a short text on a black box in the upper left corner.

    Args:
        image: (H, W, 3) uint8 RGB.
        text: One line; characters outside the font (ASCII) appear as question marks.

    Returns:
        A new (H, W, 3) uint8 RGB image.
    """
    drawn = image.copy()
    size = max(min(image.shape[0] / 260, image.shape[1] / (11 * max(len(text), 10))), 0.25)
    (width, height), descent = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    cv2.rectangle(drawn, (0, 0), (width + 5, height + descent + 3), (0, 0, 0), -1)
    cv2.putText(drawn, text, (2, height + 2), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA)
    return drawn


def contact_sheet(rows: Sequence[Mapping[str, np.ndarray | None]], height: int | None = None) -> np.ndarray:
    """Arrange images in a grid: one row per mapping, one labelled column per key.

    Args:
        rows: Each maps column names ("frame", "flow", "prediction", "truth", ...) to an (H, W, 3) uint8 RGB image,
            an (H, W) mask (bool, or float in [0, 1]), or None for a missing image. The columns are the keys of all
            rows in order of appearance.
        height: Row height in pixels; None takes the height of the first image.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The rows contain no image.
    """
    images = [image for row in rows for image in row.values() if image is not None]
    if not images:
        raise ValueError("a contact sheet needs at least one image")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    high = height or images[0].shape[0]
    wide = max(round(image.shape[1] * high / image.shape[0]) for image in images)
    gap = 2
    sheet = np.full((len(rows) * (high + gap) - gap, len(columns) * (wide + gap) - gap, 3), 255, np.uint8)
    for down, row in enumerate(rows):
        for across, name in enumerate(columns):
            image = row.get(name)
            tile = _tile(image, high) if image is not None else np.full((high, wide, 3), 60, np.uint8)
            tile = draw_label(tile, name if image is not None else f"no {name}")
            top, left = down * (high + gap), across * (wide + gap)
            sheet[top : top + high, left : left + tile.shape[1]] = tile
    return sheet


def _tile(image: np.ndarray, height: int) -> np.ndarray:
    """An image or mask as RGB, scaled to a height."""
    return _resized(_rgb(image), (height, max(round(image.shape[1] * height / image.shape[0]), 1)))


def _rgb(image: np.ndarray) -> np.ndarray:
    """An RGB image unchanged; a mask, (H, W) bool or float in [0, 1], as greyscale RGB."""
    if image.ndim == 3:
        return image
    grey = (np.clip(image.astype(np.float32), 0, 1) * 255).round().astype(np.uint8)
    return cv2.merge([grey, grey, grey])


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image resized to (height, width): area interpolation to shrink, bilinear to enlarge."""
    if image.shape[:2] == size:
        return image
    smaller = size[0] < image.shape[0]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)

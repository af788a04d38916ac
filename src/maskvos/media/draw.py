"""Pictures for people: masks over frames, objects cut out, sheets that compare. NumPy and OpenCV only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

Colour = tuple[int, int, int]

RED: Colour = (235, 50, 60)
# Of Okabe and Ito's palette, whose colours people with any colour vision tell apart.
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
    """Tint the object and draw its outline.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, or numbers of which positive ones are the object.
        colour: RGB, 0 to 255.
        opacity: Of the tint, 0 to 1.
        outline: Width of the line around the object in pixels; 0 for none.
        outline_colour: RGB of that line; None: that of the tint.

    Returns:
        A new (H, W, 3) uint8 RGB.

    Raises:
        ValueError: Image and mask are of different sizes.
    """
    drawn = _tinted(image, mask, colour, opacity)
    if outline > 0:
        _outline(drawn, mask, colour if outline_colour is None else outline_colour, outline)
    return drawn


def draw_errors(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Show where a prediction is wrong: `FALSE_POSITIVE` and `FALSE_NEGATIVE` tinted, the truth outlined in `TRUTH`.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) bool.
        prediction: (H, W) bool.

    Returns:
        A new (H, W, 3) uint8 RGB.

    Raises:
        ValueError: Image and masks are of different sizes.
    """
    drawn = _tinted(image, prediction & ~truth, FALSE_POSITIVE, 0.65)
    drawn = _tinted(drawn, truth & ~prediction, FALSE_NEGATIVE, 0.65)
    width = max(1, round(min(image.shape[:2]) / 400))
    # A dark rim keeps the white line visible on white ground; the picture shines through it.
    rimmed = drawn.copy()
    _outline(rimmed, truth, (0, 0, 0), 3 * width)
    drawn = cv2.addWeighted(drawn, 0.4, rimmed, 0.6, 0)
    _outline(drawn, truth, TRUTH, width)
    return drawn


def _tinted(image: np.ndarray, mask: np.ndarray, colour: Colour, opacity: float) -> np.ndarray:
    """A copy of the image with a colour laid over the mask."""
    if image.shape[:2] != mask.shape:
        raise ValueError(f"an image of {image.shape[:2]} and a mask of {mask.shape}")
    tint = np.empty_like(image)
    tint[:] = colour
    drawn = image.copy()
    cv2.copyTo(cv2.addWeighted(image, 1 - opacity, tint, opacity, 0), (mask > 0).astype(np.uint8), drawn)
    return drawn


def _outline(image: np.ndarray, mask: np.ndarray, colour: Colour, width: int) -> None:
    """Draw a line around a mask, holes included, into an image."""
    contours, _ = cv2.findContours((mask > 0).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, colour, width, cv2.LINE_AA)


def side_by_side(pictures: Sequence[np.ndarray], widest: int = 3840) -> np.ndarray:
    """Pictures of one size in a row, with a thin black line between them.

    Args:
        pictures: Each (H, W, 3) uint8 RGB, or an (H, W) mask (bool, or numbers from 0 to 1).
        widest: Pixels: a wider row is made smaller, since players and browsers decode no movie of any width.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = pictures[0].shape[:2]
    gap = 4
    share = min(1.0, (widest - gap * (len(pictures) - 1)) / (width * len(pictures)))
    high, wide = max(1, round(height * share)), max(1, int(width * share))
    row = np.zeros((high, len(pictures) * (wide + gap) - gap, 3), np.uint8)
    for index, picture in enumerate(pictures):
        left = index * (wide + gap)
        row[:, left : left + wide] = _resized(_rgb(picture), (high, wide))
    return row


def draw_cutout(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The object alone, on nothing.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool.

    Returns:
        (H, W, 4) uint8 RGBA; what is not the object is black and transparent.
    """
    alpha = (mask > 0).astype(np.uint8) * 255
    return cv2.merge([*cv2.split(cv2.bitwise_and(image, image, mask=alpha)), alpha])


def draw_label(image: np.ndarray, text: str) -> np.ndarray:
    """Write a short text into the upper left corner, readable on any ground.

    Args:
        image: (H, W, 3) uint8 RGB.
        text: One line; what the font does not have is shown as question marks.

    Returns:
        A new (H, W, 3) uint8 RGB.
    """
    drawn = image.copy()
    size = max(min(image.shape[0] / 260, image.shape[1] / (11 * max(len(text), 10))), 0.25)
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    cv2.rectangle(drawn, (0, 0), (width + 5, height + below + 3), (0, 0, 0), -1)
    place = (2, height + 2)
    cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA)
    return drawn


def contact_sheet(rows: Sequence[Mapping[str, np.ndarray | None]], height: int | None = None) -> np.ndarray:
    """Pictures in a grid, one row per mapping and one labelled column per key.

    Args:
        rows: Each maps column names ("frame", "flow", "prediction", "truth", ...) to an (H, W, 3) uint8 RGB picture,
            an (H, W) mask (bool, or numbers from 0 to 1), or None where there is none. Columns are the keys of all
            rows in order of appearance.
        height: Height of a row in pixels; that of the first picture when not told.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: There is no picture at all.
    """
    pictures = [picture for row in rows for picture in row.values() if picture is not None]
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    high = height or pictures[0].shape[0]
    wide = max(round(picture.shape[1] * high / picture.shape[0]) for picture in pictures)
    gap = 2
    sheet = np.full((len(rows) * (high + gap) - gap, len(columns) * (wide + gap) - gap, 3), 255, np.uint8)
    for down, row in enumerate(rows):
        for across, name in enumerate(columns):
            picture = row.get(name)
            tile = _tile(picture, high) if picture is not None else np.full((high, wide, 3), 60, np.uint8)
            tile = draw_label(tile, name if picture is not None else f"no {name}")
            top, left = down * (high + gap), across * (wide + gap)
            sheet[top : top + high, left : left + tile.shape[1]] = tile
    return sheet


def _tile(picture: np.ndarray, height: int) -> np.ndarray:
    """A picture or mask as RGB of a height."""
    return _resized(_rgb(picture), (height, max(round(picture.shape[1] * height / picture.shape[0]), 1)))


def _rgb(picture: np.ndarray) -> np.ndarray:
    """A picture as it is; a mask, (H, W) bool or numbers from 0 to 1, in grey."""
    if picture.ndim == 3:
        return picture
    grey = (np.clip(picture.astype(np.float32), 0, 1) * 255).round().astype(np.uint8)
    return cv2.merge([grey, grey, grey])


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture of another height and width; averaged where it shrinks."""
    if picture.shape[:2] == size:
        return picture
    smaller = size[0] < picture.shape[0]
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)

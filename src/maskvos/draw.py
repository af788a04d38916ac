"""Pictures for people: masks over frames, objects cut out, sheets that compare. NumPy and OpenCV only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

Colour = tuple[int, int, int]

RED: Colour = (235, 50, 60)


def draw_overlay(
    image: np.ndarray, mask: np.ndarray, colour: Colour = RED, opacity: float = 0.45, outline: int = 2
) -> np.ndarray:
    """Tint the object and draw its outline.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, or numbers of which positive ones are the object.
        colour: RGB, 0 to 255.
        opacity: Of the tint, 0 to 1.
        outline: Width of the line around the object in pixels; 0 for none.

    Returns:
        A new (H, W, 3) uint8 RGB.

    Raises:
        ValueError: Image and mask are of different sizes.
    """
    if image.shape[:2] != mask.shape:
        raise ValueError(f"an image of {image.shape[:2]} and a mask of {mask.shape}")
    solid = (mask > 0).astype(np.uint8)
    tint = np.empty_like(image)
    tint[:] = colour
    drawn = image.copy()
    cv2.copyTo(cv2.addWeighted(image, 1 - opacity, tint, opacity, 0), solid, drawn)
    if outline > 0:
        contours, _ = cv2.findContours(solid, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, contours, -1, colour, outline, cv2.LINE_AA)
    return drawn


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
    if picture.ndim == 2:
        grey = (np.clip(picture.astype(np.float32), 0, 1) * 255).round().astype(np.uint8)
        picture = cv2.merge([grey, grey, grey])
    if picture.shape[0] == height:
        return picture
    width = max(round(picture.shape[1] * height / picture.shape[0]), 1)
    smaller = height < picture.shape[0]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)

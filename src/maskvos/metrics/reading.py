"""Masks and soft maps from image files, without losing object labels; fast for grey PNG, which most files are."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from maskvos.errors import UserError

SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".gif", ".jpg", ".jpeg")
"""Image files that may hold masks, the preferred first."""

Kind = Literal["labels", "levels", "colours"]
_PNG = b"\x89PNG\r\n\x1a\n"
_PALETTE = 3
_GREY_RAMP = [level for index in range(256) for level in (index, index, index)]


@dataclass(frozen=True)
class Picture:
    """A mask file as it was read.

    Attributes:
        values: (H, W) uint8: object labels (``labels``), grey levels (``levels``), or 1 where a colour is not black
            (``colours``).
        kind: Which of these. A two-colour file has levels 0 and 255.
    """

    values: np.ndarray
    kind: Kind


def read_picture(path: Path) -> Picture:
    """Read a mask of whatever image format.

    A palette file holds labels, unless its palette is the grey ramp. 16-bit levels are rounded to 8 bits, an alpha
    channel is left out, and colours that are all grey are levels.

    Raises:
        UserError: The file is missing, or not a whole image.
    """
    values = read_values(path)
    if isinstance(values, Image.Image):
        palette = values.getpalette() or []
        ramp = palette == _GREY_RAMP[: len(palette)]
        return Picture(np.asarray(values, np.uint8), "levels" if ramp else "labels")
    if values.dtype == np.bool_:
        return Picture(values.astype(np.uint8) * 255, "levels")
    if values.dtype == np.uint16:
        values = np.rint(values / 257).astype(np.uint8)
    if values.dtype != np.uint8:
        raise UserError(
            f"{path}: it has pixels of type {values.dtype}; save masks as palette, 8-bit or 16-bit grey PNG"
        )
    if values.ndim == 2:
        return Picture(values, "levels")
    if (values == values[..., :1]).all():
        return Picture(np.ascontiguousarray(values[..., 0]), "levels")
    return Picture((values.max(axis=2) > 0).astype(np.uint8), "colours")


def read_truth(path: Path, above: int = 0) -> np.ndarray:
    """Read a ground truth as (H, W) uint8 ids; 0 where the value is not above `above`, and the value elsewhere.

    With ``above`` > 0 a palette counts as a way to store grey levels.

    Raises:
        UserError: The file is missing, or not a whole image.
    """
    values = read_values(path)
    if isinstance(values, Image.Image):
        values = np.asarray(values.convert("L") if above else values)
    if values.ndim == 3:
        values = values.max(axis=2)
    if values.dtype != np.uint8:
        return (values > above).astype(np.uint8)
    return np.where(values > above, values, np.uint8(0)) if above else values


def read_values(path: Path) -> np.ndarray | Image.Image:
    """An image file's values: an array, or the image itself where values are indices of a palette.

    Raises:
        UserError: The file is missing, or not a whole image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: it cannot be read ({error.strerror}); check that it exists and who may read it"
        ) from error
    is_png = data.startswith(_PNG) and len(data) > 25
    if is_png and data[25] != _PALETTE:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if values is not None:
            return values[..., :3] if values.ndim == 3 else values
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.mode == "P":
                return image
            if image.mode in ("LA", "RGBA", "PA", "CMYK", "YCbCr"):
                return np.asarray(image.convert("L" if image.mode == "LA" else "RGB"))
            return np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: it is no whole image ({error}); write it again") from error


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image, from its head."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path}: its size cannot be read ({error}); check the dataset") from error

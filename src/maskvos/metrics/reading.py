"""Masks and soft maps from image files, without losing object labels; fast for grey PNG, which most files are."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from maskvos.errors import UserError

if TYPE_CHECKING:
    from maskvos.types import MaskRule

SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".gif", ".jpg", ".jpeg")
"""Image files that may hold masks, the preferred first."""

Kind = Literal["labels", "levels", "colours"]
_PNG = b"\x89PNG\r\n\x1a\n"
_PIXEL = slice(24, 26)  # where the head of a PNG file says how many bits there are of what
_PLAIN = (b"\x08\x00", b"\x10\x00", b"\x08\x02", b"\x10\x02")  # 8 or 16 bits of grey or RGB
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


def read_truth(path: Path, rule: MaskRule) -> np.ndarray:
    """Read a ground truth.

    Args:
        path: An image: palette indices, grey levels or colours.
        rule: How its values are to be understood.

    Returns:
        (H, W) uint8, 0 where there is background: the object ids where the file holds them, else 1.

    Raises:
        UserError: The file is missing, or not a whole image.
    """
    values = read_values(path)
    if isinstance(values, Image.Image):
        palette = np.array(values.getpalette(), np.uint8).reshape(-1, 3)
        grey = (palette == palette[:, :1]).all()
        if not rule.above or (not grey and not rule.background):
            values = np.asarray(values)
            return values if not rule.background else _is_none_of(values, rule.background)
        values = np.asarray(values.convert("L") if grey else values)
    if rule.background:
        return _is_none_of(values, rule.background)
    if values.dtype == np.uint8 and values.ndim == 2 and not rule.above:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    levels = values if values.ndim == 2 else values.max(axis=2)
    return (levels > rule.above).astype(np.uint8)


def _is_none_of(values: np.ndarray, background: tuple[int, ...]) -> np.ndarray:
    """(H, W) uint8, 1 where a value, or the number 65536 R + 256 G + B of a colour, is not in `background`."""
    if values.ndim == 3:
        values = values.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    return (~np.isin(values, background)).astype(np.uint8)


def read_values(path: Path) -> np.ndarray | Image.Image:
    """An image file's values: (H, W) or (H, W, 3) RGB, or the image itself where they are indices of a palette.

    Raises:
        UserError: The file is missing, or not a whole image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: it cannot be read ({error.strerror}); check that it exists and who may read it"
        ) from error
    if data.startswith(_PNG) and data[_PIXEL] in _PLAIN:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if values is not None:
            return values if values.ndim == 2 else np.ascontiguousarray(values[..., ::-1])
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.mode == "P":
                return image
            if image.mode in ("LA", "RGBA", "PA", "CMYK", "YCbCr"):
                return np.asarray(image.convert("L" if image.mode == "LA" else "RGB"))
            return np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: it is no whole image; write it, or download it, again") from error


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image, from its head."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path}: its size cannot be read ({error}); check the dataset") from error

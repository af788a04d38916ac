"""Masks and soft maps from image files, without losing object labels; fast for PNG, which most files are."""

from __future__ import annotations

import io
import struct
import zlib
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
_TWO_COLOURS = b"\x01\x00"  # 1 bit of grey
_INDEXED = b"\x08\x03"  # 8 bits of an index into a palette


@dataclass(frozen=True)
class Indexed:
    """An image of indices into a palette, as most mask files are.

    Attributes:
        values: (H, W) uint8.
        palette: (N, 3) uint8, RGB; not every index need have a colour.
    """

    values: np.ndarray
    palette: np.ndarray


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
    if isinstance(values, Indexed):
        ramp = (values.palette == np.arange(len(values.palette))[:, None]).all()
        return Picture(values.values, "levels" if ramp else "labels")
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
    if isinstance(values, Indexed):
        grey = (values.palette == values.palette[:, :1]).all()
        if not rule.above or (not grey and not rule.background):
            return values.values if not rule.background else _is_none_of(values.values, rule.background)
        values = values.palette[values.values, 0] if grey else values.values
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


def read_values(path: Path) -> np.ndarray | Indexed:
    """An image file's values: (H, W) or (H, W, 3) RGB, or indices with their palette.

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
    if data.startswith(_PNG) and data[_PIXEL] == _TWO_COLOURS:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        if values is not None:
            return values != 0
    if data.startswith(_PNG) and data[_PIXEL] == _INDEXED and (indexed := _decode_indexed(data)):
        return indexed
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.mode == "P":
                palette = np.array(image.getpalette() or [], np.uint8).reshape(-1, 3)
                return Indexed(np.asarray(image, np.uint8), palette)
            if image.mode in ("LA", "RGBA", "PA", "CMYK", "YCbCr"):
                return np.asarray(image.convert("L" if image.mode == "LA" else "RGB"))
            return np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: it is no whole image; write it, or download it, again") from error


def _decode_indexed(data: bytes) -> Indexed | None:
    """Decode a PNG of 8-bit indices, or None where it is not whole.

    The pixels of such a file are stored as those of a grey one, so a copy whose head says grey makes OpenCV decode
    indices. It does so without Python's lock, which Pillow holds for a third of the time.
    """
    palette, kept, position = b"", [_PNG], len(_PNG)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        chunk = data[position : position + length + 12]
        if kind == b"IHDR":
            head = chunk[4:17] + b"\x00" + chunk[18:21]  # the 10th byte of its content is the colour type
            kept.append(chunk[:4] + head + struct.pack(">I", zlib.crc32(head)))
        elif kind == b"PLTE":
            palette = chunk[8:-4]
        elif kind in (b"IDAT", b"IEND"):
            kept.append(chunk)
        position += length + 12
    values = cv2.imdecode(np.frombuffer(b"".join(kept), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 2 or len(palette) % 3:
        return None
    return Indexed(values, np.frombuffer(palette, np.uint8).reshape(-1, 3))


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image, from its head."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path}: its size cannot be read ({error}); check the dataset") from error

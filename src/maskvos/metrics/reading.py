"""Read masks and soft maps from image files, preserving object ids; with a fast path for PNG."""

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
from maskvos.media.files import read_file
from maskvos.media.images import check_content, decode_image

if TYPE_CHECKING:
    from maskvos.types import MaskRule

SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".gif", ".jpg", ".jpeg")
"""Image extensions of mask files, in order of preference."""

Kind = Literal["labels", "levels", "colours"]
_PNG = b"\x89PNG\r\n\x1a\n"
_PIXEL = slice(24, 26)  # bit depth and colour type in the header of a PNG file
_PLAIN = (b"\x08\x00", b"\x10\x00", b"\x08\x02", b"\x10\x02")  # 8-bit or 16-bit greyscale or RGB
_BINARY = b"\x01\x00"  # 1-bit greyscale
_INDEXED = b"\x08\x03"  # 8-bit palette


@dataclass(frozen=True)
class Indexed:
    """A palette image, the format of most mask files.

    Attributes:
        values: (H, W) uint8 palette indices.
        palette: (N, 3) uint8 RGB; may have fewer colours than there are indices.
    """

    values: np.ndarray
    palette: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """A predicted mask or soft map.

    Attributes:
        values: (H, W) uint8: object ids (``labels``), grey levels (``levels``), or 1 where the pixel is not black
            (``colours``).
        kind: Which of these. A 1-bit image has levels 0 and 255.
    """

    values: np.ndarray
    kind: Kind


def read_prediction(path: Path) -> Prediction:
    """Read a predicted mask or soft map from any image format.

    A palette image holds object ids, unless its palette is a grey ramp. 16-bit levels are rounded to 8 bits, alpha is
    ignored, and a colour image with grey pixels only is read as levels.

    Raises:
        UserError: The file is missing or corrupt.
    """
    values = read_values(path)
    if isinstance(values, Indexed):
        ramp = (values.palette == np.arange(len(values.palette))[:, None]).all()
        return Prediction(values.values, "levels" if ramp else "labels")
    if values.dtype == np.bool_:
        return Prediction(values.astype(np.uint8) * 255, "levels")
    if values.dtype == np.uint16:
        values = np.rint(values / 257).astype(np.uint8)
    if values.dtype != np.uint8:
        raise UserError(
            f"{path}: unsupported pixel type {values.dtype}; save masks as palette, 8-bit or 16-bit greyscale PNG"
        )
    if values.ndim == 2:
        return Prediction(values, "levels")
    if (values == values[..., :1]).all():
        return Prediction(np.ascontiguousarray(values[..., 0]), "levels")
    return Prediction((values.max(axis=2) > 0).astype(np.uint8), "colours")


def read_truth(path: Path, rule: MaskRule) -> np.ndarray:
    """Read a ground-truth mask.

    Args:
        path: A palette, greyscale or colour image.
        rule: Which values are foreground.

    Returns:
        (H, W) uint8, 0 for background, and the object id (1 if the file has none) for foreground.

    Raises:
        UserError: The file is missing or corrupt.
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
    """(H, W) uint8, 1 where a value (of a colour, 65536 R + 256 G + B) is not in `background`."""
    if values.ndim == 3:
        values = values.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    return (~np.isin(values, background)).astype(np.uint8)


def read_values(path: Path) -> np.ndarray | Indexed:
    """Read the pixel values of an image: (H, W), (H, W, 3) RGB, or palette indices with their palette.

    Raises:
        UserError: The file is missing, damaged, or would fill the memory.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); check that it exists and its permissions"
        ) from error
    check_content(path, data)
    if data.startswith(_PNG) and data[_PIXEL] in _PLAIN:
        values = decode_image(data, cv2.IMREAD_UNCHANGED)
        if values is not None:
            return values if values.ndim == 2 else np.ascontiguousarray(values[..., ::-1])
    if data.startswith(_PNG) and data[_PIXEL] == _BINARY:
        values = decode_image(data, cv2.IMREAD_GRAYSCALE)
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
        raise UserError(f"{path}: not a complete image; save or download it again") from error


def _decode_indexed(data: bytes) -> Indexed | None:
    """Decode an 8-bit palette PNG, or return None if it is corrupt.

    Palette indices are stored like grey levels, so OpenCV decodes the indices from a copy whose header says greyscale.
    Unlike Pillow, OpenCV releases the GIL while decoding.
    """
    palette, kept, position = b"", [_PNG], len(_PNG)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        chunk = data[position : position + length + 12]
        if kind == b"IHDR":
            header = chunk[4:17] + b"\x00" + chunk[18:21]  # the 10th byte of its content is the colour type
            kept.append(chunk[:4] + header + struct.pack(">I", zlib.crc32(header)))
        elif kind == b"PLTE":
            palette = chunk[8:-4]
        elif kind in (b"IDAT", b"IEND"):
            kept.append(chunk)
        position += length + 12
    values = decode_image(b"".join(kept), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 2 or len(palette) % 3:
        return None
    return Indexed(values, np.frombuffer(palette, np.uint8).reshape(-1, 3))


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image, from its header.

    Raises:
        UserError: The file is missing, damaged, or would fill the memory.
    """
    try:
        data = read_file(path)
        check_content(path, data)
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{path}: its size cannot be read ({error}); check the dataset") from error

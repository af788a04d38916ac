"""Read and write image files: RGB in memory, EXIF orientation applied, truncated files detected."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from maskvos.errors import UserError
from maskvos.media.files import write_bytes

MAX_PIXELS = 2**27
"""Pixels of an image, or of a frame of a video, above which it is refused: 16K, 15360x8640, is just below."""

# Start of file, start of pixel data and end of file in JPEG and PNG. OpenCV fills the missing part of a truncated file
# with grey and reports no error. (A thumbnail inside a JPEG has its own markers, all before those of the main image.)
_PNG = b"\x89PNG\r\n\x1a\n"
_MARKERS = ((b"\xff\xd8", b"\xff\xda", b"\xff\xd9"), (b"\x89PNG", b"IDAT", b"IEND"))
_BUSY = 1 / 32  # bytes per pixel, as run lengths, beyond which a grey image is no mask of objects


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as 8-bit RGB, with its EXIF orientation applied and the alpha channel dropped.

    Returns:
        (H, W, 3) uint8 RGB; greyscale is repeated over three channels, 16-bit values are scaled to 8 bits.

    Raises:
        UserError: The file is missing, truncated, damaged, not an image, or has more than `MAX_PIXELS`.
    """
    path = Path(path)
    try:
        if not path.is_file() and path.exists():  # reading a pipe or a device might never end
            raise UserError(f"the image {path} is not a file; give a folder of image files")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"the image {path} cannot be read ({error.strerror}); check the path") from error
    for start, pixels, end in _MARKERS:
        if data.startswith(start) and data.rfind(end) < data.rfind(pixels):
            raise UserError(f"the image {path} is truncated ({len(data)} bytes); copy or export it again")
    check_content(path, data)
    bgr = decode_image(data, cv2.IMREAD_COLOR)
    if bgr is None:
        raise UserError(f"{path} ({len(data)} bytes) is not an image that can be decoded; copy or export it again")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def check_size(path: Path | str, width: int, height: int) -> None:
    """Refuse frames that would fill the memory.

    Raises:
        UserError: There are more than `MAX_PIXELS`.
    """
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{path} is {width}x{height} pixels, and at most {MAX_PIXELS:,} pixels (16K) are decoded; resize it"
        )


def decode_image(data: bytes, flags: int) -> np.ndarray | None:
    """Decode an image in memory with OpenCV.

    Args:
        data: The content of its file, after `check_content`.
        flags: OpenCV's, such as ``cv2.IMREAD_UNCHANGED``.

    Returns:
        As OpenCV orders the channels; None if it cannot be decoded.
    """
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # for example a side above 2**20
        return None


def check_content(path: Path, data: bytes) -> None:
    """Refuse an image before it is decoded: one that would fill the memory, or a damaged PNG.

    Args:
        path: For messages.
        data: The content of its file.

    Raises:
        UserError: It has more than `MAX_PIXELS`, or is a PNG with a wrong checksum.
    """
    if data.startswith(_PNG):
        # OpenCV and Pillow show damaged chunks without an error.
        if not _is_intact(data):
            raise UserError(f"the image {path} is truncated or damaged (wrong checksum); copy or export it again")
        check_size(path, *(int.from_bytes(data[place : place + 4], "big") for place in (16, 20)))
        return
    try:
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
    except Image.DecompressionBombError as error:
        raise UserError(f"the image {path} is too large ({error}); resize it") from error
    except (OSError, ValueError, SyntaxError):
        return  # the caller decides whether this is an image
    check_size(path, *size)


def _is_intact(png: bytes) -> bool:
    """Whether a PNG begins with its header, and the checksums of all chunks are right."""
    place = len(_PNG)
    while place + 12 <= len(png) and png[12:16] == b"IHDR":
        end = place + 8 + int.from_bytes(png[place : place + 4], "big")
        if zlib.crc32(png[place + 4 : end]) != int.from_bytes(png[end : end + 4], "big"):
            return False
        if png[place + 4 : place + 8] == b"IEND":
            return True
        place = end + 4
    return False


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write an image atomically; the suffix selects the format.

    Args:
        path: Destination; missing parent folders are created.
        image: (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, uint8.

    Raises:
        UserError: The disk is full or the path is not writable; files written earlier are kept.
        ValueError: Unsupported shape or dtype.
    """
    write_bytes(Path(path), encode_image(image, Path(path).suffix))


def encode_image(image: np.ndarray, suffix: str) -> bytes:
    """Encode an image in memory: PNG of colours with fast compression, of masks as small as it gets; JPEG quality 95.

    Args:
        image: (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, uint8.
        suffix: File suffix of the format, such as ``.png``.

    Raises:
        ValueError: Unsupported shape or dtype.
    """
    channels = 1 if image.ndim == 2 else image.shape[-1]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ValueError(f"cannot encode an image of shape {image.shape} and type {image.dtype}")
    if suffix.lower() == ".png" and channels == 1:
        return _encode_grey(image)
    orders = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    stored = cv2.cvtColor(image, orders[channels]) if channels in orders else image
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1] if suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 95]
    return _encode(stored, suffix, fast)


def _encode_grey(image: np.ndarray) -> bytes:
    """PNG of levels (H, W): for masks of objects no filter makes it smaller, nor does another level of zlib."""
    # Older versions of OpenCV leave the choice of the filter to libpng.
    plain = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE] if hasattr(cv2, "IMWRITE_PNG_FILTER") else []
    runs = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    # Run lengths tell how busy it is, in an eighth of the time: in noise the search of level 9 takes a second for 480p.
    busy = len(_encode(image, ".png", [*runs, *plain])) > max(_BUSY * image.size, 1024)
    return _encode(image, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 6 if busy else 9, *plain])


def _encode(image: np.ndarray, suffix: str, options: Sequence[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise ValueError(f"cannot encode an image of shape {image.shape} as {suffix}")
    return data.tobytes()


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image: area averaging for downscaling, to avoid aliasing, else bilinear.

    Args:
        image: (H, W, C) uint8 or float32.
        size: New height and width, pixels.
    """
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    downscale = image.shape[0] >= height and image.shape[1] >= width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if downscale else cv2.INTER_LINEAR)

"""Read and write optical flow (``.flo``, 16-bit KITTI PNG), or decode it from Middlebury colour coding.

A flow map is (H, W, 2) float32, pixels of its own grid, x then y.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import numpy as np

from maskvos.errors import UserError
from maskvos.media.files import read_file, write_bytes
from maskvos.media.images import check_content, decode_image

FLOW_SUFFIXES = (".flo", ".png", ".jpg", ".jpeg")
"""File extensions that `read_flow` supports."""

_FLO_MAGIC = b"PIEH"
# Middlebury marks unknown flow with components above this value.
_FLO_UNKNOWN = 1e9
_KITTI_SCALE = 64.0
_KITTI_ZERO = 2**15

# The wheel has 55 colours in six linear segments (red-yellow 15, yellow-green 6, green-cyan 4, cyan-blue 11,
# blue-magenta 13, magenta-red 6), at positions 0 to 54.
_WHEEL_HALF = 27.0
# The published colour table is rounded down, so a rising segment lies up to 12/13 of a level below its line.
_ROUNDED = 12 / 13 / 255


def rgb_to_flow(rgb: np.ndarray, max_flow: float = 1.0) -> np.ndarray:
    """Decode a Middlebury colour-coded image to flow vectors.

    Hue gives the direction and saturation the magnitude. The image does not store its scale: it was normalised by the
    largest magnitude of the map, so magnitudes are returned as fractions of ``max_flow``. Colours that compression
    moved off the wheel are mapped to the nearest hue and saturation.

    Args:
        rgb: (H, W, 3) uint8 RGB.
        max_flow: Magnitude in pixels of a fully saturated colour.

    Returns:
        (H, W, 2) float32, x then y.
    """
    hsv = cv2.cvtColor(rgb.astype(np.float32) / 255.0, cv2.COLOR_RGB2HSV)
    # Hues in degrees at the corners of the wheel; the last position, 54, is one step before red.
    position = np.interp(hsv[..., 0], (0, 60, 120, 180, 240, 300, 350), (0, 15, 21, 25, 36, 49, 54))
    angle = (position.astype(np.float32) / _WHEEL_HALF - 1.0) * math.pi
    length = hsv[..., 1] * np.float32(max_flow)
    return np.stack([-length * np.cos(angle), -length * np.sin(angle)], -1)


def encode_kitti(flow: np.ndarray) -> np.ndarray:
    """Encode flow as three 16-bit channels in KITTI format: resolution 1/64 pixel, range -512 to 511.98 pixels.

    Components outside that range are clipped; vectors that are not finite are marked invalid. Format: development kit
    of the KITTI flow benchmark 2012/2015.

    Args:
        flow: (H, W, 2) float, pixels, x then y.

    Returns:
        (H, W, 3) uint16: x, y, valid (0 or 1).
    """
    valid = np.isfinite(flow).all(-1)
    packed = np.zeros((*flow.shape[:2], 3), np.uint16)
    # Round before adding the offset, which would lose the last bits in float32.
    steps = np.rint(np.where(valid[..., None], flow, 0.0) * np.float32(_KITTI_SCALE)) + _KITTI_ZERO
    packed[..., :2] = np.clip(steps, 0, 2**16 - 1) * valid[..., None]
    packed[..., 2] = valid
    return packed


def decode_kitti(packed: np.ndarray) -> np.ndarray:
    """Decode three 16-bit channels in KITTI format; invalid pixels become zero flow.

    Args:
        packed: (H, W, 3) uint16: x, y, valid.

    Returns:
        (H, W, 2) float32, pixels, x then y.
    """
    flow = np.empty((*packed.shape[:2], 2), np.float32)
    for axis in (0, 1):  # one channel at a time is several times faster than slicing both
        np.subtract(packed[..., axis], np.float32(_KITTI_ZERO), out=flow[..., axis])
    flow *= np.float32(1 / _KITTI_SCALE)
    valid = packed[..., 2]
    if not valid.all():
        flow[valid == 0] = 0.0
    return flow


_PNG_END = bytes.fromhex("0000000049454e44ae426082")  # the chunk IEND


def read_flow(path: Path | str, max_flow: float = 1.0) -> np.ndarray:
    """Read a flow map: Middlebury ``.flo``, 16-bit KITTI ``.png``, or an 8-bit colour-coded image.

    Unknown vectors (above 1e9 in ``.flo``, invalid in KITTI, or not finite) are read as zero.

    Args:
        path: The file; the bit depth of a ``.png`` tells its format.
        max_flow: Magnitude in pixels of a fully saturated colour, see `rgb_to_flow`; ignored for the other formats.

    Returns:
        (H, W, 2) float32, pixels, x then y.

    Raises:
        UserError: The file is missing, corrupt or not a flow map.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FLOW_SUFFIXES:
        raise UserError(f"flow {path}: unsupported extension '{suffix}'; use {', '.join(FLOW_SUFFIXES)}")
    data = _read_bytes(path)
    if suffix == ".flo":
        return _decode_flo(path, data)
    check_content(path, data)
    pixels = decode_image(data, cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UserError(f"flow {path}: cannot be decoded ({len(data)} bytes); delete it and compute it again")
    if pixels.ndim != 3 or pixels.shape[2] < 3:
        raise UserError(
            f"flow {path}: has one channel; expected three: a 16-bit KITTI PNG or an image with Middlebury "
            "colour coding"
        )
    pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # drops alpha
    return decode_kitti(pixels) if pixels.dtype == np.uint16 else rgb_to_flow(pixels, max_flow)


def is_whole(path: Path) -> bool:
    """Whether a file that `write_flow` writes exists and is complete, by its length or end; reads a few bytes only."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            header, size = file.read(12), file.seek(0, os.SEEK_END)
            if size < 20:  # one vector in .flo; any PNG is longer
                return False
            file.seek(-12, os.SEEK_END)
            end = file.read()
    except OSError:
        return False
    if path.suffix.lower() != ".flo":
        return end == _PNG_END
    width, height = np.frombuffer(header, "<i4", offset=4)
    return size == 12 + 8 * int(width) * int(height)


def write_flow(path: Path | str, flow: np.ndarray) -> None:
    """Write a flow map as Middlebury ``.flo`` (lossless) or 16-bit KITTI ``.png`` (1/64 pixel), by file extension.

    The write is atomic; missing folders are created.

    Args:
        path: Output file.
        flow: (H, W, 2) float, pixels, x then y.

    Raises:
        UserError: Unsupported extension, the array is not a flow map, or the file cannot be written.
    """
    path = Path(path)
    if flow.ndim != 3 or flow.shape[2] != 2 or 0 in flow.shape:
        raise UserError(f"flow for {path}: shape {flow.shape}; expected (H, W, 2) with at least one pixel")
    suffix = path.suffix.lower()
    if suffix not in (".flo", ".png"):
        raise UserError(f"flow {path}: unsupported extension '{suffix}'; choose .flo or .png")
    write_bytes(path, encode_flow(flow, suffix))


def encode_flow(flow: np.ndarray, suffix: str) -> bytes:
    """The content of a flow file.

    Args:
        flow: (H, W, 2) float, pixels, x then y.
        suffix: ``.flo`` or ``.png``.
    """
    if suffix == ".png":
        return encode_png(encode_kitti(flow))
    size = np.array([flow.shape[1], flow.shape[0]], "<i4")
    return _FLO_MAGIC + size.tobytes() + np.ascontiguousarray(flow, "<f4").tobytes()


def encode_png(rgb: np.ndarray) -> bytes:
    """Encode an (H, W, 3) uint8 RGB image of a flow map."""
    # OpenCV's default, run lengths at the fastest level, suits flow, which has no repeated patterns.
    done, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not done:
        raise UserError(
            f"OpenCV could not encode a {rgb.shape[1]}x{rgb.shape[0]} PNG; reinstall opencv-python-headless"
        )
    return data.tobytes()


def _read_bytes(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise UserError(
            f"flow {path}: cannot be read ({error.strerror}); check the path or compute it again"
        ) from error


def _decode_flo(path: Path, data: bytes) -> np.ndarray:
    if data[:4] != _FLO_MAGIC or len(data) < 12:
        raise UserError(f"flow {path}: has no .flo header ('PIEH', width, height); compute it again")
    width, height = (int(side) for side in np.frombuffer(data, "<i4", 2, 4))
    expected = 12 + 8 * width * height
    if width < 1 or height < 1 or len(data) != expected:
        raise UserError(
            f"flow {path}: its header says {width}x{height} pixels, {expected} bytes, but the file has {len(data)}; "
            "delete it and compute it again"
        )
    flow = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)
    if not max(flow.max(), -flow.min()) <= _FLO_UNKNOWN:  # also true for nan
        flow[~(np.abs(flow) <= _FLO_UNKNOWN).all(-1)] = 0.0
    return flow

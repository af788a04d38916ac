"""Files in and out, for every room: images read with care, and nothing half written."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

import cv2
import numpy as np

from maskvos.errors import UserError

# How JPEG and PNG begin, what their pixels follow, and what comes after the last pixel: a decoder fills what is missing
# of a file that was cut with grey, and does not complain. (A preview inside a JPEG has marks of its own, before.)
_MARKS = ((b"\xff\xd8", b"\xff\xda", b"\xff\xd9"), (b"\x89PNG", b"IDAT", b"IEND"))


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as it is seen: turned by its EXIF tag, without transparency.

    Returns:
        (H, W, 3) uint8 RGB; grey becomes three equal channels, 16 bits become 8.

    Raises:
        UserError: It is missing, is no image, or was cut.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"the image {path} cannot be read ({error.strerror}); check the path") from error
    for start, pixels, end in _MARKS:
        if data.startswith(start) and data.rfind(end) < data.rfind(pixels):
            raise UserError(f"the image {path} is cut short ({len(data)} bytes); copy or export it again")
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if bgr is None:
        raise UserError(f"{path} ({len(data)} bytes) is not an image that can be decoded; copy or export it again")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that is seen by others either whole or not at all, also when several processes write it.

    Args:
        path: Where to; missing folders are made.
        data: All of its content.

    Raises:
        UserError: The disk is full, or the place cannot be written to; what was there before stays.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(data)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: Exception) -> UserError:
    """What a user is told when a file could not be written: whether the disk is full, and what to do.

    Args:
        path: The file; nothing of it may be left.
        error: What the system, or FFmpeg, said.
    """
    if getattr(error, "errno", None) == errno.ENOSPC:
        told = UserError(
            f"the disk is full: {path} could not be written, and nothing of it was left; files finished before it are "
            "whole and stay. Make room and run the same command again, or choose another place"
        )
    else:
        told = UserError(
            f"{path} could not be written ({getattr(error, 'strerror', None) or error}), and nothing of it was left; "
            "files finished before it stay. Choose another place or change its permissions"
        )
    told.unwritable = True
    return told

"""Atomic file writes and the errors for files and folders that cannot be written."""

from __future__ import annotations

import errno
import os
import tempfile
import uuid
from pathlib import Path

from maskvos.errors import UserError


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: readers and concurrent writers see the old content or the new, never a part.

    Args:
        path: Destination; missing parent folders are created.
        data: The complete content.

    Raises:
        UserError: The disk is full or the path is not writable; an existing file is left unchanged.
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
    """The error for a failed write: full disk or missing permission, and the remedy.

    Args:
        path: The file; the caller has removed whatever was written of it.
        error: The operating system's or FFmpeg's error.
    """
    if getattr(error, "errno", None) == errno.ENOSPC:
        failure = UserError(
            f"the disk is full: {path} could not be written and its partial data was removed; files finished earlier "
            "are kept. Make room and run the same command again, or choose another place"
        )
    else:
        failure = UserError(
            f"{path} could not be written ({getattr(error, 'strerror', None) or error}) and its partial data was "
            "removed; files finished earlier are kept. Choose another place or change its permissions"
        )
    failure.unwritable = True
    return failure


def ensure_writable(folder: Path) -> None:
    """Create a folder and check that files can be created in it, before any work is spent on its content.

    Raises:
        UserError: The folder cannot be created or is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write to the folder {folder} ({error.strerror}); choose another with output=<folder>, or change "
            "its permissions"
        ) from error

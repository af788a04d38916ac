"""Atomic file writes, folders that one process at a time may write to, and the errors for what cannot be written."""

from __future__ import annotations

import errno
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from maskvos.errors import UserError

_PART = ".part"
_LOCK = ".lock"


def read_file(path: Path) -> bytes:
    """The content of a file; a pipe or a device, whose reading might never end, is refused.

    Raises:
        OSError: It is none, or cannot be read.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a file", str(path))
    return path.read_bytes()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: readers and concurrent writers see the old content or the new, never a part.

    Args:
        path: Destination; missing parent folders are created.
        data: The complete content.

    Raises:
        UserError: The disk is full or the path is not writable; an existing file is left unchanged.
    """
    part = partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            create(part, data)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


class NewFile:
    """A text file that is written bit by bit under another name, and has its own only once it is closed.

    Args:
        path: Destination, in an existing folder.

    Raises:
        UserError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = partial(path)
        try:
            self._file = self._part.open("x", encoding="utf-8")
        except OSError as error:
            raise cannot_write(path, error) from error

    def write(self, text: str) -> None:
        """Append.

        Raises:
            UserError: The disk is full, or the like.
        """
        try:
            self._file.write(text)
        except OSError as error:
            self.abort()
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """Give the file its name.

        Raises:
            UserError: The disk is full, or the like.
        """
        try:
            self._file.close()
            os.replace(self._part, self.path)
        except OSError as error:
            self.abort()
            raise cannot_write(self.path, error) from error

    def abort(self) -> None:
        """Remove what has been written."""
        with suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)


def partial(path: Path) -> Path:
    """A name beside a file for its unfinished content: another one at every call, and not to be guessed."""
    return path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex}{_PART}")


def create(path: Path, data: bytes = b"") -> None:
    """Write a file that must be new; a link that lies at its place is not followed.

    Raises:
        OSError: Something lies there already, or the file cannot be written.
    """
    with path.open("xb") as file:
        file.write(data)


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left unfinished in a folder that is `locked`; not in its subfolders."""
    for name in (f".*{_PART}", ".*.partial.mp4"):  # the second: movies of version 0.2
        for path in folder.glob(name):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file that may be missing.

    Raises:
        UserError: It cannot be removed, or is a folder.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Be the only one to write to a folder, of all processes and threads that ask; a killed process holds no lock.

    The lock is a file ``.lock``, which stays: by the operating system (`flock`, also on network file systems), and on
    those that have none by the file's existence.

    Args:
        folder: The folder; created if missing.
        wait: Wait until it is free.

    Yields:
        Whether it is locked; False where somebody else holds it and ``wait`` is False.

    Raises:
        UserError: The folder is not writable.
    """
    from filelock import FileLock, Timeout  # takes 50 ms

    lock = FileLock(folder / _LOCK, thread_local=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=wait, poll_interval=0.2)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def removed_if_unused(folder: Path) -> Iterator[None]:
    """After an error, remove a folder and its parents, as far as they were created meanwhile and hold nothing."""
    new = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    try:
        yield
    except BaseException:
        for place in new:
            with suppress(OSError):  # not empty, or in use, or never created
                if [entry.name for entry in place.iterdir()] == [_LOCK]:
                    (place / _LOCK).unlink()
                place.rmdir()
        raise


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

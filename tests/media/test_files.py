"""Atomic writes, and the errors for full disks and folders that are not writable."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskvos.errors import UserError
from maskvos.flow.codec import write_flow
from maskvos.flow.colours import write_flow_image
from maskvos.media.files import ensure_writable, write_bytes
from maskvos.media.images import write_image
from maskvos.metrics import Protocol

FLOW = np.zeros((4, 5, 2), np.float32)
WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda folder: write_bytes(folder / "a.txt", b"text"),
    "image": lambda folder: write_image(folder / "a.png", np.zeros((4, 4), np.uint8)),
    "flow": lambda folder: write_flow(folder / "a.flo", FLOW),
    "picture": lambda folder: write_flow_image(folder / "a.png", FLOW),
    "scores": lambda folder: Protocol("p").summarise([], []).write(folder),
}
each_writer = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


@each_writer
@pytest.mark.parametrize(
    ("code", "message"), [(errno.ENOSPC, "disk is full.*Make room"), (errno.EROFS, "another place")]
)
def test_a_failed_write_leaves_no_file(
    write: Callable[[Path], None], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[:3])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("maskvos.media.files.create", fail)
    with pytest.raises(UserError, match=message):
        write(tmp_path / "new")
    assert os.listdir(tmp_path / "new") == []


@each_writer
def test_a_folder_that_cannot_be_created_is_named_in_the_error(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/below.* could not be written \(Not a directory"):
        write(tmp_path / "file" / "below")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_bytes(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="Input/output error"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_folder_that_is_not_writable_is_named_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_writable(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*output=<folder>"):
        ensure_writable(tmp_path / "file" / "below")

    def denied(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    with pytest.raises(UserError, match=r"Permission denied"):
        ensure_writable(tmp_path)

"""Whatever writes: a file is there whole or not at all, and a full disk is told as what it is."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskvos.errors import UserError
from maskvos.flow.codec import write_flow, write_flow_picture
from maskvos.media.files import write_bytes
from maskvos.media.video import write_image
from maskvos.metrics import Protocol

FLOW = np.zeros((4, 5, 2), np.float32)
WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda folder: write_bytes(folder / "a.txt", b"text"),
    "image": lambda folder: write_image(folder / "a.png", np.zeros((4, 4), np.uint8)),
    "flow": lambda folder: write_flow(folder / "a.flo", FLOW),
    "picture": lambda folder: write_flow_picture(folder / "a.png", FLOW),
    "scores": lambda folder: Protocol("p").summarise([], []).write(folder),
}
each_writer = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


@each_writer
@pytest.mark.parametrize(("code", "told"), [(errno.ENOSPC, "disk is full.*Make room"), (errno.EROFS, "another place")])
def test_what_cannot_be_written_leaves_nothing(
    write: Callable[[Path], None], code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:3])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(UserError, match=told):
        write(tmp_path / "new")
    assert os.listdir(tmp_path / "new") == []


@each_writer
def test_a_folder_that_cannot_be_made_is_named(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/below.* could not be written \(Not a directory"):
        write(tmp_path / "file" / "below")


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_bytes(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="Input/output error"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["a.txt"]

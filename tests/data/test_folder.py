"""User videos: files, folders of frames, and folders of both."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

import fakes
from maskvos.data.datasets.folder import folder
from maskvos.errors import UserError


def test_frames_are_in_natural_order(tmp_path: Path) -> None:
    for index in (10, 2, 1):
        fakes.write_frame(tmp_path / "clip" / f"frame{index}.png", index)
    (tmp_path / "clip" / "notes.txt").write_text("x")
    (tmp_path / "clip" / ".hidden.png").write_bytes(b"")
    [video] = folder(tmp_path / "clip")
    assert video.name == "clip"
    assert [frame.name for frame in video.frames] == ["frame1", "frame2", "frame10"]
    assert not video.annotated


def test_a_movie_and_a_single_image(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(b"any content")
    [movie] = folder(tmp_path / "a.xyz")
    assert (movie.name, movie.file) == ("a", tmp_path / "a.xyz")
    fakes.write_frame(tmp_path / "still.jpg", 0)
    [still] = folder(tmp_path / "still.jpg")
    assert [frame.name for frame in still.frames] == ["still"]


def test_a_folder_of_videos(tmp_path: Path) -> None:
    (tmp_path / "b10.mp4").touch()
    (tmp_path / "b9.MOV").touch()
    fakes.write_folder(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    assert [video.name for video in folder(str(tmp_path))] == ["a", "b9", "b10"]


def test_the_current_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.write_folder(tmp_path / "clip")
    monkeypatch.chdir(tmp_path / "clip")
    assert folder(".")[0].name == "clip"


def test_errors_name_the_path_and_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no input given"):
        folder(None)
    with pytest.raises(UserError, match=r"no file or folder .*nothing; expected a movie"):
        folder(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"neither an image .* nor a movie"):
        folder(tmp_path)
    fakes.write_folder(tmp_path / "clip")
    fakes.write_frame(tmp_path / "clip" / "00001.png", 0)
    with pytest.raises(UserError, match=r"'00001.jpg' and '00001.png' are both frame '00001'"):
        folder(tmp_path / "clip")
    (tmp_path / "two").mkdir()
    fakes.write_frame(tmp_path / "two" / "0.jpg", 0)
    (tmp_path / "two" / "film.mp4").touch()
    with pytest.raises(UserError, match=r"both images and film.mp4"):
        folder(tmp_path / "two")
    fakes.write_folder(tmp_path / "same" / "film")
    (tmp_path / "same" / "film.mp4").touch()
    with pytest.raises(UserError, match="both a folder and a movie are called 'film'"):
        folder(tmp_path / "same")


@pytest.mark.parametrize(
    "name", ["ñ.mp4", "clip (1).mp4", "it's.mp4", "a&b.mp4", "a,b.mp4", "2024", "a=b.mp4", "-x.mp4", "...mp4", "x..mp4"]
)
def test_odd_names_become_folders_inside_of_the_output(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"any content")
    [video] = folder(tmp_path / name)
    assert (tmp_path / "out" / video.name).resolve().parent == tmp_path / "out"
    assert video.name in (name, name.removesuffix(".mp4"))


def test_a_folder_above_has_its_own_name(tmp_path: Path) -> None:
    fakes.write_folder(tmp_path / "clip")
    (tmp_path / "clip" / "inside").mkdir()
    assert folder(tmp_path / "clip" / "inside" / "..")[0].name == "clip"


def test_pipes_are_not_read(tmp_path: Path) -> None:
    fakes.write_folder(tmp_path / "clip")
    os.mkfifo(tmp_path / "clip" / "pipe.png")
    [video] = folder(tmp_path / "clip")
    assert len(video.frames) == 3
    with pytest.raises(UserError, match=r"pipe\.png is neither a file nor a folder"):
        folder(tmp_path / "clip" / "pipe.png")


def test_what_is_ignored_is_logged_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "film.mp4").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    with caplog.at_level(logging.INFO):
        assert [video.name for video in folder(tmp_path)] == ["film"]
    [record] = caplog.records
    assert record.message.endswith(
        "ignored empty (no image or movie in it), notes.txt (neither an image nor a movie), pipe.mp4 (not a file)"
    )


def test_videos_in_nested_folders_are_named_by_their_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("top.mp4", "2024/may/beach.mp4", "2024/june/beach.MOV", "2024/june/dog.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    fakes.write_folder(tmp_path / "2024" / "frames", frames=2)
    fakes.write_frame(tmp_path / "2024" / "june" / "photo.jpg", 0)
    (tmp_path / "2024" / "back").symlink_to(tmp_path)
    fakes.write_folder(tmp_path / "2024" / "june" / "maskvos" / "dog" / "masks")
    (tmp_path / "2024" / "june" / "maskvos" / "dog" / "manifest.json").touch()
    with caplog.at_level(logging.INFO):
        videos = folder(tmp_path)
    names = ["2024/frames", "2024/june/beach", "2024/june/dog", "2024/may/beach", "top"]
    assert [video.name for video in videos] == names
    assert [len(video.frames) for video in videos] == [2, 0, 0, 0, 0]
    [record] = caplog.records
    assert "2024/back (a link to a folder above)" in record.message
    assert "2024/june/maskvos/dog (results of maskvos)" in record.message
    assert "1 image(s) of 2024/june (beside videos)" in record.message


def test_folders_that_cannot_be_read_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fakes.write_folder(tmp_path / "a")
    (tmp_path / "closed").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    scan, access = os.scandir, os.access
    closed = str(tmp_path / "closed")

    def denied(path: Path | str):  # type: ignore[no-untyped-def]
        if str(path) == closed:
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != closed and access(path, mode))
    with caplog.at_level(logging.INFO):
        assert [video.name for video in folder(tmp_path)] == ["a"]
    assert "ignored closed (cannot be read), loop (not a file)" in caplog.text
    with pytest.raises(UserError, match=r"the folder .*closed cannot be read \(Permission denied\)"):
        folder(closed)

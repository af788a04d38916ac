"""What a user names as a source: literal names, patterns, addresses, pipes; and which of them are live."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import fakes
from maskvos.data.sources import expand, opened
from maskvos.errors import UserError
from maskvos.media.live import LiveSource
from maskvos.types import Video


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def names(*sources: str) -> list[str]:
    with opened(*sources) as found:
        assert isinstance(found, list)
        return [video.name for video in found]


def test_a_name_that_exists_is_literal_and_others_are_patterns(tmp_path: Path) -> None:
    for name in ("[a].mp4", "a.mp4", "b.mp4", "?.mp4", "0", "in/deep/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert expand("[a].mp4") == ["[a].mp4"]
    assert expand("?.mp4") == ["?.mp4"]
    assert expand("[ab].mp4") == ["a.mp4", "b.mp4"]
    assert expand("**/*.mp4") == ["?.mp4", "[a].mp4", "a.mp4", "b.mp4", str(Path("in/deep/c.mp4"))]
    assert names("0") == ["0"]  # a file, not the camera
    for address in ("-", "1", "rtsp://host/a?b=[1]", "https://host/*.mp4"):
        assert expand(address) == [address]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("clpi.mp4", r"no file or folder clpi.mp4; did you mean 'clip.mp4'\?"),
        ("*.mov", r"no file or folder \*.mov; choose one of: clip.mp4"),
        ("many/x", "nothing there has a similar name"),
        ("nowhere/a.mp4", "there is no folder nowhere"),
        ("empty/a.mp4", "the folder is empty"),
    ],
)
def test_a_mistyped_name(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "many").mkdir()
    for number in range(100):
        (tmp_path / "many" / f"{number}.mp4").touch()
    with pytest.raises(UserError, match=message):
        expand(source)


def test_two_videos_of_one_name_and_live_sources_beside_others_are_refused(tmp_path: Path) -> None:
    fakes.write_folder(tmp_path / "x" / "clip")
    fakes.write_folder(tmp_path / "y" / "clip")
    with pytest.raises(UserError, match="two sources are named 'clip'"), opened("x/clip", "y/clip"):
        pass
    with pytest.raises(UserError, match="rtsp://host is live"), opened("x/clip", "rtsp://host"):
        pass
    with pytest.raises(UserError, match="x/clip is a file; only addresses"), opened("x/clip", live=True):
        pass


def test_a_pipe_is_known_by_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    def piped(content: bytes) -> Video:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        with opened("-") as found:
            assert isinstance(found, list)
            [video] = found
            assert video.file is not None
            assert video.file.read_bytes() == content
            stamps.append(video.file.stat().st_mtime_ns)
        assert not video.file.exists()
        return video

    stamps: list[int] = []
    assert piped(b"one").name == "pipe"
    piped(b"one")
    piped(b"two")
    assert stamps[0] == stamps[1] != stamps[2]  # what prediction compares to resume
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    with pytest.raises(UserError, match="nothing is piped"), opened("-"):
        pass


def test_what_is_read_from_a_pipe_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    for progress in (False, True):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes(2_500_000))))
        with opened("-", progress=progress):
            assert ("reading pipe" in terminal.getvalue()) is progress
    assert "2.5 MB" in terminal.getvalue()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    threading.Thread(target=(tmp_path / "pipe.mp4").write_bytes, args=(b"content",)).start()
    with opened("pipe.mp4") as found:
        assert isinstance(found, list)
        assert found[0].file is not None
        assert found[0].file.read_bytes() == b"content"


class Handler(BaseHTTPRequestHandler):
    """A file, a stream of unknown length, and two playlists."""

    def do_GET(self) -> None:
        content = {"/list.m3u8": b"#EXTM3U\n", "/whole.m3u8": b"#EXTM3U\n#EXT-X-ENDLIST\n"}.get(self.path, b"content")
        if "secret" in self.path and self.headers["Authorization"] != "Basic bWU6cEB3":
            self.send_error(401)
            return
        self.send_response(404 if "missing" in self.path else 200)
        self.send_header("Content-Type", "video/mp2t")
        if self.path != "/camera":
            self.send_header("Content-Length", str(len(content) + ("short" in self.path)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_address_is_a_file_where_the_server_says_how_long_it_is(server: str, tmp_path: Path) -> None:
    with opened(f"{server}/my%20clip.mp4?size=1") as found:
        assert isinstance(found, list)
        assert found[0].name == "my clip"
        assert found[0].file is not None
        assert found[0].file.read_bytes() == b"content"
    for path, drop in (("camera", True), ("list.m3u8", True), ("whole.m3u8", False)):
        with opened(f"{server}/{path}") as found:
            assert isinstance(found, LiveSource)
            assert found.drop is drop
    with opened(f"{server}/my%20clip.mp4", live=True) as found:
        assert isinstance(found, LiveSource)
    with pytest.raises(UserError, match=r"missing: cannot be read \(HTTP Error 404"), opened(f"{server}/missing"):
        pass
    with pytest.raises(UserError, match="broke off after 7 of 8 bytes"), opened(f"{server}/short.mp4"):
        pass
    with pytest.raises(UserError, match=r"a b.mp4: cannot be read \(URL can't contain"), opened(f"{server}/a b.mp4"):
        pass
    assert names(server.replace("//", "//me:p%40w@") + "/secret.mp4") == ["secret"]
    fakes.write_folder(tmp_path / "clip")
    assert names((tmp_path / "clip").as_uri()) == ["clip"]


def test_a_file_named_like_the_home_folder_is_taken_literally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fakes.write_folder(tmp_path / "~", frames=2)
    with opened(*expand("~")) as found:
        assert [str(video.frames[0].image.parent) for video in found] == [str(tmp_path / "~")]

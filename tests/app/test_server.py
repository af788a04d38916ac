"""The page's server: clips come back segmented; what others sent, and other files of the machine, do not."""

from __future__ import annotations

import http.client
import io
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image

import fakes
from app.conftest import Serve
from brightness import Brightness, predict, segmenter
from maskvos.inference.outputs import KINDS
from maskvos.media.video import VideoWriter, read_video


def movie(path: Path, frames: int = 5, size: tuple[int, int] = fakes.SIZE) -> Path:
    with VideoWriter(path, 25) as writer:
        for index in range(frames):
            writer.write(fakes.frame(index, size))
    return path


class Client:
    """Requests as they are written: paths are not normalised."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return found

    def send(self, path: Path) -> str:
        status, _, body = self("POST", f"/clips?name={path.name}", path.read_bytes())
        assert status == 201, body
        return f"/clips/{json.loads(body)['id']}"

    def start(self, clip: str, **settings: Any) -> int:
        return self("POST", f"{clip}/start", json.dumps({"kind": "overlay", **settings}).encode())[0]

    def state(self, clip: str) -> dict[str, Any]:
        return json.loads(self("GET", clip)[2])

    def wait(self, clip: str) -> dict[str, Any]:
        for _ in range(1000):
            state = self.state(clip)
            if state["state"] in ("done", "failed"):
                return state
            time.sleep(0.02)
        raise AssertionError(state)


def test_a_clip_comes_back_segmented_as_the_command_does_it(serve: Serve, tmp_path: Path) -> None:
    client, clip = Client(serve()), movie(tmp_path / "a.mp4")
    sent = client.send(clip)
    assert client("GET", f"{sent}/result")[0] == 404
    assert client.start(sent, kind="webm") == 202
    state = client.wait(sent)
    assert (state["state"], state["done"], state["frames"], state["error"]) == ("done", 5, 5, "")
    status, headers, body = client("GET", f"{sent}/result?download")
    assert (status, headers["content-type"]) == (200, "video/webm")
    assert headers["content-disposition"] == 'attachment; filename="a_cutout.webm"'
    predict(clip, tmp_path / "out", kinds=["webm"])
    assert body == (tmp_path / "out" / "a" / "cutout.webm").read_bytes()
    assert Image.open(io.BytesIO(client("GET", f"{sent}/preview")[2])).format == "JPEG"
    status, headers, body = client("GET", f"{sent}/clip", headers={"Range": "bytes=10-29"})
    assert (status, headers["content-type"]) == (206, "video/mp4")
    assert body == clip.read_bytes()[10:30]


def test_another_threshold_needs_no_second_pass_of_the_network(serve: Serve, tmp_path: Path) -> None:
    engine = Brightness()
    model = segmenter()
    model.engine = engine
    client = Client(serve(model))
    sent = client.send(movie(tmp_path / "a.mp4"))
    shares = []
    for threshold in (0.5, 0.05, 0.5):
        assert client.start(sent, kind="mask_movie", threshold=threshold) == 202
        assert client.wait(sent)["state"] == "done"
        (tmp_path / "made.mkv").write_bytes(client("GET", f"{sent}/result")[2])
        with av.open(str(tmp_path / "made.mkv")) as container:
            masks = np.stack([picture.to_ndarray() for picture in container.decode(video=0)])
        assert len(masks) == 5
        shares.append((masks > 0).mean())
    assert engine.calls == 3  # of two frames each
    assert shares[0] < shares[1]
    assert shares[2] == pytest.approx(shares[0], abs=1e-3)


def test_masks_are_refined_as_the_command_does_it(serve: Serve, tmp_path: Path) -> None:
    model, clip = segmenter(), movie(tmp_path / "a.mp4")
    model.size = (8, 12)  # so that edges are off
    hard = np.stack([frame.mask for frame in model.stream(clip)])
    model.refine = True
    refined = np.stack([frame.mask for frame in model.stream(clip)])
    assert (hard != refined).any()
    client = Client(serve(model))
    sent = client.send(clip)
    for _ in range(2):  # by the network, and from what was recorded
        assert client.start(sent, kind="mask_movie") == 202
        assert client.wait(sent)["state"] == "done"
        (tmp_path / "made.mkv").write_bytes(client("GET", f"{sent}/result")[2])
        made = np.stack([image[..., 0] > 0 for image in read_video(tmp_path / "made.mkv")])
        assert (made != refined).mean() < 0.01 * (hard != refined).mean()


def test_backgrounds_are_sent_or_named_but_never_paths(serve: Serve, tmp_path: Path) -> None:
    client = Client(serve())
    sent = client.send(movie(tmp_path / "a.mp4", 2))
    secret = tmp_path / "secret.png"
    Image.fromarray(np.full((48, 80, 3), (9, 99, 199), np.uint8)).save(secret)
    assert client.start(sent, kind="background", background=str(secret)) == 400
    assert client.start(sent, kind="background", background="file") == 400  # none was sent
    assert client("PUT", f"{sent}/background", b"neither")[0] == 400
    assert client("PUT", f"{sent}/background", secret.read_bytes())[0] == 204
    for background, colour in (("file", (9, 99, 199)), ("#200040", (32, 0, 64))):
        assert client.start(sent, kind="background", background=background) == 202
        assert client.wait(sent)["state"] == "done"
        (tmp_path / "made.mp4").write_bytes(client("GET", f"{sent}/result")[2])
        assert np.abs(next(read_video(tmp_path / "made.mp4"))[-6:, -12:].astype(int) - colour).mean() < 6


@pytest.mark.parametrize(
    "settings", [{"kind": "masks"}, {"kind": None}, {"threshold": 0}, {"threshold": "x"}, {"background": "bluur"}]
)
def test_wrong_settings_are_named(serve: Serve, tmp_path: Path, settings: dict[str, Any]) -> None:
    client = Client(serve())
    sent = client.send(movie(tmp_path / "a.mp4", 1))
    wanted = {"kind": "background", **settings}
    status, _, body = client("POST", f"{sent}/start", json.dumps(wanted).encode())
    assert status == 400
    assert next(iter(settings)) in json.loads(body)["error"]
    assert client("POST", f"{sent}/start", b"{")[0] == client("POST", f"{sent}/start", b"[]")[0] == 400


def test_two_users_wait_for_one_another(serve: Serve, tmp_path: Path) -> None:
    go = threading.Event()

    class Slow(Brightness):
        def __call__(self, rgb: np.ndarray, flow: np.ndarray, motion: np.ndarray | None = None) -> np.ndarray:
            assert go.wait(20)
            return super().__call__(rgb, flow, motion)

    model = segmenter()
    model.engine = Slow()
    client = Client(serve(model))
    clips = [client.send(movie(tmp_path / f"{name}.mp4", 2)) for name in "abc"]
    for clip in clips:
        assert client.start(clip) == 202
    assert client.start(clips[0]) == 400  # it is being worked on
    assert [client.state(clip)["position"] for clip in clips] == [0, 1, 2]
    assert client("DELETE", clips[1])[0] == 204
    go.set()
    assert [client.wait(clip)["state"] for clip in (clips[0], clips[2])] == ["done", "done"]
    assert client("GET", clips[1])[0] == 404


def test_a_removed_clip_leaves_nothing(serve: Serve, tmp_path: Path) -> None:
    client = Client(serve())
    sent = client.send(movie(tmp_path / "a.mp4", 2))
    client.start(sent)
    client.wait(sent)
    assert len(list((tmp_path / "server").iterdir())) == 1
    client("DELETE", sent)
    assert list((tmp_path / "server").iterdir()) == []
    assert client("GET", f"{sent}/clip")[0] == 404


def test_a_failure_of_one_clip_is_said_and_the_next_is_segmented(serve: Serve, tmp_path: Path) -> None:
    model = segmenter()
    model.engine = Brightness()
    model.engine.fail_at = 1
    client = Client(serve(model))
    one, two = (client.send(movie(tmp_path / f"{name}.mp4", 2)) for name in "ab")
    client.start(one)
    client.start(two)
    assert client.wait(one)["state"] == "failed"
    assert "memory" in client.wait(one)["error"]
    assert str(tmp_path) not in client.wait(one)["error"]
    assert client.wait(two)["state"] == "done"


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"no movie at all", b"<html><script>alert(1)</script>",
        PLAYLIST.format("file://{secret}").encode(), PLAYLIST.format("{secret}").encode(),
        b"ffconcat version 1.0\nfile '{secret}'\n", b"ffconcat version 1.0\nfile {relative}\n",
        b'<?xml version="1.0"?><MPD><Period><AdaptationSet><Representation><BaseURL>{secret}</BaseURL>'
        b"</Representation></AdaptationSet></Period></MPD>",
    ],
)  # fmt: skip
def test_what_is_no_movie_or_lists_other_files_is_refused(serve: Serve, tmp_path: Path, content: bytes) -> None:
    secret = movie(tmp_path / "secret.ts" if b"EXTM3U" in content else tmp_path / "secret.mp4", 3)
    client = Client(serve())
    content = content.replace(b"{secret}", str(secret).encode()).replace(b"{relative}", b"../../secret.mp4")
    status, _, body = client("POST", "/clips?name=a.mp4", content)
    assert status == 400
    assert "not a movie" in json.loads(body)["error"]
    assert list((tmp_path / "server").iterdir()) == []


def test_a_large_file_is_refused_before_and_while_it_comes(serve: Serve, tmp_path: Path) -> None:
    client = Client(serve(limit=100_000))
    status, _, body = client("POST", "/clips", b"0" * 100_001)
    assert (status, json.loads(body)["error"]) == (413, "this file is too large: files may have 0.0954 MB")
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as raw:  # whose length is not stated
        raw.sendall(b"POST /clips HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            raw.sendall(b"c350\r\n" + b"0" * 50_000 + b"\r\n")
        raw.sendall(b"0\r\n\r\n")
        assert b" 413 " in raw.recv(100)
    assert list((tmp_path / "server").iterdir()) == []


SECRET = b"do not show this"
PATHS = (
    *("/../secret", "/%2e%2e/secret", "/..%2fsecret", "//etc/passwd", "/etc/passwd", "/page.js/../../secret"),
    *("/clips/../secret", "/clips/..%2f..%2fsecret", "/clips/%2e%2e%2fsecret/clip", "/clips/./clip", "/clips//clip"),
    *("{own}/../{other}/clip", "{own}/%2e%2e/secret", "{own}/clip/../../../secret", "{own}/recording", "{own}/link"),
    *("{own}/clip%00", "{own}/result?path=/etc/passwd", "/jobs.py", "/server.py", "/index.html", "/clips"),
)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_no_path_of_the_server_can_be_read(serve: Serve, tmp_path: Path, method: str) -> None:
    client = Client(serve())
    (tmp_path / "server" / "secret").write_bytes(SECRET)
    own, other = (client.send(movie(tmp_path / f"{name}.mp4", 1)) for name in "ab")
    folder = tmp_path / "server" / own.rpartition("/")[2]
    os.symlink(tmp_path / "server" / "secret", folder / "link")
    names = {"own": own, "other": other.rpartition("/")[2]}
    for path in PATHS:
        status, _, body = client(method, path.format(**names))
        assert status in (400, 404, 405), path
        assert SECRET not in body
        assert b"root:" not in body
    assert client.state(own)["state"] == client.state(other)["state"] == "new"


def test_names_of_clips_are_no_paths(serve: Serve, tmp_path: Path) -> None:
    client, data = Client(serve()), movie(tmp_path / "a.mp4", 1).read_bytes()
    for name, shown in (
        ("../../x.mp4", "x"), ("%2Fetc%2Fpasswd", "passwd"), ("..", "clip"), ("a%0D%0Ab.mp4", "a__b"), ("", "clip"),
        ("C%3A%5Cclips%5Cd.mp4", "d"),
    ):  # fmt: skip
        sent = f"/clips/{json.loads(client('POST', f'/clips?name={name}', data)[2])['id']}"
        assert client.state(sent)["name"] == shown
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "server"}


def test_other_pages_and_other_names_are_refused(serve: Serve) -> None:
    client = Client(serve())
    for headers in ({"Origin": "https://example.org"}, {"Origin": "null"}, {"Host": "example.org"}):
        assert client("POST", "/clips", b"0", headers)[0] in (400, 403)
    own = {"Origin": f"http://127.0.0.1:{client.port}"}
    assert json.loads(client("POST", "/clips", b"0", own)[2])["error"].startswith("this is not a movie")
    _, headers, body = client("GET", "/")
    assert b"<main>" in body
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_few_clips_are_kept(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskvos.app.jobs._KEPT", 2)
    client, clip = Client(serve()), movie(tmp_path / "a.mp4", 1)
    sent = []
    for _ in range(4):
        sent.append(client.send(clip))
        client.start(sent[-1])
        client.wait(sent[-1])
    assert [client("GET", one)[0] for one in sent] == [404, 404, 200, 200]


def test_all_kinds_that_the_page_offers_are_made(serve: Serve, tmp_path: Path) -> None:
    client = Client(serve())
    kinds = json.loads(client("GET", "/about")[2])["kinds"]
    page = client("GET", "/")[2].decode()
    sent = client.send(movie(tmp_path / "a.mp4", 2))
    for kind in kinds:
        assert f'value="{kind}"' in page
        assert client.start(sent, kind=kind) == 202
        assert client.wait(sent)["state"] == "done", kind
        place = tmp_path / KINDS[kind].place
        place.write_bytes(client("GET", f"{sent}/result")[2])
        if place.suffix in (".webp", ".gif"):
            assert Image.open(place).n_frames == 2
        else:
            assert len(list(read_video(place))) == 2


def test_the_preview_shows_the_mask(serve: Serve, tmp_path: Path) -> None:
    client = Client(serve())
    sent = client.send(movie(tmp_path / "a.mp4", 1, (480, 800)))
    client.start(sent)
    client.wait(sent)
    preview = cv2.imdecode(np.frombuffer(client("GET", f"{sent}/preview")[2], np.uint8), cv2.IMREAD_COLOR)
    assert preview.shape == (384, 640, 3)
    inside = preview[120:260, 100:220].reshape(-1, 3).mean(axis=0)
    assert inside[2] > 220  # tinted red over orange
    assert inside[1] < 150

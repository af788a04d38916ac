"""The command ``maskvos``: sources, places of the results, and when it is the framework's command."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import pytest

import fakes
from maskvos.cli.command import is_long_form, main
from maskvos.media.images import read_image
from maskvos.media.video import VideoWriter


def movie(path: Path, frames: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, 25) as writer:
        for index in range(frames):
            writer.write(fakes.frame(index, (48, 64)))
    return path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["maskvos", *arguments])
        main()

    return call


def test_results_lie_beside_the_source_and_are_made_once(command, tmp_path: Path, capsys) -> None:
    movie(tmp_path / "clips" / "My Clip (1).mp4")
    command("clips/My Clip (1).mp4")
    out = tmp_path / "clips" / "maskvos_results" / "My Clip (1)"
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    assert read_image(out / "masks" / "00000.png").shape == (48, 64, 3)
    assert (out / "overlay.mp4").is_file()
    said = capsys.readouterr().out
    assert "3 frames" in said
    assert len(said.splitlines()) < 10
    written = (out / "overlay.mp4").stat().st_mtime_ns
    command("clips/My Clip (1).mp4")
    assert "skipped 1 segmented already" in capsys.readouterr().out
    assert (out / "overlay.mp4").stat().st_mtime_ns == written


def test_several_sources_and_patterns_go_into_one_folder(command, tmp_path: Path, capsys) -> None:
    for name in ("a,b=c.mp4", "it's.mp4", "x1.mp4", "x2.mp4", "[x].mp4"):
        movie(tmp_path / name, 1)
    command("a,b=c.mp4", "it's.mp4", "[x].mp4", "x?.mp4", "-o", "out", "--kinds", "masks,cutout", "--quiet")
    found = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert found == ["[x]", "a,b=c", "it's", "x1", "x2"]
    assert (tmp_path / "out" / "x1" / "cutout" / "00000.png").is_file()
    assert capsys.readouterr().out == ""
    manifest = json.loads((tmp_path / "out" / "x2" / "manifest.json").read_text())
    assert manifest["complete"]


def test_an_existing_folder_is_a_folder_whatever_its_name(command, tmp_path: Path) -> None:
    movie(tmp_path / "clip.mp4", 1)
    (tmp_path / "results.mov").mkdir()
    command("clip.mp4", "-o", "results.mov", "--kinds", "masks", "--quiet")
    assert (tmp_path / "results.mov" / "clip" / "masks" / "00000.png").is_file()


def test_a_pipe_and_a_web_address(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    clip = movie(tmp_path / "web" / "my clip.mp4", 2)
    standard = io.TextIOWrapper(io.BytesIO(clip.read_bytes()))
    monkeypatch.setattr(sys, "stdin", standard)
    command("-", "-o", "out", "--kinds", "masks")
    standard.seek(0)
    command("-", "-o", "out", "--kinds", "masks")  # what is complete is known by its content
    assert "skipped 1" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "pipe" / "masks").iterdir())) == 2
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            command(f"http://127.0.0.1:{server.server_port}/my%20clip.mp4", "-o", "out", "--kinds", "masks")
            with pytest.raises(SystemExit, match="2"):
                command(f"http://127.0.0.1:{server.server_port}/other.mp4", "-o", "out")
        finally:
            server.shutdown()
    assert len(list((tmp_path / "out" / "my clip" / "masks").iterdir())) == 2


def test_a_live_pipe_is_segmented_as_it_comes_and_its_latency_is_printed(tmp_path: Path) -> None:
    clip = movie(tmp_path / "clip.mp4", 12)
    with av.open(str(clip)) as source, av.open(str(tmp_path / "clip.ts"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    call = [sys.executable, "-c", "from maskvos.cli.command import main; main()", "-", "--live", "-o", "out"]
    with (tmp_path / "clip.ts").open("rb") as pipe:
        done = subprocess.run(call, cwd=tmp_path, stdin=pipe, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bar where it is not seen
    assert "latency from arrival to mask: median" in done.stdout
    [masks] = (tmp_path / "out").glob("pipe_*/masks")
    assert f"{len(list(masks.iterdir()))} frames" in done.stdout


@pytest.mark.parametrize(
    ("name", "kinds", "codec"),
    [
        ("a.webm", [], "vp9"),
        ("a.mov", [], "prores"),
        ("a.mp4", [], "h264"),
        ("a.mp4", ["--kinds", "matte"], "h264"),
        ("a.gif", [], "gif"),
        ("a.mp4", ["--background", "#ff00ff"], "h264"),
    ],
)
def test_the_suffix_of_the_output_says_what_is_written(
    command, tmp_path: Path, capsys, name: str, kinds: list[str], codec: str
) -> None:
    movie(tmp_path / "clip.mp4")
    command("clip.mp4", "-o", f"out/{name}", *kinds)
    assert capsys.readouterr().out == f"out/{name}\n"
    with av.open(str(tmp_path / "out" / name)) as container:
        assert container.streams.video[0].codec_context.name in (codec, f"lib{codec}-vp9", "libvpx-vp9")
        assert sum(1 for _ in container.decode(video=0)) == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    with pytest.raises(SystemExit, match="2"):
        command("clip.mp4", "-o", f"out/{name}", *kinds)
    assert "--overwrite" in capsys.readouterr().err
    command("clip.mp4", "-o", f"out/{name}", "--overwrite", "--quiet", *kinds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clip.mp4", "sub/clip.mp4", "-o", "out.webm"], "two sources are named 'clip'"),
        (["sub", "-o", "out.webm"], "is one file for 2 videos"),
        (["clip.mp4", "-o", "out.mp4", "--kinds", "cutout"], "out.mp4 can be overlay or"),
        (["clpi.mp4"], "no file or folder clpi.mp4; did you mean 'clip.mp4'"),
        (["none/at/all.mp4"], "no file or folder none/at/all.mp4"),
        (["rtsp://host/stream"], "rtsp://host/stream: cannot be read"),
        (["clip.mp4", "sub/clip.mp4", "-o", "out"], "two sources are named 'clip'"),
        (["clip.mp4", "--kinds", "maks"], "did you mean 'masks'"),
        (["clip.mp4", "--threshold", "2"], "threshold"),
        (["clip.mp4", "--device", "gpuu"], "did you mean 'gpu'"),
        (["text.mp4"], "text.mp4"),
        (["clip.mp4", "--backgroud", "blur"], "--backgroud: unknown option; did you mean '--background'?"),
        (["clip.mp4", "-o", "out.avi"], "-o out.avi: a file can be .mp4, .webm, .mov"),
    ],
)
def test_mistakes_are_answered_in_one_message(command, tmp_path: Path, capsys, arguments, message: str) -> None:
    (tmp_path / "text.mp4").write_text("not a movie")
    movie(tmp_path / "clip.mp4", 1)
    movie(tmp_path / "sub" / "clip.mp4", 1)
    movie(tmp_path / "sub" / "more.mp4", 1)
    with pytest.raises(SystemExit, match="2"):
        command(*arguments)
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_bad_clip_does_not_end_the_others(command, tmp_path: Path, capsys) -> None:
    (tmp_path / "a.mp4").write_text("not a movie")
    movie(tmp_path / "b.mp4", 1)
    movie(tmp_path / "c" / "c.mp4", 1)
    with pytest.raises(SystemExit, match="2"):
        command("a.mp4", "b.mp4", "c/c.mp4", "--kinds", "masks")
    assert (tmp_path / "maskvos_results" / "b" / "masks" / "00000.png").is_file()
    assert (tmp_path / "c" / "maskvos_results" / "c" / "masks" / "00000.png").is_file()
    assert "a.mp4" in capsys.readouterr().err


def test_settings_belong_to_the_framework_and_file_names_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["task=check"],
        ["+experiment=swin_t"],
        ["~logger"],
        ["-m", "a"],
        ["--cfg", "job"],
        ["x.mp4", "a=1"],
    ):
        assert is_long_form(arguments)
    for arguments in ([], ["clip.mp4"], ["--help"], ["--version"], ["a b.mp4", "-o", "out"], ["-"], ["x=1 .mp4", "-o"]):
        (tmp_path / "x=1 .mp4").touch()
        assert not is_long_form(arguments)


def test_it_needs_no_home_folder_and_no_network(tmp_path: Path) -> None:
    movie(tmp_path / "clip.mp4", 2)
    code = "import socket, sys; socket.socket.connect = socket.getaddrinfo = None\n"
    code += "sys.argv[1:] = ['clip.mp4', '-o', 'out']\n"
    code += "from maskvos.cli.command import main; main()"
    nowhere = {"HOME": "/dev/null", "USERPROFILE": "/dev/null", "XDG_CACHE_HOME": "/dev/null/cache"}
    call, env = [sys.executable, "-c", code], {**os.environ, **nowhere}
    done = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "out" / "clip" / "overlay.mp4").is_file()


# What Windows lacks; and its start method of processes, which imports this file again.
# asyncio, whose Linux half calls os.sysconf when it is imported (Python 3.13), is imported first.
WINDOWS = """
import asyncio, importlib, multiprocessing, os, pkgutil, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
for name in ("fork", "geteuid", "getuid", "killpg", "mkfifo", "nice", "sched_getaffinity", "setpgid", "sysconf"):
    delattr(os, name)
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    from maskvos.cli.command import main
    main()
    assert "torch" not in sys.modules
    for module in pkgutil.walk_packages(importlib.import_module("maskvos").__path__, "maskvos."):
        importlib.import_module(module.name)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="hides what Linux has")
def test_it_needs_nothing_that_only_unix_has(tmp_path: Path) -> None:
    movie(tmp_path / "clip.mp4", 2)
    (tmp_path / "main.py").write_text(WINDOWS)
    call = [sys.executable, "main.py", "clip.mp4", "-o", "out", "--kinds", "masks,webm"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "clip" / "masks" / "00001.png").is_file()
    assert (tmp_path / "out" / "clip" / "cutout.webm").is_file()


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_help_needs_no_heavy_package(arguments: list[str]) -> None:
    block = "".join(f"sys.modules['{name}'] = None; " for name in ("numpy", "cv2", "torch", "hydra"))
    code = f"import sys; {block}sys.argv = ['maskvos', *{arguments}]\nfrom maskvos.cli.command import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "maskvos clip.mp4" in done.stdout


@pytest.mark.parametrize(
    "error", [MemoryError(), ImportError("libx.so: failed to map segment from shared object"), OSError(12, "no memory")]
)
def test_a_full_memory_is_answered_wherever_it_is_noticed(command, monkeypatch, capsys, error: Exception) -> None:
    def fail(*given: object) -> None:
        raise error

    monkeypatch.setattr("maskvos.cli.command._segment", fail)
    with pytest.raises(SystemExit, match="2"):
        command("clip.mp4")
    assert capsys.readouterr().err.startswith("error: the memory is full")


@pytest.mark.parametrize("arguments", [["clip.mp4"], ["task=check"]])
def test_too_small_a_limit_of_the_memory_is_refused(command, monkeypatch, capsys, arguments: list[str]) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1500 << 20, resource.RLIM_INFINITY))
    with pytest.raises(SystemExit, match="2"):
        command(*arguments)
    assert "limited to 1.5 GiB, and must not be below 2 GiB" in capsys.readouterr().err

"""Movies and images: every codec, turn, size and rate comes out right; nothing half written ever lies there."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskvos.errors import UserError
from maskvos.media import video as video_io
from maskvos.media.video import (
    VideoWriter,
    ensure_writable,
    probe,
    read_image,
    read_video,
    uneven_times,
    write_image,
)


def pictures(count: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Quarters of four colours, red above left, and a white bar that moves down."""
    for index in range(count):
        rgb = np.zeros((height, width, 3), np.uint8)
        rgb[: height // 2, : width // 2] = (200, 30, 30)
        rgb[: height // 2, width // 2 :] = (30, 180, 30)
        rgb[height // 2 :, : width // 2] = (40, 40, 210)
        rgb[height // 2 :, width // 2 :] = (120, 120, 120)
        top = index * 4 % height
        rgb[top : top + 4] = 255
        yield rgb


def write_movie(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    rate: int = 25,
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    ticks: Sequence[int] | None = None,
) -> Path:
    """A movie straight from the encoder; ticks are milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        options = {"libx264": {"crf": "12"}, "libx265": {"crf": "12", "x265-params": "log-level=none"}}
        stream.options = options.get(codec, {"crf": "12", "b": "0", "cpu-used": "8", "deadline": "realtime"})
        if rotation:
            stream.set_display_rotation(rotation)
        if ticks:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, rgb in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            if ticks:
                picture.pts, picture.time_base = ticks[index], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("codec", "suffix", "pix_fmt"),
    [
        ("libx264", ".mp4", "yuv420p"),
        ("libx264", ".mkv", "yuv444p"),
        ("libx265", ".mp4", "yuv420p"),
        ("libx265", ".mov", "yuv420p10le"),
        ("libvpx-vp9", ".webm", "yuv420p"),
        ("mpeg4", ".avi", "yuv420p"),
    ],
)
def test_every_codec_gives_its_frames(tmp_path: Path, codec: str, suffix: str, pix_fmt: str) -> None:
    frames = list(pictures(12, 64, 96))
    path = write_movie(tmp_path / f"movie{suffix}", frames, codec, pix_fmt=pix_fmt)
    read = list(read_video(path))
    assert len(read) == 12
    for got, want in zip(read, frames, strict=True):
        assert got.shape == want.shape
        assert got.dtype == np.uint8
        assert np.abs(got.astype(int) - want).mean() < 8
    info = probe(path)
    assert (info.width, info.height, info.fps) == (96, 64, 25)


@pytest.mark.parametrize(("codec", "pix_fmt"), [("libx264", "yuv444p"), ("libvpx-vp9", "yuv420p")])
def test_odd_sizes_are_read_as_they_are(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    path = write_movie(tmp_path / "odd.mkv", list(pictures(3, 51, 67)), codec, pix_fmt=pix_fmt)
    assert [frame.shape for frame in read_video(path)] == [(51, 67, 3)] * 3
    assert (probe(path).width, probe(path).height) == (67, 51)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_turned_movie_is_read_upright(tmp_path: Path, rotation: int) -> None:
    frames = list(pictures(3, 64, 96))
    path = write_movie(tmp_path / "turned.mp4", frames, rotation=rotation)
    upright = [np.rot90(frame, rotation // 90) for frame in frames]
    read = list(read_video(path))
    for got, want in zip(read, upright, strict=True):
        assert got.shape == want.shape
        assert got.flags.c_contiguous
        assert np.abs(got.astype(int) - want).mean() < 8
    info = probe(path)
    assert (info.height, info.width) == upright[0].shape[:2]
    assert info.rotation == rotation % 360


def test_a_phones_turn_is_clockwise(tmp_path: Path) -> None:
    # The matrix (0 1; -1 0) of a phone held upright, written into the file's header by hand.
    path = write_movie(tmp_path / "phone.mp4", list(pictures(2, 64, 96)))
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    matrix = np.array([0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000], ">i4")
    data[start : start + 36] = matrix.tobytes()
    path.write_bytes(bytes(data))
    first = next(read_video(path))
    assert first.shape == (96, 64, 3)
    # A clockwise turn brings red from above left to above right.
    assert np.abs(first[20, 50].astype(int) - (200, 30, 30)).max() < 20


def test_uneven_times_are_told(tmp_path: Path) -> None:
    ticks = [0, 40, 80, 200, 240, 500, 540]
    path = write_movie(tmp_path / "uneven.mkv", list(pictures(7, 64, 96)), ticks=ticks)
    times = uneven_times(path)
    assert times is not None
    np.testing.assert_allclose([float(t) for t in times], np.array(ticks) / 1000, atol=1e-3)
    assert len(list(read_video(path))) == 7


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi"])
def test_even_times_are_none(tmp_path: Path, suffix: str) -> None:
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(suffix, "libx264")
    path = write_movie(tmp_path / f"even{suffix}", list(pictures(10, 64, 96)), codec, rate=30)
    assert uneven_times(path) is None
    assert abs(probe(path).fps - 30) < 0.1


def test_a_film_of_uneven_rate_is_written_with_its_times(tmp_path: Path) -> None:
    times = [Fraction(t, 1000) for t in (0, 40, 80, 200, 240, 500)]
    path = tmp_path / "out.mp4"
    with VideoWriter(path, 25) as writer:
        for rgb, time in zip(pictures(6, 64, 96), times, strict=True):
            writer.write(rgb, time)
    again = uneven_times(path)
    assert again is not None
    np.testing.assert_allclose([float(t) for t in again], [float(t) for t in times], atol=1e-4)


@given(
    height=st.integers(2, 70),
    width=st.integers(2, 70),
    fps=st.sampled_from([Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(15, 2), Fraction(120)]),
)
@settings(max_examples=12, deadline=None)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, fps: Fraction
) -> None:
    path = tmp_path_factory.mktemp("movie") / "out.mp4"
    frames = [cv2.GaussianBlur(rgb, (0, 0), 3) for rgb in pictures(5, height, width)]
    with VideoWriter(path, fps, crf=5) as writer:
        for rgb in frames:
            writer.write(rgb)
    read = list(read_video(path))
    assert [r.shape for r in read] == [(height + height % 2, width + width % 2, 3)] * 5
    for got, want in zip(read, frames, strict=True):
        # Colours are stored at half the resolution; the tint of a 2-pixel picture is not to be had.
        assert np.abs(got[:height, :width].astype(int) - want).mean() < 12
    assert probe(path).fps == fps
    assert os.listdir(path.parent) == ["out.mp4"]


def test_a_browser_can_play_it(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, 25) as writer:
        for rgb in pictures(5, 63, 95):
            writer.write(rgb)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        picture = next(container.decode(stream))
        assert (picture.colorspace, picture.color_range) == (1, 1)


def test_colours_survive(tmp_path: Path) -> None:
    colours = [(200, 30, 30), (30, 180, 30), (40, 40, 210), (255, 255, 255), (0, 0, 0), (128, 128, 128)]
    with VideoWriter(tmp_path / "out.mp4", 25, crf=5) as writer:
        for colour in colours:
            writer.write(np.full((48, 64, 3), colour, np.uint8))
    for got, want in zip(read_video(tmp_path / "out.mp4"), colours, strict=True):
        assert np.abs(got[24, 32].astype(int) - want).max() <= 4


def test_an_error_leaves_no_movie(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(RuntimeError), VideoWriter(path, 25) as writer:  # noqa: PT012
        for rgb in pictures(5, 64, 96):
            writer.write(rgb)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_movie_keeps_its_place_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_text("old")
    with VideoWriter(path, 25) as writer:
        for rgb in pictures(3, 64, 96):
            writer.write(rgb)
            assert path.read_text() == "old"
    assert len(list(read_video(path))) == 3


def test_no_frame_makes_no_movie(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", 25):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_no_movie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", 25)
    frames = list(pictures(3, 64, 96))
    writer.write(frames[0])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    class Full:
        def __init__(self, container: object) -> None:
            self.close = container.close  # type: ignore[attr-defined]
            self.mux = full

    monkeypatch.setattr(writer, "_container", Full(writer._container))
    with pytest.raises(UserError, match=r"disk is full: .*out\.mp4.* stay"):
        writer.write(frames[1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here to stand for a full disk")
def test_ffmpegs_own_full_disk_is_told(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", 25)
    writer._container.close()
    writer._container = av.open("/dev/full", "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"})
    with pytest.raises(UserError, match="disk is full"):  # noqa: PT012
        for _ in range(40):
            writer.write(np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8))
        writer.close()


@pytest.mark.parametrize("fps", [0, -1, 5000])
def test_a_rate_that_is_none_is_refused(tmp_path: Path, fps: int) -> None:
    with pytest.raises(UserError, match="frames per second"):
        VideoWriter(tmp_path / "out.mp4", fps)


def test_two_frames_at_one_time_are_both_kept(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25) as writer:
        for rgb, time in zip(pictures(4, 64, 96), (0.0, 0.5, 0.5, 0.4), strict=True):
            writer.write(rgb, Fraction(time))
    assert len(list(read_video(tmp_path / "a.mp4"))) == 4


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    frame = next(pictures(1, 64, 96))
    with pytest.raises(ValueError, match="shape"), VideoWriter(tmp_path / "a.mp4", 25) as writer:  # noqa: PT012
        writer.write(frame)
        writer.write(frame[:32])
    assert list(tmp_path.iterdir()) == []


def _no_file(path: Path) -> None:
    pass


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def _text(path: Path) -> None:
    path.write_text("hello\n" * 100)


def _cut(path: Path) -> None:
    # The index of an mp4 stands at its end.
    data = write_movie(path, list(pictures(10, 64, 96))).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _sound_only(path: Path) -> None:
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def _no_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        container.start_encoding()


@pytest.mark.parametrize("spoil", [_no_file, _empty, _garbage, _text, _cut, _sound_only, _no_frames])
@pytest.mark.parametrize("use", [lambda path: list(read_video(path)), probe])
def test_what_is_no_movie_is_named(tmp_path: Path, spoil, use) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "bad.mp4"
    spoil(path)
    with pytest.raises(UserError, match=r"bad\.mp4"):
        use(path)


def test_a_folder_is_no_movie(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no movie"):
        next(read_video(tmp_path))


def test_the_whole_part_of_a_damaged_movie_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 64, 96, 3), np.uint8)
    data = bytearray(write_movie(tmp_path / "whole.mkv", list(noise), "mpeg4").read_bytes())
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    assert 5 < len(list(read_video(tmp_path / "cut.mkv"))) < 20
    for position in range(len(data) // 2, len(data) // 2 + 3000):
        data[position] = 255 - data[position]
    (tmp_path / "spoilt.mkv").write_bytes(data)
    assert len(list(read_video(tmp_path / "spoilt.mkv"))) > 5


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    frame = next(pictures(1, 64, 96))
    peaks = {}
    tracemalloc.start()
    try:
        with VideoWriter(path, 25) as writer:
            for index in range(2000):
                writer.write(frame)
                if index == 200:
                    tracemalloc.reset_peak()
                    early = tracemalloc.get_traced_memory()[0]
        peaks["write"] = tracemalloc.get_traced_memory()[1] - early
        count = 0
        for _ in read_video(path):
            count += 1
            if count == 200:
                tracemalloc.reset_peak()
                early = tracemalloc.get_traced_memory()[0]
        peaks["read"] = tracemalloc.get_traced_memory()[1] - early
    finally:
        tracemalloc.stop()
    assert count == 2000
    # A frame has 18 kB: 1800 of them would be 33 MB.
    assert max(peaks.values()) < 2_000_000


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tiff"])
def test_images_come_back(tmp_path: Path, suffix: str) -> None:
    image = cv2.GaussianBlur(next(pictures(1, 41, 53)), (0, 0), 2)
    write_image(tmp_path / "new" / f"a{suffix}", image)
    back = read_image(tmp_path / "new" / f"a{suffix}")
    assert np.abs(back.astype(int) - image).mean() < (6 if suffix in (".jpg", ".webp") else 1e-9)
    assert os.listdir(tmp_path / "new") == [f"a{suffix}"]


@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([0, 3, 4]), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_png_is_exact(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, channels: int, seed: int
) -> None:
    shape = (height, width, channels) if channels else (height, width)
    image = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    path = tmp_path_factory.mktemp("image") / "a.png"
    write_image(path, image)
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert raw.shape == shape
    order = {0: raw, 3: raw[..., ::-1] if raw.ndim == 3 else raw, 4: raw[..., [2, 1, 0, 3]] if channels == 4 else raw}
    np.testing.assert_array_equal(order[channels], image)


def test_a_photograph_is_turned_as_it_is_seen(tmp_path: Path) -> None:
    from PIL import Image

    image = next(pictures(1, 40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter clockwise
    Image.fromarray(image).save(tmp_path / "a.jpg", exif=exif, quality=95)
    back = read_image(tmp_path / "a.jpg")
    assert np.abs(back.astype(int) - np.rot90(image, -1)).mean() < 10


def test_grey_and_deep_images_become_rgb(tmp_path: Path) -> None:
    deep = np.full((8, 9), 40000, np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    back = read_image(tmp_path / "deep.png")
    assert back.shape == (8, 9, 3)
    assert np.abs(back.astype(int) - 156).max() <= 1


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_cut_image_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = path.read_bytes()
    for keep in (len(data) * 9 // 10, len(data) // 2, 300, 3, 0):
        path.write_bytes(data[:keep])
        with pytest.raises(UserError, match=rf"a\{suffix}.*again"):
            read_image(path)


def test_a_cut_photograph_with_a_preview_is_named(tmp_path: Path) -> None:
    preview = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = cv2.imencode(".jpg", image)[1].tobytes()
    segment = b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview
    whole = data[:2] + segment + data[2:]
    (tmp_path / "a.jpg").write_bytes(whole)
    assert read_image(tmp_path / "a.jpg").shape == (64, 64, 3)
    (tmp_path / "a.jpg").write_bytes(whole[:-500])
    with pytest.raises(UserError, match="cut short"):
        read_image(tmp_path / "a.jpg")


def test_a_missing_or_foreign_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.png cannot be read"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png .* not an image"):
        read_image(tmp_path / "text.png")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_an_image_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    write_image(tmp_path / "before.png", np.zeros((4, 4), np.uint8))

    def fail(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(UserError, match="disk is full" if code == errno.ENOSPC else r"could not be written"):
        write_image(tmp_path / "after.png", np.zeros((4, 4), np.uint8))
    assert os.listdir(tmp_path) == ["before.png"]


@pytest.mark.parametrize("image", [np.zeros((4, 4), float), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)])
def test_only_pictures_are_written(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cannot write"):
        write_image(tmp_path / "a.png", image)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_writable(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*output=<folder>"):
        ensure_writable(tmp_path / "file" / "below")

    def denied(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(video_io.tempfile, "TemporaryFile", denied)
    with pytest.raises(UserError, match=r"Permission denied"):
        ensure_writable(tmp_path)

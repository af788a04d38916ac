"""Video files: codecs, rotation, odd sizes, frame rates, damaged files, atomic writes, constant memory."""

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
from maskvos.media.encode import Display
from maskvos.media.video import Reading, VideoWriter, probe, read_video, variable_timestamps


def colour_frames(count: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Four coloured quarters, red at the top left, and a white bar that moves down."""
    for index in range(count):
        rgb = np.zeros((height, width, 3), np.uint8)
        rgb[: height // 2, : width // 2] = (200, 30, 30)
        rgb[: height // 2, width // 2 :] = (30, 180, 30)
        rgb[height // 2 :, : width // 2] = (40, 40, 210)
        rgb[height // 2 :, width // 2 :] = (120, 120, 120)
        top = index * 4 % height
        rgb[top : top + 4] = 255
        yield rgb


def encode_video(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    rate: int = 25,
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    ticks: Sequence[int] | None = None,
) -> Path:
    """Encode a video with PyAV; ticks are timestamps in milliseconds."""
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
def test_all_frames_of_every_codec_are_decoded(tmp_path: Path, codec: str, suffix: str, pix_fmt: str) -> None:
    frames = list(colour_frames(12, 64, 96))
    path = encode_video(tmp_path / f"video{suffix}", frames, codec, pix_fmt=pix_fmt)
    read = list(read_video(path))
    assert len(read) == 12
    for got, want in zip(read, frames, strict=True):
        assert got.shape == want.shape
        assert got.dtype == np.uint8
        assert np.abs(got.astype(int) - want).mean() < 8
    info = probe(path)
    assert (info.width, info.height, info.fps) == (96, 64, 25)
    assert info.length == 12


@pytest.mark.parametrize(("codec", "pix_fmt"), [("libx264", "yuv444p"), ("libvpx-vp9", "yuv420p")])
def test_odd_sizes_are_kept_when_reading(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    path = encode_video(tmp_path / "odd.mkv", list(colour_frames(3, 51, 67)), codec, pix_fmt=pix_fmt)
    assert [frame.shape for frame in read_video(path)] == [(51, 67, 3)] * 3
    assert (probe(path).width, probe(path).height) == (67, 51)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotated_videos_are_read_upright(tmp_path: Path, rotation: int) -> None:
    frames = list(colour_frames(3, 64, 96))
    path = encode_video(tmp_path / "rotated.mp4", frames, rotation=rotation)
    upright = [np.rot90(frame, rotation // 90) for frame in frames]
    read = list(read_video(path))
    for got, want in zip(read, upright, strict=True):
        assert got.shape == want.shape
        assert got.flags.c_contiguous
        assert np.abs(got.astype(int) - want).mean() < 8
    info = probe(path)
    assert (info.height, info.width) == upright[0].shape[:2]
    assert info.rotation == rotation % 360


def test_the_rotation_of_a_phone_video_is_clockwise(tmp_path: Path) -> None:
    # The display matrix (0 1; -1 0) of a phone held upright, patched into the file header.
    path = encode_video(tmp_path / "phone.mp4", list(colour_frames(2, 64, 96)))
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    matrix = np.array([0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000], ">i4")
    data[start : start + 36] = matrix.tobytes()
    path.write_bytes(bytes(data))
    first = next(read_video(path))
    assert first.shape == (96, 64, 3)
    # A clockwise rotation moves red from the top left to the top right.
    assert np.abs(first[20, 50].astype(int) - (200, 30, 30)).max() < 20


def test_timestamps_of_a_variable_frame_rate(tmp_path: Path) -> None:
    ticks = [0, 40, 80, 200, 240, 500, 540]
    path = encode_video(tmp_path / "variable.mkv", list(colour_frames(7, 64, 96)), ticks=ticks)
    times = variable_timestamps(path)
    assert times is not None
    np.testing.assert_allclose([float(t) for t in times], np.array(ticks) / 1000, atol=1e-3)
    assert len(list(read_video(path))) == 7


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi"])
def test_a_constant_frame_rate_has_no_timestamps(tmp_path: Path, suffix: str) -> None:
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(suffix, "libx264")
    path = encode_video(tmp_path / f"constant{suffix}", list(colour_frames(10, 64, 96)), codec, rate=30)
    assert variable_timestamps(path) is None
    assert abs(probe(path).fps - 30) < 0.1


def test_a_variable_frame_rate_is_written_with_its_timestamps(tmp_path: Path) -> None:
    times = [Fraction(t, 1000) for t in (0, 40, 80, 200, 240, 500)]
    path = tmp_path / "out.mp4"
    with VideoWriter(path, 25) as writer:
        for rgb, time in zip(colour_frames(6, 64, 96), times, strict=True):
            writer.write(rgb, time)
    again = variable_timestamps(path)
    assert again is not None
    np.testing.assert_allclose([float(t) for t in again], [float(t) for t in times], atol=1e-4)


@given(
    height=st.integers(2, 70),
    width=st.integers(2, 70),
    fps=st.sampled_from([Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(15, 2), Fraction(120)]),
)
@settings(max_examples=12, deadline=None)
def test_written_frames_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, fps: Fraction
) -> None:
    path = tmp_path_factory.mktemp("video") / "out.mp4"
    frames = [cv2.GaussianBlur(rgb, (0, 0), 3) for rgb in colour_frames(5, height, width)]
    with VideoWriter(path, fps, crf=5) as writer:
        for rgb in frames:
            writer.write(rgb)
    read = list(read_video(path))
    assert [r.shape for r in read] == [(height + height % 2, width + width % 2, 3)] * 5
    for got, want in zip(read, frames, strict=True):
        # 4:2:0 halves the chroma resolution, so the colours of a 2-pixel image are lost.
        assert np.abs(got[:height, :width].astype(int) - want).mean() < 12
    assert probe(path).fps == fps
    assert os.listdir(path.parent) == ["out.mp4"]


def test_written_videos_play_in_browsers(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, 25) as writer:
        for rgb in colour_frames(5, 63, 95):
            writer.write(rgb)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        picture = next(container.decode(stream))
        assert (picture.colorspace, picture.color_range) == (1, 1)


def test_colours_are_preserved(tmp_path: Path) -> None:
    colours = [(200, 30, 30), (30, 180, 30), (40, 40, 210), (255, 255, 255), (0, 0, 0), (128, 128, 128)]
    with VideoWriter(tmp_path / "out.mp4", 25, crf=5) as writer:
        for colour in colours:
            writer.write(np.full((48, 64, 3), colour, np.uint8))
    for got, want in zip(read_video(tmp_path / "out.mp4"), colours, strict=True):
        assert np.abs(got[24, 32].astype(int) - want).max() <= 4


@pytest.mark.parametrize(("size", "matrix"), [((720, 1280), 1), ((96, 128), 6)])
def test_colours_of_a_video_that_states_none_are_those_that_players_show(tmp_path: Path, size, matrix: int) -> None:
    colour = np.array([200, 60, 30], np.uint8)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        (stream.height, stream.width), stream.pix_fmt = size, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.broadcast_to(colour, (*size, 3)).copy())
        picture = picture.reformat(format="yuv420p", dst_colorspace=matrix)
        picture.colorspace = 2  # unknown
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    (shown,) = read_video(tmp_path / "a.mp4")
    assert np.abs(shown.astype(int) - colour).max() <= 4
    assert probe(tmp_path / "a.mp4").display == Display()


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(RuntimeError), VideoWriter(path, 25) as writer:  # noqa: PT012
        for rgb in colour_frames(5, 64, 96):
            writer.write(rgb)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_text("old")
    with VideoWriter(path, 25) as writer:
        for rgb in colour_frames(3, 64, 96):
            writer.write(rgb)
            assert path.read_text() == "old"
    assert len(list(read_video(path))) == 3


def test_without_frames_no_file_is_written(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", 25):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", 25)
    frames = list(colour_frames(3, 64, 96))
    writer.write(frames[0])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    class Full:
        def __init__(self, container: object) -> None:
            self.close = container.close  # type: ignore[attr-defined]
            self.mux = full

    monkeypatch.setattr(writer, "_container", Full(writer._container))
    with pytest.raises(UserError, match=r"disk is full: .*out\.mp4.* are kept"):
        writer.write(frames[1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_in_ffmpeg_is_reported(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", 25)
    writer._container.close()
    writer._container = av.open("/dev/full", "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"})
    with pytest.raises(UserError, match="disk is full"):  # noqa: PT012
        for _ in range(40):
            writer.write(np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8))
        writer.close()


@pytest.mark.parametrize("fps", [0, -1, 5000])
def test_invalid_frame_rates_are_rejected(tmp_path: Path, fps: int) -> None:
    with pytest.raises(UserError, match="frames per second"):
        VideoWriter(tmp_path / "out.mp4", fps)


def test_frames_with_equal_timestamps_are_kept(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25) as writer:
        for rgb, time in zip(colour_frames(4, 64, 96), (0.0, 0.5, 0.5, 0.4), strict=True):
            writer.write(rgb, Fraction(time))
    assert len(list(read_video(tmp_path / "a.mp4"))) == 4


def test_frames_of_another_size_are_rejected(tmp_path: Path) -> None:
    frame = next(colour_frames(1, 64, 96))
    with pytest.raises(ValueError, match="shape"), VideoWriter(tmp_path / "a.mp4", 25) as writer:  # noqa: PT012
        writer.write(frame)
        writer.write(frame[:32])
    assert list(tmp_path.iterdir()) == []


def _missing(path: Path) -> None:
    pass


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def _plain_text(path: Path) -> None:
    path.write_text("hello\n" * 100)


def _truncated(path: Path) -> None:
    # An mp4 has its index at the end.
    data = encode_video(path, list(colour_frames(10, 64, 96))).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _audio_only(path: Path) -> None:
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        audio = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        audio.sample_rate = 8000
        container.mux(stream.encode(audio))
        container.mux(stream.encode(None))


def _unknown_codec(path: Path) -> None:
    data = encode_video(path, list(colour_frames(3, 64, 96))).read_bytes()
    path.write_bytes(data.replace(b"avc1", b"zzzz"))


def _no_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        container.start_encoding()


@pytest.mark.parametrize(
    "corrupt", [_missing, _empty, _garbage, _plain_text, _truncated, _audio_only, _unknown_codec, _no_frames]
)
@pytest.mark.parametrize("use", [lambda path: list(read_video(path)), probe])
def test_unreadable_videos_are_named_in_the_error(tmp_path: Path, corrupt, use) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "bad.mp4"
    corrupt(path)
    with pytest.raises(UserError, match=r"bad\.mp4"):
        use(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_texts_in_another_encoding_do_not_matter(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Zwolf"
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for frame in colour_frames(3, 64, 96):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"Zwolf", "Zwölf".encode("latin-1")))
    assert len(list(read_video(path))) == 3
    assert probe(path).width == 96


def test_a_folder_is_not_a_video(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        next(read_video(tmp_path))


def test_intact_frames_of_a_damaged_video_are_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 64, 96, 3), np.uint8)
    data = bytearray(encode_video(tmp_path / "intact.mkv", list(noise), "mpeg4").read_bytes())
    (tmp_path / "truncated.mkv").write_bytes(data[: len(data) * 2 // 3])
    assert 5 < len(list(read_video(tmp_path / "truncated.mkv"))) < 20
    for position in range(len(data) // 2, len(data) // 2 + 3000):
        data[position] = 255 - data[position]
    (tmp_path / "damaged.mkv").write_bytes(data)
    assert len(list(read_video(tmp_path / "damaged.mkv"))) > 5


def test_memory_is_constant(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    frame = next(colour_frames(1, 64, 96))
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
    # A frame takes 18 kB: 1800 frames would take 33 MB.
    assert max(peaks.values()) < 2_000_000


def flipped(path: Path, bits: int = 10) -> None:
    """Flip bits in the middle of a file, where the frames are."""
    data, random = bytearray(path.read_bytes()), np.random.default_rng(0)
    for place in random.integers(len(data) // 4, len(data) * 3 // 4, bits):
        data[place] ^= 4
    path.write_bytes(data)


def test_damaged_frames_are_counted_and_decoded_alike_every_time(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 64, 96, 3), np.uint8)
    path = encode_video(tmp_path / "a.mp4", list(noise))
    whole = Reading()
    assert len(list(read_video(path, whole))) == 20
    assert (whole.frames, whole.damaged, whole.expected, whole.ended, whole.problem) == (20, 0, 20, True, "")
    flipped(path)
    digests = set()
    for _ in range(5):
        reading = Reading()
        digests.add(hash(b"".join(frame.tobytes() for frame in read_video(path, reading))))
        assert reading.damaged > 0
        assert f"{reading.damaged} of {reading.frames} frames have errors" in reading.problem
        digests.add(reading.damaged)
    assert len(digests) == 2


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx-vp9")])
def test_a_video_that_ends_early_is_short(
    tmp_path: Path, suffix: str, codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    frames = list(np.random.default_rng(0).integers(0, 255, (50, 64, 96, 3), np.uint8))
    path = encode_video(tmp_path / f"a{suffix}", frames, codec)
    if suffix == ".mp4":  # the index first, as in downloads
        with VideoWriter(path, 25) as writer:
            for frame in frames:
                writer.write(frame)
    reading = Reading()
    assert len(list(read_video(path, reading))) == 50
    assert not reading.problem
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    reading = Reading()
    count = len(list(read_video(path, reading)))
    assert 10 < count < 40
    assert reading.frames == count
    assert reading.short
    assert reading.expected == 50
    assert f"it ends after {count} of about 50 frames" in caplog.text


_CONSTANT = [(".avi", "mpeg4"), (".avi", "libx264"), (".mpg", "mpeg2video")]
_VARIABLE = [
    (".mp4", "libx264"),
    (".mov", "mpeg4"),
    (".mkv", "libx264"),
    (".webm", "libvpx-vp9"),
    (".ts", "libx264"),
    (".flv", "libx264"),
]


@pytest.mark.parametrize(
    ("suffix", "codec", "uneven", "begin"),
    [
        *((*kind, False, 0) for kind in _CONSTANT),
        (".avi", "mpeg4", True, 0),
        *((*kind, uneven, begin) for kind in _VARIABLE for uneven in (False, True) for begin in (0, 2000)),
    ],
)
def test_an_intact_video_has_no_problem(tmp_path: Path, suffix: str, codec: str, uneven: bool, begin: int) -> None:
    steps = [40, 40, 160, 40, 320, 40, 40, 600, 40, 40] if uneven else [40] * 10
    ticks = [begin + sum(steps[:index]) for index in range(10)]
    path = encode_video(
        tmp_path / f"a{suffix}", list(colour_frames(10, 64, 96)), codec, ticks=ticks if uneven or begin else None
    )
    reading = Reading()
    assert len(list(read_video(path, reading))) == 10
    assert reading.problem == ""
    assert (reading.frames, reading.expected, reading.ended) == (10, 10, True)


def test_a_video_of_huge_frames_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode_video(tmp_path / "a.mp4", list(colour_frames(2, 64, 96)))
    monkeypatch.setattr("maskvos.media.images.MAX_PIXELS", 64 * 96 - 1)
    for use in (probe, lambda path: list(read_video(path))):
        with pytest.raises(UserError, match=r"a\.mp4 is 96x64 pixels"):
            use(path)


def test_two_writers_of_one_file_do_not_mix_and_follow_no_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    for name in (".out.partial.mp4", ".out.mp4.part"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    frames = list(colour_frames(20, 64, 96))
    with VideoWriter(tmp_path / "out.mp4", 25) as one, VideoWriter(tmp_path / "out.mp4", 25) as other:
        for frame in frames:
            one.write(frame)
            other.write(frame[::-1])
    assert len(list(read_video(tmp_path / "out.mp4"))) == 20
    assert (tmp_path / "precious").read_text() == "kept"


def test_equal_frames_give_equal_files(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (10, 320, 96, 3), np.uint8)
    for name in "ab":
        with VideoWriter(tmp_path / f"{name}.mp4", 25) as writer:
            for frame in frames:
                writer.write(frame)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data == (tmp_path / "b.mp4").read_bytes()
    assert b"threads=4 " in data  # not the number of this machine's cores


def test_titles_that_are_not_utf8_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "plain"
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"plain", b"pl\xe5in"))
    assert len(list(read_video(path))) == 1
    with VideoWriter(tmp_path / "copy.mp4", fps=25, sound=path) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
    assert probe(tmp_path / "copy.mp4").frames == 1

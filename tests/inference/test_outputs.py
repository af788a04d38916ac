"""The kinds of results: what other tools read in them is the mask, at the right time, with the sound."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import fakes
from brightness import manifest, predict
from maskvos.errors import UserError
from maskvos.inference.outputs import KINDS
from maskvos.inference.outputs.coco import encode_rle
from maskvos.media.encode import PRORES_4444, Display
from maskvos.media.video import VideoWriter, probe, read_video, variable_timestamps

UNEVEN = [Fraction(t, 1000) for t in (0, 40, 80, 300, 340, 700)]
MOVIES = [kind for kind in KINDS if KINDS[kind].is_file and kind != "coco"]


def movie(path: Path, frames: int = 6, size: tuple[int, int] = fakes.SIZE, times: list[Fraction] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, 25) as writer:
        for index in range(frames):
            writer.write(fakes.frame(index, size), times[index] if times else None)
    return path


def loud_movie(path: Path, codec: str, container: str, rotation: int = 0, begin: int = 0) -> Path:
    """Two seconds of a tone, and of pictures that begin some frames later."""
    with av.open(str(path), "w", format=container) as target:
        video, audio = target.add_stream("libx264", rate=25), target.add_stream(codec, rate=48000, layout="mono")
        video.height, video.width, video.pix_fmt = *fakes.SIZE, "yuv420p"
        if rotation:
            video.set_display_rotation(rotation)
        for index in range(50 - begin):
            picture = av.VideoFrame.from_ndarray(fakes.frame(index))
            picture.pts, picture.time_base = index + begin, Fraction(1, 25)
            target.mux(video.encode(picture))
        target.mux(video.encode(None))
        tone = (np.sin(np.arange(96000) * 0.06) * 8000).astype(np.int16)
        raw = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        raw.sample_rate, raw.pts = 48000, 0
        resampler = av.AudioResampler(audio.format.name, "mono", 48000, audio.codec_context.frame_size or 1024)
        for sound in (*resampler.resample(raw), *resampler.resample(None)):
            target.mux(audio.encode(sound))
        target.mux(audio.encode(None))
    return path


def sound(path: Path) -> list[tuple[float, bytes]]:
    """Time and content of each packet of sound."""
    with av.open(str(path)) as container:
        streams = container.streams.audio
        packets = container.demux(streams[0]) if streams else []
        return [(float(packet.pts * packet.time_base), bytes(packet)) for packet in packets if packet.size]


def rgba(path: Path, decoder: str | None = None) -> Iterator[np.ndarray]:
    """The frames of a movie with their transparency; FFmpeg's own decoder of VP9 does not show it."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = av.CodecContext.create(decoder, "r") if decoder else stream.codec_context
        for packet in container.demux(stream):
            for picture in context.decode(packet if packet.size else None):
                yield picture.to_ndarray(format="rgba")


def cutout_alphas(out: Path) -> list[np.ndarray]:
    return [cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., 3] for path in sorted((out / "cutout").iterdir())]


def masks(out: Path) -> list[np.ndarray]:
    return [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((out / "masks").iterdir())]


@pytest.mark.parametrize(("kind", "decoder"), [("webm", "libvpx-vp9"), ("prores", None)])
@pytest.mark.parametrize("size", [fakes.SIZE, (49, 81)])
@pytest.mark.parametrize("soft_edges", [True, False])
def test_the_transparency_of_a_movie_is_that_of_the_cutouts(
    tmp_path: Path, kind: str, decoder: str | None, size: tuple[int, int], soft_edges: bool
) -> None:
    for index in range(6):
        fakes.write_frame(tmp_path / "a" / f"{index:05d}.png", index, size)
    predict(tmp_path / "a", tmp_path / "out", kinds=["masks", "cutout", kind], frame_rate=25, soft_edges=soft_edges)
    out = tmp_path / "out" / "a"
    found = list(rgba(out / KINDS[kind].place, decoder))
    assert len(found) == 6
    for index, (frame, alpha, mask) in enumerate(zip(found, cutout_alphas(out), masks(out), strict=True)):
        assert mask.any()
        assert not mask.all()
        if not soft_edges:
            np.testing.assert_array_equal(alpha, mask)
        error = np.abs(frame[..., 3].astype(int) - alpha)
        assert error.mean() < 0.5
        assert error.max() < 32
        inside = np.abs(frame[..., :3].astype(int) - fakes.frame(index, size))[alpha == 255]
        assert inside.mean() < 12
    # Far from the object nothing is left of the background, which a viewer could make visible.
    far = cv2.dilate(mask, np.ones((35, 35), np.uint8)) == 0
    assert found[-1][far, :3].max() < 12


def test_the_transparency_of_webp_is_that_of_the_cutouts(tmp_path: Path) -> None:
    predict(movie(tmp_path / "a.mp4"), tmp_path / "out", kinds=["cutout", "webp"])
    out = tmp_path / "out" / "a"
    with Image.open(out / "cutout.webp") as animation:
        assert animation.n_frames == 6
        for index, mask in enumerate(cutout_alphas(out)):
            animation.seek(index)
            alpha = np.array(animation.convert("RGBA"))[..., 3]
            assert np.abs(alpha.astype(int) - mask).max() <= 2


def test_the_mask_movie_is_lossless_and_the_matte_is_the_transparency(tmp_path: Path) -> None:
    predict(
        movie(tmp_path / "a.mp4", 3, (240, 400)), tmp_path / "out", kinds=["masks", "cutout", "mask_movie", "matte"]
    )
    out = tmp_path / "out" / "a"
    with av.open(str(out / "masks.mkv")) as container:
        assert container.streams.video[0].codec_context.name == "ffv1"
        found = [picture.to_ndarray() for picture in container.decode(video=0)]
    for got, mask in zip(found, masks(out), strict=True):
        np.testing.assert_array_equal(got, mask)
    for picture, alpha in zip(read_video(out / "matte.mp4"), cutout_alphas(out), strict=True):
        assert len(set(np.unique(alpha))) > 10  # soft
        assert np.abs(picture.astype(int) - alpha[..., None]).mean() < 6


def test_gif_has_the_masks_transparency_and_its_colours(tmp_path: Path) -> None:
    predict(movie(tmp_path / "a.mp4", times=UNEVEN), tmp_path / "out", kinds=["cutout", "gif"])
    out = tmp_path / "out" / "a"
    with Image.open(out / "cutout.gif") as animation:
        assert animation.n_frames == 6
        durations = []
        for index, alpha in enumerate(cutout_alphas(out)):
            animation.seek(index)
            durations.append(animation.info["duration"])
            shown = np.array(animation.convert("RGBA"))
            np.testing.assert_array_equal(shown[..., 3] > 0, alpha >= 128)
            inside = alpha == 255
            assert np.abs(shown[inside, :3].astype(int) - fakes.frame(index)[inside]).mean() < 12
        assert durations[:5] == [40, 40, 220, 40, 360]


@pytest.mark.parametrize(
    ("kind", "background", "colour"),
    [("background", (0, 60, 220), (0, 60, 220)), ("background", "#102030", (16, 32, 48)),
     ("background", "magenta", (255, 0, 255)), ("green_screen", "blur", (0, 255, 0))],
)  # fmt: skip
def test_the_background_has_the_colour_that_is_asked_for(tmp_path: Path, kind: str, background, colour) -> None:
    for index in range(3):
        fakes.write_frame(tmp_path / "a" / f"{index:05d}.png", index)
    predict(tmp_path / "a", tmp_path / "out", kinds=["masks", kind], background=background)
    out = tmp_path / "out" / "a"
    for index, (picture, mask) in enumerate(zip(read_video(out / KINDS[kind].place), masks(out), strict=True)):
        inside = cv2.erode(mask, np.ones((5, 5))) > 0
        outside = cv2.dilate(mask, np.ones((5, 5))) == 0
        assert np.abs(picture[outside].astype(int) - colour).mean() < 8
        assert np.abs(picture[inside].astype(int) - fakes.frame(index)[inside]).mean() < 8


def test_another_background_is_not_mixed_with_the_first(tmp_path: Path) -> None:
    fakes.write_folder(tmp_path / "a", 1)
    beach = tmp_path / "beach.png"
    fakes.write_frame(beach, 0)
    predict(tmp_path / "a", tmp_path / "out", kinds=["background"], background=beach)
    assert predict(tmp_path / "a", tmp_path / "out", kinds=["background"], background=str(beach)).skipped == 1
    fakes.write_frame(beach, 5)
    os.utime(beach, ns=(1, 1))
    for other in (beach, "blur"):
        with pytest.raises(UserError, match="with background="):
            predict(tmp_path / "a", tmp_path / "out", kinds=["background"], background=other)


def test_an_object_in_the_colour_of_the_screen_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fakes.write_folder(tmp_path / "a", 2)  # an orange object
    predict(tmp_path / "a", tmp_path / "out", kinds=["background", "green_screen"], background="orange")
    assert re.search(r"a: 9\d% of the object has about the colour of the background", caplog.text)
    assert len(caplog.records) == 1  # not in front of green
    caplog.clear()
    predict(tmp_path / "a", tmp_path / "auto", kinds=["background"], background="auto")
    assert not caplog.records


def test_a_movie_as_background_runs_at_its_own_rate_from_the_start(tmp_path: Path) -> None:
    levels = (40, 90, 140)
    with VideoWriter(tmp_path / "other.mp4", 10) as writer:  # 0.3 s, again and again
        for level in levels:
            writer.write(np.full((100, 60, 3), level, np.uint8))
    source = movie(tmp_path / "a.mp4", 20)
    predict(source, tmp_path / "out", kinds=["masks", "background"], background=tmp_path / "other.mp4")
    out = tmp_path / "out" / "a"
    for index, (picture, mask) in enumerate(zip(read_video(out / "background.mp4"), masks(out), strict=True)):
        outside = cv2.dilate(mask, np.ones((9, 9))) == 0
        shown = levels[int(index / 25 * 10 + 1e-6) % 3]
        assert np.abs(picture[outside].astype(int) - shown).mean() < 6, index


@pytest.mark.parametrize("display", [Display(), Display(9, 16, 9, Fraction(4, 3)), Display(6, 6, 6, Fraction(16, 15))])
def test_movies_keep_colours_and_proportions(tmp_path: Path, display: Display) -> None:
    """BT.709; HDR10 and PAL DV, whose pixels are not square."""
    colour = np.array([200, 60, 30])
    with VideoWriter(tmp_path / "a.mp4", 25, display=display) as writer:
        for _ in range(2):
            writer.write(np.broadcast_to(colour, (48, 80, 3)).astype(np.uint8))
    kinds = ("overlay", "background", "matte", "webm", "prores")
    predict(tmp_path / "a.mp4", tmp_path / "out", kinds=kinds, outline=0, opacity=0.0)
    for kind in kinds:
        place = tmp_path / "out" / "a" / KINDS[kind].place
        # PyAV cannot write into Matroska files that pixels are not square.
        aspect = 1 if kind == "webm" else display.aspect
        assert probe(place).display == display._replace(aspect=aspect), kind
        shown = next(read_video(place))
        if kind != "matte":
            # FFmpeg 8.0, of PyAV 17, is further off in BT.2020.
            near = 6 if int(av.__version__.split(".")[0]) > 17 else 15
            assert np.abs(shown[10:-10, 10:-10] - colour).max() < near, kind


@pytest.mark.parametrize("kind", MOVIES)
def test_movies_keep_the_rate_and_uneven_times(tmp_path: Path, kind: str) -> None:
    movie(tmp_path / "in" / "even.mp4")
    movie(tmp_path / "in" / "uneven.mp4", times=UNEVEN)
    predict(tmp_path / "in", tmp_path / "out", kinds=[kind])
    even, uneven = (tmp_path / "out" / name / KINDS[kind].place for name in ("even", "uneven"))
    if kind in ("webp", "gif"):
        with Image.open(uneven) as animation:
            durations = [animation.seek(i) or (animation.load() and animation.info["duration"]) for i in range(5)]
        assert durations == [40, 40, 220, 40, 360]
        return
    assert float(probe(even).fps) == pytest.approx(25, abs=0.1)
    written = variable_timestamps(uneven)
    assert written is not None
    np.testing.assert_allclose([float(t) for t in written], [float(t) for t in UNEVEN], atol=2e-3)


@pytest.mark.parametrize(
    ("codec", "container", "kinds"),
    [
        ("aac", "mp4", {"overlay", "green_screen", "background", "side_by_side", "matte", "prores"}),
        ("libopus", "matroska", {"overlay", "webm"}),
        ("pcm_s16le", "mov", {"prores"}),
    ],
)
def test_the_sound_is_copied_where_the_format_allows(
    tmp_path: Path, codec: str, container: str, kinds: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    source = loud_movie(tmp_path / "a.movie", codec, container)
    before = sound(source)
    assert len(before) > 40
    predict(source, tmp_path / "out", kinds=[*kinds, "mask_movie"])
    for kind in kinds:
        after = sound(tmp_path / "out" / "a" / KINDS[kind].place)
        assert [data for _, data in after] == [data for _, data in before]
        np.testing.assert_allclose([time for time, _ in after], [time for time, _ in before], atol=2e-3)
    assert not caplog.records
    assert not sound(tmp_path / "out" / "a" / "masks.mkv")


@pytest.mark.parametrize(("kind", "codec", "container"), [("webm", "aac", "mp4"), ("prores", "libopus", "matroska")])
@pytest.mark.parametrize("begin", [0, 10])
def test_sound_that_the_format_cannot_have_is_encoded_anew_in_step(
    tmp_path: Path, kind: str, codec: str, container: str, begin: int, caplog: pytest.LogCaptureFixture
) -> None:
    predict(loud_movie(tmp_path / "a.movie", codec, container, begin=begin), tmp_path / "out", kinds=[kind])
    with av.open(str(tmp_path / "out" / "a" / KINDS[kind].place)) as movie:
        frames = list(movie.decode(audio=0))
    with av.open(str(tmp_path / "out" / "a" / KINDS[kind].place)) as movie:
        first = next(movie.decode(video=0)).time
    tone = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    assert frames[0].time == pytest.approx(first, abs=0.21)  # as in the source, it may begin before the pictures
    assert frames[0].time - first + len(tone) / 48000 == pytest.approx(2 - begin / 25, abs=0.05)
    spectrum = np.abs(np.fft.rfft(tone[4800:52800]))
    assert spectrum.argmax() == pytest.approx(0.06 / (2 * np.pi) * 48000, abs=2)
    assert not caplog.records


def test_sound_that_cannot_be_written_does_not_spoil_the_movie(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = loud_movie(tmp_path / "a.mkv", "libopus", "matroska")
    wrong = replace(PRORES_4444, sounds=("opus",))  # of which FFmpeg finds out when it writes the header
    with VideoWriter(tmp_path / "a.mov", 25, codec=wrong, sound=source) as writer:
        for index in range(5):
            writer.write(fakes.frame(index))
    assert len(list(read_video(tmp_path / "a.mov"))) == 5
    assert "a.mkv: its sound is left out of a.mov" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mkv", "a.mov"]


def test_sound_stays_in_step_with_pictures_that_begin_later_and_are_rotated(tmp_path: Path) -> None:
    source = loud_movie(tmp_path / "a.mkv", "aac", "matroska", rotation=90, begin=10)
    predict(source, tmp_path / "out", kinds=["overlay"])
    out = tmp_path / "out" / "a" / "overlay.mp4"
    assert (probe(out).height, probe(out).width) == (fakes.SIZE[1], fakes.SIZE[0])
    before = [(time - 0.4, data) for time, data in sound(source) if time - 0.4 > -0.2]
    after = sound(out)
    assert [data for _, data in after] == [data for _, data in before]
    with av.open(str(out)) as container:
        picture = next(container.decode(video=0))
        assert picture.time is not None
        zero = picture.time
    np.testing.assert_allclose([t - zero for t, _ in after], [t for t, _ in before], atol=3e-3)


def test_equal_runs_write_equal_bytes(tmp_path: Path) -> None:
    source = movie(tmp_path / "a.mp4", 8, (202, 326))
    made = []
    for name in "xy":
        predict(source, tmp_path / name, kinds=list(KINDS))
        made.append({path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")
                     if path.is_file()})  # fmt: skip
    assert {path.name for path in made[0]} >= {KINDS[kind].place for kind in KINDS if KINDS[kind].is_file}
    for path, data in made[0].items():
        assert made[1][path] == data, path


# Computed by pycocotools 2.0: mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].
_DISC = np.add.outer((np.arange(40) - 20) ** 2, (np.arange(60) - 25) ** 2) < 150
_HOLE = np.ones((4, 5), bool)
_HOLE[1, 1] = False


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        (_DISC, "j`05P16K4M2N2N2O0O2O000O2O00000001N10001N101N2N2N3L5JQk0"),
        (_HOLE, "0519"),
        (np.zeros((4, 5), bool), "d0"),
        (np.ones((4, 5), bool), "0d0"),
    ],
)
def test_run_length_codes_are_those_of_pycocotools(mask: np.ndarray, counts: str) -> None:
    assert encode_rle(mask) == {"size": list(mask.shape), "counts": counts}


def decode_rle(code: dict) -> np.ndarray:
    """As its description says: groups of five bits, differences to the second last run, columns."""
    runs: list[int] = []
    value = shift = 0
    for character in code["counts"]:
        group = ord(character) - 48
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            value -= (1 << shift) if group & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(code["size"], order="F")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_run_length_codes_hold_the_mask(height: int, width: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    np.testing.assert_array_equal(decode_rle(encode_rle(mask)), mask)
    try:
        from pycocotools import mask as tools
    except ImportError:
        return
    assert tools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode() == encode_rle(mask)["counts"]


def test_coco_files_of_each_video_and_of_all(tmp_path: Path) -> None:
    fakes.write_folder(tmp_path / "in" / "b", frames=3)
    movie(tmp_path / "in" / "a.mp4", 4)
    dark = tmp_path / "in" / "c" / "0.png"
    dark.parent.mkdir()
    Image.fromarray(np.zeros((*fakes.SIZE, 3), np.uint8)).save(dark)
    predict(tmp_path / "in", tmp_path / "out", kinds=["masks", "coco"])
    for name, frames in {"a": 4, "b": 3}.items():
        made = json.loads((tmp_path / "out" / name / "coco.json").read_text())
        assert len(made["images"]) == len(made["annotations"]) == frames
    everything = json.loads((tmp_path / "out" / "coco.json").read_text())
    images = {image["id"]: image for image in everything["images"]}
    assert [image["file_name"] for image in images.values()] == [
        *(f"a/{index:05d}.jpg" for index in range(4)),
        *(f"b/{index:05d}.jpg" for index in range(3)),
        "c/0.png",
    ]
    assert len({entry["id"] for entry in everything["annotations"]}) == len(everything["annotations"]) == 7
    assert everything["categories"] == [{"id": 1, "name": "object", "supercategory": "object"}]
    for entry in everything["annotations"]:
        image = images[entry["image_id"]]
        mask = cv2.imread(str(tmp_path / "out" / Path(image["file_name"]).parent / "masks" /
                              f"{Path(image['file_name']).stem}.png"), cv2.IMREAD_UNCHANGED) > 0  # fmt: skip
        assert (image["height"], image["width"]) == mask.shape
        np.testing.assert_array_equal(decode_rle(entry["segmentation"]), mask)
        assert entry["area"] == mask.sum()
        rows, columns = np.nonzero(mask)
        left, top, width, height = entry["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
        assert entry["category_id"] == 1
        assert entry["iscrowd"] == 0
        assert 0 <= entry["score"] <= 1
    with (tmp_path / "out" / "videos.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["video"] == "c"  # in which nothing is found


def test_every_kind_is_resumed_and_overwritten(tmp_path: Path) -> None:
    source = movie(tmp_path / "a.mp4", 3)
    predict(source, tmp_path / "out", kinds=list(KINDS))
    assert manifest(tmp_path / "out" / "a")["complete"]
    for kind in KINDS.values():
        place = tmp_path / "out" / "a" / kind.place
        (place if kind.is_file else place / "00001.png").unlink()
        assert predict(source, tmp_path / "out", kinds=list(KINDS)).skipped == 0
        assert predict(source, tmp_path / "out", kinds=list(KINDS)).skipped == 1
    predict(source, tmp_path / "out", kinds=["masks"], existing="overwrite")
    left = sorted(path.name for path in (tmp_path / "out" / "a").rglob("*") if path.is_file())
    assert left == [".lock", "00000.png", "00001.png", "00002.png", "manifest.json"]

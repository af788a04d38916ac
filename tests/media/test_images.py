"""Image files: round trips, EXIF orientation, truncated files, failed writes."""

from __future__ import annotations

import errno
import os
import time
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fakes import png
from maskvos.errors import UserError
from maskvos.media.images import encode_image, read_image, write_image
from maskvos.synthetic.clips import generate_clip


def quarters(height: int, width: int) -> np.ndarray:
    """Four coloured quarters, (H, W, 3) uint8."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[: height // 2, : width // 2] = (200, 30, 30)
    rgb[: height // 2, width // 2 :] = (30, 180, 30)
    rgb[height // 2 :, : width // 2] = (40, 40, 210)
    rgb[height // 2 :, width // 2 :] = (120, 120, 120)
    return rgb


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tiff"])
def test_written_images_are_read_back(tmp_path: Path, suffix: str) -> None:
    image = cv2.GaussianBlur(quarters(41, 53), (0, 0), 2)
    write_image(tmp_path / "new" / f"a{suffix}", image)
    back = read_image(tmp_path / "new" / f"a{suffix}")
    assert np.abs(back.astype(int) - image).mean() < (6 if suffix in (".jpg", ".webp") else 1e-9)
    assert os.listdir(tmp_path / "new") == [f"a{suffix}"]


@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([0, 3, 4]), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_png_is_lossless(
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


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = quarters(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees clockwise
    Image.fromarray(image).save(tmp_path / "a.jpg", exif=exif, quality=95)
    back = read_image(tmp_path / "a.jpg")
    assert np.abs(back.astype(int) - np.rot90(image, -1)).mean() < 10


def test_16_bit_greyscale_becomes_8_bit_rgb(tmp_path: Path) -> None:
    deep = np.full((8, 9), 40000, np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    back = read_image(tmp_path / "deep.png")
    assert back.shape == (8, 9, 3)
    assert np.abs(back.astype(int) - 156).max() <= 1


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_images_are_named_in_the_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = path.read_bytes()
    for keep in (len(data) * 9 // 10, len(data) // 2, 300, 3, 0):
        path.write_bytes(data[:keep])
        with pytest.raises(UserError, match=rf"a\{suffix}.*again"):
            read_image(path)


def test_a_truncated_jpeg_with_a_thumbnail_is_detected(tmp_path: Path) -> None:
    thumbnail = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = cv2.imencode(".jpg", image)[1].tobytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    complete = data[:2] + segment + data[2:]
    (tmp_path / "a.jpg").write_bytes(complete)
    assert read_image(tmp_path / "a.jpg").shape == (64, 64, 3)
    (tmp_path / "a.jpg").write_bytes(complete[:-500])
    with pytest.raises(UserError, match="is truncated"):
        read_image(tmp_path / "a.jpg")


def test_missing_files_and_other_formats_are_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.png cannot be read"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png .* not an image"):
        read_image(tmp_path / "text.png")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    write_image(tmp_path / "before.png", np.zeros((4, 4), np.uint8))

    def fail(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("maskvos.media.files.create", fail)
    with pytest.raises(UserError, match="disk is full" if code == errno.ENOSPC else r"could not be written"):
        write_image(tmp_path / "after.png", np.zeros((4, 4), np.uint8))
    assert os.listdir(tmp_path) == ["before.png"]


@pytest.mark.parametrize("image", [np.zeros((4, 4), float), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)])
def test_unsupported_arrays_are_rejected(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cannot encode"):
        write_image(tmp_path / "a.png", image)


@pytest.mark.parametrize("side", [12_000, 30_000, 60_000, 2**31 - 1])
def test_images_that_would_fill_the_memory_are_refused(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(png(side, side))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"a\.png.*resize it"):
        read_image(tmp_path / "a.png")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_images_of_a_shape_that_cannot_be_decoded_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(2**21, 4))
    with pytest.raises(UserError, match=r"a\.png.*not an image"):
        read_image(tmp_path / "a.png")


def test_a_png_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.png is truncated or damaged"):
        read_image(path)


def test_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is not a file"):
        read_image(tmp_path / "a.png")


def filtered(image: np.ndarray, kind: int) -> bytes:
    """The rows of a grey image as PNG's filters 0 to 4 (none, left, up, mean of both, Paeth) store them."""
    left, up, corner = (np.zeros_like(image, np.int64) for _ in range(3))
    left[:, 1:], up[1:], corner[1:, 1:] = image[:, :-1], image[:-1], image[:-1, :-1]
    guess = left + up - corner
    near = [abs(guess - each) for each in (left, up, corner)]
    paeth = np.where((near[0] <= near[1]) & (near[0] <= near[2]), left, np.where(near[1] <= near[2], up, corner))
    rows = ((image.astype(np.int64) - [0, left, up, (left + up) // 2, paeth][kind]) % 256).astype(np.uint8)
    return np.insert(rows, 0, kind, axis=1).tobytes()


@pytest.mark.skipif(not hasattr(cv2, "IMWRITE_PNG_FILTER"), reason="this OpenCV cannot be told the filter")
@pytest.mark.parametrize("size", [(64, 96), (224, 384), (480, 854), (1080, 1920)])
def test_masks_take_no_more_than_with_the_best_filter(size: tuple[int, int]) -> None:
    masks = [generate_clip(seed, 1, size).mask[0] * np.uint8(255) for seed in range(3)]
    frame = 8 + 25 + 12 + 12  # signature, header, and the frames of data and end
    best = min(sum(frame + len(zlib.compress(filtered(mask, kind), 9)) for mask in masks) for kind in range(5))
    assert sum(len(encode_image(mask, ".png")) for mask in masks) <= best


@pytest.mark.parametrize("levels", [2, 256])
def test_noise_is_compressed_fast_and_without_loss(tmp_path: Path, levels: int) -> None:
    grey = np.random.default_rng(0).integers(0, levels, (480, 854)).astype(np.uint8) * np.uint8(255 // (levels - 1))
    begin = time.process_time()
    write_image(tmp_path / "a.png", grey)
    assert time.process_time() - begin < 0.4  # zlib's highest level takes a second
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), grey)

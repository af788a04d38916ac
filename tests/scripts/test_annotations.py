"""Annotations for CVAT and Label Studio, read back by what their documentation says about the formats."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import fakes
from maskvos.errors import UserError
from maskvos.media.images import write_image

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
MASKS = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        return importlib.import_module("annotations")


def decode_brush(code: list[int]) -> np.ndarray:
    """The bytes of the RGBA image: runs (1) have one value, other stretches (0) one for each byte."""
    bits = "".join(f"{byte:08b}" for byte in code)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    length, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    out: list[int] = []
    while len(out) < length:
        run = read(1)
        count = read(sizes[read(2)]) + 1
        out += [read(word)] * count if run else [read(word) for _ in range(count)]
    assert len(out) == length
    return np.array(out, np.uint8)


@given(mask=MASKS)
def test_the_code_of_label_studio_is_the_mask_in_four_channels(script: ModuleType, mask: np.ndarray) -> None:
    pixels = decode_brush(script.brush(mask)).reshape(*mask.shape, 4)
    assert (pixels == np.where(mask, 255, 0)[..., None]).all()


def test_runs_of_any_length_are_coded(script: ModuleType) -> None:
    mask = np.zeros((300, 400), bool)
    mask[10:290] = True
    assert (decode_brush(script.brush(mask)).reshape(300, 400, 4)[..., 3] == 255 * mask).all()
    assert len(script.brush(mask)) < 100


def decode_cvat(element: ElementTree.Element, shape: tuple[int, ...]) -> np.ndarray:
    """CVAT's run lengths: background first, row by row, within the box."""
    left, top, width, height = (int(element.attrib[key]) for key in ("left", "top", "width", "height"))
    lengths = [int(length) for length in element.attrib["rle"].split(",")]
    box = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = box
    return mask


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Any]:
    """An output folder with the masks of a folder of frames and of a movie; the second mask is empty."""
    rng = np.random.default_rng(0)
    masks = [rng.random((12, 17)) > 0.6, np.zeros((12, 17), bool), np.ones((12, 17), bool)]
    fakes.write_folder(tmp_path / "clips" / "walk", frames=3)
    (tmp_path / "clips" / "ride.mp4").touch()
    for video, source in (("walk", "walk"), ("ride", "ride.mp4")):
        folder = tmp_path / "out" / video
        (folder / "masks").mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"source": str(tmp_path / "clips" / source)}))
        for index, mask in enumerate(masks):
            write_image(folder / "masks" / f"{index:05d}.png", mask.astype(np.uint8) * 255)
    return {"masks": masks, "out": tmp_path / "out"}


def test_cvat_gets_the_masks_under_the_names_of_its_frames(script: ModuleType, results: dict[str, Any]) -> None:
    for video, names in (
        ("walk", ["00000.jpg", "00001.jpg", "00002.jpg"]),
        ("ride", ["frame_000000", "frame_000001", "frame_000002"]),
    ):
        root = ElementTree.fromstring(script.cvat(video, results["out"] / video))
        assert (root.tag, root.findtext("version"), root.findtext("meta/task/size")) == ("annotations", "1.1", "3")
        assert [label.text for label in root.iterfind("meta/task/labels/label/name")] == ["object"]
        images = root.findall("image")
        assert [image.attrib["name"] for image in images] == names
        assert [image.attrib["id"] for image in images] == ["0", "1", "2"]
        for image, mask in zip(images, results["masks"], strict=True):
            assert (int(image.attrib["height"]), int(image.attrib["width"])) == mask.shape
            found = [decode_cvat(element, mask.shape) for element in image.findall("mask")]
            assert len(found) == mask.any()
            assert all(np.array_equal(one, mask) for one in found)


def test_label_studio_gets_a_task_for_each_frame(script: ModuleType, results: dict[str, Any]) -> None:
    tasks = json.loads(script.label_studio("walk", results["out"] / "walk", "/data/"))
    assert [task["data"]["image"] for task in tasks] == [f"/data/walk/{index:05d}.jpg" for index in range(3)]
    for task, mask in zip(tasks, results["masks"], strict=True):
        regions = task["predictions"][0]["result"]
        assert len(regions) == mask.any()
        for region in regions:
            assert (region["original_height"], region["original_width"]) == mask.shape
            assert (region["type"], region["from_name"], region["to_name"]) == ("brushlabels", "tag", "image")
            assert (region["value"]["format"], region["value"]["brushlabels"]) == ("rle", ["object"])
            pixels = decode_brush(region["value"]["rle"]).reshape(*mask.shape, 4)
            assert np.array_equal(pixels[..., 3] > 0, mask)


def test_what_is_missing_is_named(script: ModuleType, results: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "clips" / "walk" / "00001.jpg").unlink()
    with pytest.raises(UserError, match=r"no frame '00001' in .*walk"):
        script.cvat("walk", results["out"] / "walk")
    for mask in (results["out"] / "ride" / "masks").iterdir():
        mask.unlink()
    with pytest.raises(UserError, match=r"writer.kinds=\[masks\]"):
        script.cvat("ride", results["out"] / "ride")

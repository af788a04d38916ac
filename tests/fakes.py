"""Fake datasets on disk for tests: moving rectangles in the folder layout of each public dataset.

Every writer creates its files under ``root``; frames have `SIZE` by default.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (48, 80)
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]


def frame(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A colour gradient with a bright rectangle that moves right, (H, W, 3) uint8."""
    height, width = size
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 0] = np.linspace(0, 120, width, dtype=np.uint8)
    rgb[..., 1] = np.linspace(0, 120, height, dtype=np.uint8)[:, None]
    rgb[mask(index, size) > 0] = (255, 200, 40)
    return rgb


def mask(index: int, size: tuple[int, int] = SIZE, objects: int = 1) -> np.ndarray:
    """Labels 0 to ``objects`` of stacked rectangles, (H, W) uint8."""
    height, width = size
    labels = np.zeros(size, np.uint8)
    left = width // 8 + index % (width // 2)
    for label in range(objects):
        top = height // 4 + label * (height // 2) // objects
        labels[top : top + (height // 2) // objects, left : left + width // 4] = label + 1
    return labels


def write_frame(path: Path, index: int, size: tuple[int, int] = SIZE) -> None:
    """Write a frame in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame(index, size)).save(path)


def write_mask(path: Path, labels: np.ndarray, palette: bool = False) -> None:
    """Write labels as palette indices, or as 0 and 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if palette:
        image = Image.fromarray(labels)
        image.putpalette(PALETTE)
        image.save(path)
    else:
        Image.fromarray((labels > 0).astype(np.uint8) * 255).save(path)


def write_folder(root: Path, frames: int = 3, size: tuple[int, int] = SIZE, suffix: str = ".jpg") -> None:
    """A folder of frames without masks."""
    for index in range(frames):
        write_frame(root / f"{index:05d}{suffix}", index, size)


DAVIS_SPLITS = {"train": ("bear", "bus", "dance-jump"), "val": ("blackswan", "cows")}


def write_davis(root: Path, year: int = 2016, resolution: str = "480p", frames: int = 3) -> None:
    """DAVIS-2016 or DAVIS-2017, with the list format and masks of that year."""
    for split, sequences in DAVIS_SPLITS.items():
        lines = []
        for sequence in sequences:
            if year == 2017:
                lines.append(sequence)
            for index in range(frames):
                image = f"JPEGImages/{resolution}/{sequence}/{index:05d}.jpg"
                annotation = f"Annotations/{resolution}/{sequence}/{index:05d}.png"
                write_frame(root / image, index)
                write_mask(root / annotation, mask(index, objects=2 if year == 2017 else 1), palette=year == 2017)
                if year == 2016:
                    lines.append(f"/{image} /{annotation} ")
        folder = root / "ImageSets" / (resolution if year == 2016 else str(year))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")


def write_fbms(root: Path, frames: int = 4) -> None:
    """FBMS-59 with its three kinds of ground truth, on every other frame."""
    for split, names in {
        "Trainingset": ("bear01", "cars1", "cars2", "tennis"),
        "Testset": ("marple2", "cats01"),
    }.items():
        for name in names:
            _write_fbms_sequence(root / split / name, frames)


def _write_fbms_sequence(folder: Path, frames: int) -> None:
    truth, lines = folder / "GroundTruth", ["Segmentation definition file V1.0", ""]
    colour = folder.name != "tennis"
    regions = [0xFFFFFF, 0x000000, 0x00FF00] if colour else [0, 100, 200]
    lines += ["Total number of regions:", str(len(regions)), ""]
    for number, value in enumerate(regions):
        lines += [f"Scale of region {number}:", str(value), "Confidence:", "1", ""]
    lines += ["Total number of frames in this shot:", str(frames), "Total number of labeled frames for this shot:", "2"]
    for index in range(frames):
        # FBMS numbers frames from 1, with varying zero padding.
        stem = f"{folder.name}_{index + 1:04d}" if colour else f"{folder.name}{index + 1:03d}"
        write_frame(folder / f"{stem}.jpg", index)
        if index % 2:
            continue
        labels = mask(index, objects=2)
        truth.mkdir(parents=True, exist_ok=True)
        name = f"{stem}_gt.ppm" if colour else f"{stem}.pgm"
        values = np.array(regions)[labels]
        if colour:
            rgb = np.stack([values >> 16, values >> 8 & 255, values & 255], axis=2)
            Image.fromarray(rgb.astype(np.uint8)).save(truth / name)
            Image.fromarray(rgb.astype(np.uint8)).save(truth / f"{stem}_PROB_gt.ppm")
        else:
            Image.fromarray(values.astype(np.uint8)).save(truth / name)
        lines += ["Frame number:", str(index), "File name:", name, "Input file name:", f"{stem}.pgm", ""]
    (truth / f"{folder.name}Def.dat").write_text("\n".join(lines))


def write_youtube_objects(root: Path) -> None:
    """YouTube-Objects: half-size JPEG labels, zero-padded differently from the frames."""
    names = ("aeroplane", "bird", "boat", "car", "cat", "cow", "dog", "horse", "motorbike", "train")
    for name in names:
        shot = root / name / "data" / "0001" / "shots" / "002"
        for index in range(11):
            write_frame(shot / "images" / f"frame{index + 1:04d}.jpg", index)
        for index in (0, 10):
            labels = mask(index // 2, (SIZE[0] // 2, SIZE[1] // 2))
            write_mask(shot / "labels" / f"{index + 1:05d}.jpg", labels)
        write_frame(root / name / "data" / "0001" / "shots" / "001" / "images" / "frame0001.jpg", 0)


def write_youtube_vos(root: Path) -> None:
    """YouTube-VOS train: every fifth frame, palette masks, meta.json."""
    videos = {}
    for number in range(4):
        name = f"{number:02d}a7{number}"
        for index in (0, 5, 10):
            write_frame(root / "train/JPEGImages" / name / f"{index:05d}.jpg", index)
            write_mask(root / "train/Annotations" / name / f"{index:05d}.png", mask(index, objects=2), palette=True)
        classes = ("cat", "cat") if number % 2 else ("cat", "person")
        objects = {str(i + 1): {"category": c, "frames": ["00000", "00005"]} for i, c in enumerate(classes)}
        videos[name] = {"objects": objects}
    (root / "train/meta.json").write_text(json.dumps({"videos": videos}))


def write_long_videos(root: Path) -> None:
    """Long-Videos: palette masks for a few of the frames."""
    for name in ("blueboy", "dressage", "rat"):
        for index in range(6):
            write_frame(root / "JPEGImages" / name / f"{index:05d}.jpg", index)
        for index in (0, 5):
            write_mask(root / "Annotations" / name / f"{index:05d}.png", mask(index), palette=True)


def write_davsod(root: Path) -> None:
    """DAVSOD: a folder of images and one of greyscale maps per sequence."""
    for split in ("TrainingSet", "ValidationSet", "EasyTestSet"):
        for number in range(2):
            folder = root / split / f"{split}_{number:04d}"
            for index in range(3):
                write_frame(folder / "Imgs" / f"{index:04d}.png", index)
                write_soft_mask(folder / "GT_object_level" / f"{index:04d}.png", mask(index))


def write_visal(root: Path) -> None:
    """ViSal: one folder of images and one of greyscale maps, with sparse annotations."""
    for name in ("boat", "car"):
        for index in range(4):
            write_frame(root / "Imgs" / name / f"{name}_{index:03d}.jpg", index)
        for index in (0, 3):
            write_soft_mask(root / "GT" / name / f"{name}_{index:03d}.png", mask(index))


def write_soft_mask(path: Path, labels: np.ndarray) -> None:
    """Write a greyscale saliency map: 230 inside, 30 outside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(labels > 0, 230, 30).astype(np.uint8)).save(path)


def write_duts(root: Path) -> None:
    """DUTS: still images with greyscale masks of the same name."""
    for split, count in (("TR", 6), ("TE", 2)):
        for index in range(count):
            stem = f"ILSVRC2012_{split}_{index:08d}"
            write_frame(root / f"DUTS-{split}/DUTS-{split}-Image/{stem}.jpg", index)
            write_soft_mask(root / f"DUTS-{split}/DUTS-{split}-Mask/{stem}.png", mask(index))


def write_triplets(root: Path) -> None:
    """Frame, flow and mask triplets: DAVIS as in the original project, FBMS as in TMO (sparse masks)."""
    for split, names in (("TrainSet", ("bear", "bus", "cars1")), ("TestSet", ("cows", "cat"))):
        for name in names:
            for index in range(3):
                folder = root / split / "DAVIS" / name
                write_frame(folder / "Frame" / f"{index:05d}.jpg", index)
                write_frame(folder / "Flow" / f"{index:05d}.png", index)
                write_mask(folder / "GT" / f"{index:05d}.png", mask(index))
                folder = root / split / "FBMS"
                write_frame(folder / "JPEGImages" / name / f"{index:05d}.jpg", index)
                write_frame(folder / "JPEGFlows" / name / f"{index:05d}.jpg", index)
                if index == 1:
                    write_mask(folder / "Annotations" / name / f"{index:05d}.png", mask(index))


def write_davis_fbms(root: Path) -> None:
    """DAVIS and FBMS."""
    write_davis(root / "DAVIS")
    write_fbms(root / "FBMS")


def write_davis_pictures(root: Path) -> None:
    """DAVIS and sets of still images; the clips are generated on first use."""
    write_davis(root / "DAVIS")
    for number, name in enumerate(PICTURE_SETS):
        write_frame(root / f"images/{name}/images/{name}.jpg", number)
        write_soft_mask(root / f"images/{name}/masks/{name}.png", mask(number))


def write_davis_synthetic(root: Path) -> None:
    """DAVIS; the procedural clips are generated on first use."""
    write_davis(root / "DAVIS")


def png(width: int, height: int) -> bytes:
    """A PNG that says it is large, and has no pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    pixels = zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def write_davis_duts(root: Path) -> None:
    """DAVIS and DUTS."""
    write_davis(root / "DAVIS")
    write_duts(root / "DUTS")


def write_davis2017(root: Path) -> None:
    """DAVIS-2017."""
    write_davis(root, 2017)


def write_nothing(root: Path) -> None:
    """For datasets that generate their data or need none."""


PICTURE_SETS = (
    *("duts", "coco", "vsb_motion"),
    *("horses", "pets", "humanseg", "ccp", "carparts", "flowers17", "msrc_cow30"),
)
"""The picture sets of ``data=davis_pictures``."""

WRITERS = {
    "davis": write_davis,
    "davis2017": write_davis2017,
    "davis_duts": write_davis_duts,
    "davis_fbms": write_davis_fbms,
    "davis_pictures": write_davis_pictures,
    "davis_synthetic": write_davis_synthetic,
    "davsod": write_davsod,
    "duts": write_duts,
    "fbms": write_fbms,
    "long_videos": write_long_videos,
    "synthetic": write_nothing,
    "triplets": write_triplets,
    "visal": write_visal,
    "youtube_objects": write_youtube_objects,
    "youtube_vos": write_youtube_vos,
}
"""Name in ``conf/data`` to the writer of its files; ``root`` is its ``data.root``."""

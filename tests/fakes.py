"""Tiny datasets on disk, in the layouts of their owners, for tests.

Every writer makes a tree of moving rectangles under ``root`` and returns nothing: tests read it back through the
package. Frames are `SIZE` unless said otherwise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (48, 80)
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]


def frame(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A coloured gradient with a bright rectangle that moves right: (H, W, 3) uint8."""
    height, width = size
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 0] = np.linspace(0, 120, width, dtype=np.uint8)
    rgb[..., 1] = np.linspace(0, 120, height, dtype=np.uint8)[:, None]
    rgb[mask(index, size) > 0] = (255, 200, 40)
    return rgb


def mask(index: int, size: tuple[int, int] = SIZE, objects: int = 1) -> np.ndarray:
    """Labels 0 to ``objects`` of rectangles that stand upon each other: (H, W) uint8."""
    height, width = size
    labels = np.zeros(size, np.uint8)
    left = width // 8 + index % (width // 2)
    for label in range(objects):
        top = height // 4 + label * (height // 2) // objects
        labels[top : top + (height // 2) // objects, left : left + width // 4] = label + 1
    return labels


def write_frame(path: Path, index: int, size: tuple[int, int] = SIZE) -> None:
    """Write a frame, in the format that the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame(index, size)).save(path)


def write_mask(path: Path, labels: np.ndarray, palette: bool = False) -> None:
    """Write labels: with a palette as indices, else as 0 and 255."""
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
    """DAVIS, with the list format and the masks of its year."""
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
        place = root / "ImageSets" / (resolution if year == 2016 else str(year))
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{split}.txt").write_text("\n".join(lines) + "\n")

"""COCO annotations: masks as run-length codes (RLE), which pycocotools and annotation tools read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from maskvos.inference.outputs.base import Target
from maskvos.inference.segmenter import SegmentedFrame
from maskvos.media.files import NewFile

_CATEGORIES = [{"id": 1, "name": "object", "supercategory": "object"}]


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """The compressed run-length code of a mask, as pycocotools' ``mask.encode`` gives it.

    Args:
        mask: (H, W) bool.

    Returns:
        ``size``, [H, W], and ``counts``, text: lengths of runs of 0 and 1 in turn, column by column, from the fourth on
        as difference to the second last, in groups of five bits, the lowest first.
    """
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(ends, prepend=0)
    runs[3:] -= runs[1:-2].copy()
    return {"size": list(mask.shape), "counts": "".join(map(_characters, runs.tolist()))}


def _characters(number: int) -> str:
    text = ""
    while True:
        group, number = number & 31, number >> 5
        more = number != -1 if group & 16 else number != 0
        text += chr(group + 32 * more + 48)
        if not more:
            return text


class Coco:
    """A COCO file of one video: an image for each frame, and an annotation where there is an object. See `Output`."""

    def __init__(self, target: Target) -> None:
        self.video = target.video
        self.file = NewFile(target.path)
        self.file.write('{"annotations": [')
        self.images: list[str] = []
        self.count = 0

    def add(self, frame: SegmentedFrame) -> None:
        """See `Output`."""
        height, width = frame.mask.shape
        number = len(self.images) + 1
        # A movie's frames under the names that `ffmpeg -start_number 0 -i <movie> %05d.jpg` gives them.
        name = self.video.frames[frame.index].image.name if self.video.frames else f"{frame.name}.jpg"
        image = {"id": number, "file_name": f"{self.video.name}/{name}", "width": width, "height": height}
        self.images.append(json.dumps(image))
        if not frame.mask.any():
            return
        annotation = {
            "id": self.count + 1,
            "image_id": number,
            "category_id": 1,
            "segmentation": encode_rle(frame.mask),
            "area": int(np.count_nonzero(frame.mask)),
            "bbox": list(cv2.boundingRect(frame.mask.astype(np.uint8))),
            "iscrowd": 0,
            "score": round(frame.confidence, 4),
        }
        self.file.write(("," if self.count else "") + "\n" + json.dumps(annotation))
        self.count += 1

    def finish(self) -> None:
        """See `Output`."""
        images = ",\n".join(self.images)
        self.file.write(f'],\n"images": [\n{images}],\n"categories": {json.dumps(_CATEGORIES)}}}\n')
        self.file.close()

    def abort(self) -> None:
        """See `Output`."""
        self.file.abort()


def merge(paths: Sequence[Path], target: Path) -> None:
    """Write one COCO file of several; holds one of them at a time in memory.

    Args:
        paths: The files of `Coco`; those that do not exist are left out.
        target: The new file.

    Raises:
        UserError: The file cannot be written.
    """
    paths = [path for path in paths if path.is_file()]
    file = NewFile(target)
    for number, part in enumerate(("images", "annotations")):
        file.write(f'{"," if number else "{"}"{part}": [')
        images = annotations = 0
        first = True
        for path in paths:
            made = json.loads(path.read_text(encoding="utf-8"))
            for entry in made[part]:
                entry["id"] += images if part == "images" else annotations
                if "image_id" in entry:
                    entry["image_id"] += images
                file.write(("" if first else ",") + "\n" + json.dumps(entry))
                first = False
            images, annotations = images + len(made["images"]), annotations + len(made["annotations"])
        file.write("]")
    file.write(f',"categories": {json.dumps(_CATEGORIES)}}}\n')
    file.close()

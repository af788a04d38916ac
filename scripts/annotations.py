"""Convert the masks of a prediction to annotations that CVAT or Label Studio import, to correct them there.

    python scripts/annotations.py out --format cvat --output annotations       # one annotations/<video>.xml per video
    python scripts/annotations.py out --format label_studio --output annotations --prefix "/data/local-files/?d=clips/"

``out`` is the output folder of ``task=predict`` with the kind ``masks``. Formats: "CVAT for images 1.1", for a task of
images or of a movie; and tasks of Label Studio with predictions as brush labels, for
``<BrushLabels name="tag" toName="image">`` with a label ``object`` on ``<Image name="image" value="$image"/>``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np

from maskvos.data.datasets.listing import files_by_name
from maskvos.errors import UserError
from maskvos.inference.video_folder import MANIFEST
from maskvos.media.files import write_bytes
from maskvos.metrics.reading import read_prediction
from maskvos.text import natural

LABEL = "object"
# Bits for the lengths of runs in Label Studio's code, of which each run names one.
_SIZES = (4, 8, 12, 16)


def runs(flat: np.ndarray) -> np.ndarray:
    """Lengths of the runs of False and True in turn, beginning with False (length 0 if there is none).

    Args:
        flat: (N,) bool.
    """
    ends = np.flatnonzero(np.append(flat[1:] != flat[:-1], True)) + 1
    lengths = np.diff(ends, prepend=0)
    return np.insert(lengths, 0, 0) if flat[0] else lengths


def brush(mask: np.ndarray) -> list[int]:
    """The code of a mask (H, W) bool in Label Studio: that of an RGBA image, of which the alpha channel counts.

    Bits: 32 for the number of bytes of the image, 5 for the bits of a value less one, four times 4 for the bits of a
    length less one; then for each run a one, 2 bits for which of these, the length less one, and the value.
    """
    bits = [f"{mask.size * 4:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for number, length in enumerate((runs(mask.ravel()) * 4).tolist()):
        while length:
            part = min(length, 1 << _SIZES[-1])
            size = next(index for index, size in enumerate(_SIZES) if part <= 1 << size)
            bits.append(f"1{size:02b}{part - 1:0{_SIZES[size]}b}{255 * (number % 2):08b}")
            length -= part
    text = "".join(bits)
    return [int(text[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(text), 8)]


def frames(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """File names of the frames of a video, and their masks (H, W) bool; those of a movie as CVAT numbers them.

    Raises:
        UserError: There are no masks, or the frames that they belong to are not there.
    """
    masks = sorted((folder / "masks").glob("[!.]*.png"), key=lambda path: natural(path.stem))
    if not masks:
        raise UserError(f"{folder}: no masks; predict with the kind 'masks': writer.kinds=[masks]")
    source = Path(json.loads((folder / MANIFEST).read_text())["source"])
    names = {path.stem: path.name for path in files_by_name(source).values()} if source.is_dir() else {}
    for index, path in enumerate(masks):
        name = names.get(path.stem) if source.is_dir() else f"frame_{index:06d}"
        if name is None:
            raise UserError(f"{path}: no frame '{path.stem}' in {source}; convert where the frames are")
        yield name, read_prediction(path).values > 0


def cvat(video: str, folder: Path) -> bytes:
    """The masks of a video as "CVAT for images 1.1"."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    ElementTree.SubElement(task, "name").text = video
    size = ElementTree.SubElement(task, "size")
    ElementTree.SubElement(task, "mode").text = "annotation"
    label = ElementTree.SubElement(ElementTree.SubElement(task, "labels"), "label")
    ElementTree.SubElement(label, "name").text = LABEL
    ElementTree.SubElement(label, "type").text = "mask"
    count = 0
    for count, (name, mask) in enumerate(frames(folder), 1):
        height, width = mask.shape
        image = ElementTree.SubElement(
            root, "image", id=str(count - 1), name=name, width=str(width), height=str(height)
        )
        if mask.any():
            left, top, w, h = cv2.boundingRect(mask.astype(np.uint8))
            code = ", ".join(map(str, runs(mask[top : top + h, left : left + w].ravel()).tolist()))
            box = {"left": str(left), "top": str(top), "width": str(w), "height": str(h)}
            ElementTree.SubElement(
                image, "mask", {"label": LABEL, "source": "auto", "occluded": "0", "rle": code, **box, "z_order": "0"}
            )
    size.text = str(count)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def label_studio(video: str, folder: Path, prefix: str = "") -> bytes:
    """The masks of a video as tasks of Label Studio, one a frame; ``prefix`` leads to ``<video>/<frame>``."""
    tasks = []
    for name, mask in frames(folder):
        height, width = mask.shape
        value = {"format": "rle", "rle": brush(mask), "brushlabels": [LABEL]}
        region: dict[str, Any] = {"id": f"{video}_{name}", "type": "brushlabels", "value": value}
        region |= {"from_name": "tag", "to_name": "image", "image_rotation": 0}
        region |= {"original_width": width, "original_height": height}
        found = [{"model_version": "maskvos", "result": [region] if mask.any() else []}]
        tasks.append({"data": {"image": f"{prefix}{video}/{name}"}, "predictions": found})
    return json.dumps(tasks).encode()


def main() -> None:
    """Convert all videos of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="output folder of task=predict")
    parser.add_argument("--format", choices=("cvat", "label_studio"), required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of the annotations")
    parser.add_argument("--prefix", default="", help="of the addresses of images in Label Studio")
    options = parser.parse_args()
    videos = sorted(path.parent for path in options.results.glob(f"*/{MANIFEST}"))
    if not videos:
        raise UserError(f"{options.results}: no results of task=predict; give its output folder")
    options.output.mkdir(parents=True, exist_ok=True)
    for folder in videos:
        if options.format == "cvat":
            write_bytes(options.output / f"{folder.name}.xml", cvat(folder.name, folder))
        else:
            write_bytes(options.output / f"{folder.name}.json", label_studio(folder.name, folder, options.prefix))
    print(f"{len(videos)} videos: {options.output}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")

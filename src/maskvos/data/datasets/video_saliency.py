"""Video saliency datasets in the layout of DAVSOD (Fan et al., CVPR 2019).

``<split>/<sequence>/Imgs/*.jpg`` with masks in ``<split>/<sequence>/GT_object_level/*.png`` (DAVSOD, and its authors'
releases of ViSal, SegTrack-v2, VOS, FBMS and DAVIS), or nested the other way (``Imgs/<sequence>``). The names of the
two folders differ between datasets; common names are detected.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskvos.data.datasets.listing import Problems, build_video, files_by_name, pick, require_folder, subfolders
from maskvos.errors import UserError
from maskvos.types import MaskRule, Video

IMAGES = ("Imgs", "Image", "Images", "Frame", "JPEGImages", "imgs", "images")
MASKS = ("GT_object_level", "GT", "ground-truth", "Ground-truth", "GroundTruth", "Annotations", "gt")
LAYOUT = "<sequence>/Imgs/*.jpg with <sequence>/GT_object_level/*.png (or Imgs/<sequence> with GT/<sequence>)"
# Greyscale masks are binarised at one half.
RULE = MaskRule(above=127)


def video_saliency(
    root: Path | str, split: str | None = None, name: str = "DAVSOD", sequences: Sequence[str] | None = None
) -> list[Video]:
    """List a video saliency dataset.

    Args:
        root: Root folder of the dataset.
        split: Folder of the split, below ``root`` (``TrainingSet``, ``ValidationSet``, ``EasyTestSet`` ...); None if
            there are no splits.
        name: Name of the dataset.
        sequences: Select these sequences; None: all.

    Returns:
        One video per sequence; frames without annotation have no mask.

    Raises:
        UserError: Missing folder, sequence without frames or masks, or mask without a frame.
    """
    folder = require_folder(name, root, *([split] if split else []), expected="/".join(filter(None, (split, LAYOUT))))
    problems = Problems(name)
    places = _places(folder, name)
    videos = []
    for sequence in pick(list(places), sequences, name):
        images, masks = places[sequence]
        found = files_by_name(masks)
        if not found:
            problems.add(f"sequence '{sequence}': no mask in {masks}; expected masks, e.g. 00000.png")
        videos.append(
            build_video(sequence, files_by_name(images), found, problems, dense=False, rule=RULE, source=str(images))
        )
    return problems.finish(videos)


def _places(folder: Path, name: str) -> dict[str, tuple[Path, Path]]:
    """Sequence name to its folders of images and masks, for either nesting."""
    inside = subfolders(folder)
    images, masks = _first(IMAGES, inside), _first(MASKS, inside)
    if images and masks:
        return {
            sequence: (folder / images / sequence, folder / masks / sequence)
            for sequence in subfolders(folder / images)
        }
    places = {}
    for sequence in inside:
        parts = subfolders(folder / sequence)
        images, masks = _first(IMAGES, parts), _first(MASKS, parts)
        if images and masks:
            places[sequence] = (folder / sequence / images, folder / sequence / masks)
        else:
            raise UserError(f"{name}: sequence '{sequence}' has the folders {parts}; expected {folder / LAYOUT}")
    if not places:
        raise UserError(f"{name}: no sequence in {folder}; expected {folder / LAYOUT}")
    return places


def _first(names: Sequence[str], present: Sequence[str]) -> str | None:
    return next((name for name in names if name in present), None)

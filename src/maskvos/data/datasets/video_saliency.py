"""Video saliency sets in the layout in which DAVSOD (Fan et al., CVPR 2019) and its companions are published.

``<split>/<sequence>/Imgs/*.jpg`` with grey maps in ``<split>/<sequence>/GT_object_level/*.png`` (DAVSOD, and ViSal,
SegTrack-v2, VOS, FBMS, DAVIS as its authors pack them), or the folders the other way round (``Imgs/<sequence>``). The
names of the two folders differ between sets; the usual ones are tried in turn.
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
# Grey maps: the field's binary truth is what lies above half.
RULE = MaskRule(above=127)


def video_saliency(
    root: Path | str, split: str | None = None, name: str = "DAVSOD", sequences: Sequence[str] | None = None
) -> list[Video]:
    """List a video saliency set.

    Args:
        root: The set's folder.
        split: Folder of a split below it (``TrainingSet``, ``ValidationSet``, ``EasyTestSet`` ...); None: none.
        name: Name of the set.
        sequences: Only these; None: all.

    Returns:
        One video per sequence; frames that the owners did not annotate have no mask.

    Raises:
        UserError: A missing folder; a sequence without frames or masks; a mask without its frame.
    """
    folder = require_folder(name, root, *([split] if split else []), expected="/".join(filter(None, (split, LAYOUT))))
    problems = Problems(name)
    places = _places(folder, name)
    videos = []
    for sequence in pick(list(places), sequences, name):
        images, masks = places[sequence]
        found = files_by_name(masks)
        if not found:
            problems.add(f"sequence '{sequence}': no mask in {masks}; expected grey maps such as 00000.png")
        videos.append(
            build_video(sequence, files_by_name(images), found, problems, dense=False, rule=RULE, source=str(images))
        )
    problems.raise_any()
    return [video for video in videos if video is not None]


def _places(folder: Path, name: str) -> dict[str, tuple[Path, Path]]:
    """Sequence to its folders of images and masks, whichever way round they are nested."""
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


def _first(names: Sequence[str], there: Sequence[str]) -> str | None:
    return next((name for name in names if name in there), None)

"""Frames, colour-coded flow and masks in the prepared layouts of other projects.

Supports the layout of the original MaskVOS, ``<split>/<DATASET>/<sequence>/{Frame,Flow,GT}/<frame>``, and of TMO,
``<split>/<DATASET>/{JPEGImages,JPEGFlows,Annotations}/[480p/]<sequence>/<frame>``. The folder of the split is optional.
Frame, flow and mask are matched by frame name; frames without a mask are not annotated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskvos.data.datasets.listing import (
    FLOWS,
    Problems,
    build_video,
    files_by_name,
    require_folder,
    subfolders,
)
from maskvos.errors import UserError, nearest
from maskvos.types import MaskRule, Video

LAYOUT = "<DATASET>/<sequence>/{Frame,Flow,GT} or <DATASET>/{JPEGImages,JPEGFlows,Annotations}/<sequence>"
# Masks are images of 0 and 255, some of them JPEG-compressed.
RULE = MaskRule(above=127)


def triplets(root: Path | str, split: str | None = "TrainSet", datasets: Sequence[str] | None = None) -> list[Video]:
    """List prepared datasets.

    Args:
        root: Folder of the splits.
        split: ``TrainSet``, ``TestSet``, or None if the datasets are in ``root`` itself.
        datasets: Select these datasets; None: all.

    Returns:
        One video per sequence, with precomputed flow; named ``<DATASET>_<sequence>`` if there are several datasets.

    Raises:
        UserError: Missing folder or dataset, sequence without frames, or mask or flow without a frame.
    """
    name = "triplets"
    parts = [split] if split else []
    folder = require_folder(name, root, *parts, expected="/".join([*parts, LAYOUT]))
    present = subfolders(folder)
    for dataset in datasets or ():
        if dataset not in present:
            raise UserError(f"{name}: no dataset '{dataset}' in {folder}; {nearest(dataset, present)}")
    chosen = list(datasets) if datasets is not None else present
    videos = []
    for dataset in chosen:
        videos += _dataset(folder / dataset, len(chosen) > 1)
    if not videos:
        raise UserError(f"{name}: no sequence under {folder}; expected {folder / LAYOUT}")
    return videos


def _dataset(folder: Path, prefix: bool) -> list[Video]:
    problems = Problems(folder.name)
    videos = []
    for sequence, (images, flows, masks) in _places(folder).items():
        frames, found = files_by_name(images), files_by_name(flows, FLOWS)
        for stem in found.keys() - frames.keys():
            problems.add(f"no frame for the flow {found[stem]}; expected an image '{stem}' in {images}")
        name = f"{folder.name}_{sequence}" if prefix else sequence
        videos.append(
            build_video(
                name, frames, files_by_name(masks), problems, dense=False, flows=found, rule=RULE, source=str(images)
            )
        )
    return problems.finish(videos)


def _places(folder: Path) -> dict[str, tuple[Path, Path, Path]]:
    """Sequence name to its folders of frames, flow and masks, in either layout."""
    if not (folder / "JPEGImages").is_dir():
        places = {
            name: (folder / name / "Frame", folder / name / "Flow", folder / name / "GT") for name in subfolders(folder)
        }
        return {name: parts for name, parts in places.items() if parts[0].is_dir()}
    parts = [folder / part for part in ("JPEGImages", "JPEGFlows", "Annotations")]
    if subfolders(parts[0]) == ["480p"]:
        parts = [part / "480p" if (part / "480p").is_dir() else part for part in parts]
    images, flows, masks = parts
    return {name: (images / name, flows / name, masks / name) for name in subfolders(images)}

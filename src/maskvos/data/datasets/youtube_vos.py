"""YouTube-VOS (Xu et al., 2018), the 2018 and 2019 releases.

``<split>/JPEGImages/<video>/00000.jpg`` with palette masks ``<split>/Annotations/<video>/00000.png`` for every fifth
frame (in the train split as published, these are all frames there are; ``train_all_frames`` has the others), and
``<split>/meta.json``, which names videos and the class of each object.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from maskvos.data.datasets.listing import (
    Problems,
    build_video,
    files_by_name,
    pick,
    require_folder,
    subfolders,
    warn_extra,
)
from maskvos.errors import UserError
from maskvos.types import Video

NAME = "YouTube-VOS"


def youtube_vos(root: Path | str, split: str = "train", sequences: Sequence[str] | None = None) -> list[Video]:
    """List YouTube-VOS.

    Args:
        root: The folder that holds the splits.
        split: Folder of a split: ``train``, ``train_all_frames``, ``valid``, ``test``. The last two have masks of first
            frames only.
        sequences: Only these; None: all.

    Returns:
        One video per sequence; its category is the class of its objects where they are all of one.

    Raises:
        UserError: A missing folder or ``meta.json``, a video of the list without frames, a mask without its frame.
    """
    layout = f"{split}/JPEGImages/<video>/*.jpg with {split}/Annotations and {split}/meta.json"
    images = require_folder(NAME, root, split, "JPEGImages", expected=layout)
    masks = require_folder(NAME, root, split, "Annotations", expected=layout)
    categories = _read_meta(Path(root) / split / "meta.json")
    problems = Problems(NAME)
    there = set(subfolders(images))
    for name in sorted(set(categories) - there):
        problems.add(f"meta.json names the video '{name}', but there is no folder {images / name}; download it again")
    unnamed = sorted(there - set(categories))
    if unnamed:
        warn_extra(NAME, f"{len(unnamed)} videos in {images} are not in meta.json: {unnamed[:5]}")
    videos = []
    for name in pick(sorted(set(categories) & there), sequences, f"{NAME} {split}"):
        found = files_by_name(masks / name, {".png"})
        if not found:
            problems.add(f"video '{name}': no mask in {masks / name}; expected palette pictures such as 00000.png")
        category = categories[name]
        source = images / name
        videos.append(
            build_video(
                name, files_by_name(source), found, problems, dense=False, category=category, source=str(source)
            )
        )
    problems.raise_any()
    return [video for video in videos if video is not None]


def _read_meta(file: Path) -> dict[str, str | None]:
    """Read ``meta.json``: video to the class of its objects, None where they are of several."""
    if not file.is_file():
        raise UserError(f"{NAME}: no list {file}; expected the meta.json of the release, see README#datasets")
    try:
        videos = json.loads(file.read_text(encoding="utf-8"))["videos"]
        classes = {name: {entry.get("category") for entry in v["objects"].values()} for name, v in videos.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{NAME}: {file} is not the meta.json of a release ({error}); download it again") from error
    return {name: found.pop() if len(found) == 1 else None for name, found in classes.items()}

"""YouTube-VOS (Xu et al., 2018), the 2018 and 2019 releases.

``<split>/JPEGImages/<video>/00000.jpg`` with palette masks ``<split>/Annotations/<video>/00000.png`` for every fifth
frame (the train split has these frames only; ``train_all_frames`` has all), and ``<split>/meta.json``, which lists the
videos and the class of each object.
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
        root: Folder of the splits.
        split: ``train``, ``train_all_frames``, ``valid`` or ``test``. The last two have masks for the first frames of
            objects only.
        sequences: Select these sequences; None: all.

    Returns:
        One video per sequence; its category is the class of its objects if they all have the same.

    Raises:
        UserError: Missing folder or ``meta.json``, listed video without frames, or mask without a frame.
    """
    layout = f"{split}/JPEGImages/<video>/*.jpg with {split}/Annotations and {split}/meta.json"
    images = require_folder(NAME, root, split, "JPEGImages", expected=layout)
    masks = require_folder(NAME, root, split, "Annotations", expected=layout)
    categories = _read_meta(Path(root) / split / "meta.json")
    problems = Problems(NAME)
    present = set(subfolders(images))
    for name in sorted(set(categories) - present):
        problems.add(f"meta.json names the video '{name}', but {images / name} is missing; download it again")
    unlisted = sorted(present - set(categories))
    if unlisted:
        warn_extra(NAME, f"{len(unlisted)} videos in {images} are not in meta.json: {unlisted[:5]}")
    videos = []
    for name in pick(sorted(set(categories) & present), sequences, f"{NAME} {split}"):
        found = files_by_name(masks / name, {".png"})
        if not found:
            problems.add(f"video '{name}': no mask in {masks / name}; expected palette images, e.g. 00000.png")
        category = categories[name]
        source = images / name
        videos.append(
            build_video(
                name, files_by_name(source), found, problems, dense=False, category=category, source=str(source)
            )
        )
    return problems.finish(videos)


def _read_meta(file: Path) -> dict[str, str | None]:
    """Read ``meta.json``: video name to the class of its objects, None if there are several classes."""
    if not file.is_file():
        raise UserError(f"{NAME}: no list {file}; expected the meta.json of the release, see README#datasets")
    try:
        videos = json.loads(file.read_text(encoding="utf-8"))["videos"]
        classes = {name: {entry.get("category") for entry in v["objects"].values()} for name, v in videos.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{NAME}: {file} is not a valid meta.json ({error!r}); download it again") from error
    return {name: found.pop() if len(found) == 1 else None for name, found in classes.items()}

"""YouTube-Objects (Prest et al., CVPR 2012) with the pixel-wise masks of Jain and Grauman (ECCV 2014).

Official layout: ``<class>/data/<video>/shots/<shot>/images/frame0001.jpg`` with ``.../labels/00001.jpg`` for every
tenth frame. Labels are JPEG images of 0 and 255, for some shots at half the resolution of the frames, and are matched
by frame number regardless of zero padding. The frames of the first release may be in a separate tree
(``<class>/data/<video>/shots/<shot>/frame0001.jpg``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from maskvos.data.datasets.listing import Problems, build_video, files_by_name, require_folder, subfolders
from maskvos.errors import UserError, nearest
from maskvos.types import MaskRule, Video

NAME = "YouTube-Objects"
CLASSES = ("aeroplane", "bird", "boat", "car", "cat", "cow", "dog", "horse", "motorbike", "train")
# JPEG compression makes the background not exactly 0.
RULE = MaskRule(above=127, any_size=True)

_NUMBER = re.compile(r"(\d+)$")


def youtube_objects(
    root: Path | str, classes: Sequence[str] | None = None, frames: Path | str | None = None
) -> list[Video]:
    """List YouTube-Objects; it has no training split.

    Args:
        root: Folder of the classes, with the labels.
        classes: Select these classes from `CLASSES`; None: all ten.
        frames: Folder of the classes with the frames, if they are in a separate tree.

    Returns:
        One video per annotated shot, named ``<class>_<video>_<shot>``, with its class as category.

    Raises:
        UserError: Missing folder, unknown class, shot without frames, or label without a frame.
    """
    for name in classes or ():
        if name not in CLASSES:
            raise UserError(f"{NAME}: unknown class '{name}'; {nearest(name, CLASSES)}")
    require_folder(NAME, root, expected="<class>/data/<video>/shots/<shot>/images/*.jpg with .../labels/*.jpg")
    problems = Problems(NAME)
    videos = []
    for name in classes or CLASSES:
        data = require_folder(NAME, root, name, "data", expected=f"{name}/data/<video>/shots/<shot>/labels")
        for video in subfolders(data):
            shots = data / video / "shots"
            for shot in subfolders(shots) if shots.is_dir() else []:
                # Shots without labels are not part of the benchmark.
                if (shots / shot / "labels").is_dir():
                    source = Path(frames or root) / name / "data" / video / "shots" / shot
                    source = source / "images" if (source / "images").is_dir() else source
                    videos.append(_shot(shots / shot / "labels", source, f"{name}_{video}_{shot}", name, problems))
    if not videos:
        problems.add(f"no annotated shot under {root}; expected folders <class>/data/<video>/shots/<shot>/labels")
    return problems.finish(videos)


def _shot(labels: Path, source: Path, name: str, category: str, problems: Problems) -> Video | None:
    """Build one shot, matching labels to frames by number."""
    images = files_by_name(source)
    by_number = {_number(stem): stem for stem in images}
    masks = {by_number.get(_number(stem), stem): path for stem, path in files_by_name(labels).items()}
    if not masks:
        problems.add(f"shot '{name}': no label in {labels}; expected images, e.g. 00001.jpg")
    return build_video(name, images, masks, problems, dense=False, category=category, rule=RULE, source=str(source))


def _number(stem: str) -> int | None:
    found = _NUMBER.search(stem)
    return int(found[1]) if found else None

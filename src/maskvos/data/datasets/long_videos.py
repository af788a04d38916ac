"""Long-Videos (Liang et al., NeurIPS 2020): three videos of some thousand frames, about twenty of each annotated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskvos.data.datasets.listing import Problems, build_video, files_by_name, pick, require_folder, subfolders
from maskvos.types import Video

NAME = "Long-Videos"
LAYOUT = "JPEGImages/<video>/*.jpg with Annotations/<video>/*.png"


def long_videos(root: Path | str, sequences: Sequence[str] | None = None) -> list[Video]:
    """List Long-Videos; it has no training split.

    Args:
        root: The folder that holds ``JPEGImages`` and ``Annotations``.
        sequences: Only these; None: all.

    Returns:
        One video per sequence with all of its frames; few of them have masks.

    Raises:
        UserError: A missing folder; a video without frames or without masks; a mask without its frame.
    """
    images = require_folder(NAME, root, "JPEGImages", expected=LAYOUT)
    masks = require_folder(NAME, root, "Annotations", expected=LAYOUT)
    problems = Problems(NAME)
    videos = []
    for name in pick(subfolders(images), sequences, NAME):
        found = files_by_name(masks / name, {".png"})
        if not found:
            problems.add(f"video '{name}': no mask in {masks / name}; expected palette pictures such as 00000.png")
        source = images / name
        videos.append(build_video(name, files_by_name(source), found, problems, dense=False, source=str(source)))
    if not videos:
        problems.add(f"no video in {images}; expected {LAYOUT}")
    problems.raise_any()
    return [video for video in videos if video is not None]

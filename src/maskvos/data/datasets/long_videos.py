"""Long-Videos (Liang et al., NeurIPS 2020): three videos of a few thousand frames, with about 20 masks each."""

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
        root: Folder with ``JPEGImages`` and ``Annotations``.
        sequences: Select these sequences; None: all.

    Returns:
        One video per sequence with all frames; only a few have masks.

    Raises:
        UserError: Missing folder, video without frames or masks, or mask without a frame.
    """
    images = require_folder(NAME, root, "JPEGImages", expected=LAYOUT)
    masks = require_folder(NAME, root, "Annotations", expected=LAYOUT)
    problems = Problems(NAME)
    videos = []
    for name in pick(subfolders(images), sequences, NAME):
        found = files_by_name(masks / name, {".png"})
        if not found:
            problems.add(f"video '{name}': no mask in {masks / name}; expected palette images, e.g. 00000.png")
        source = images / name
        videos.append(build_video(name, files_by_name(source), found, problems, dense=False, source=str(source)))
    if not videos:
        problems.add(f"no video in {images}; expected {LAYOUT}")
    return problems.finish(videos)

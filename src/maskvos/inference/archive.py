"""Many videos in one output folder: equal shares for several processes, and the table of all results."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskvos.inference.video_folder import MANIFEST
from maskvos.media.files import read_file, write_bytes
from maskvos.text import cell
from maskvos.types import Video

TABLE = "videos.csv"
_COLUMNS = ("video", "frames", "seconds", "foreground", "confidence", "problem")


def share(videos: Sequence[Video], index: int, count: int) -> list[Video]:
    """One of several shares of about equal size in bytes; the same in every process that lists the same files.

    Args:
        videos: All videos.
        index: Number of the share, from 0.
        count: Number of shares.

    Returns:
        Its videos, in their order.
    """
    loads = [0] * count
    mine = set()
    # The largest first, each to the share that has least.
    for video, size in largest_first(videos):
        least = loads.index(min(loads))
        loads[least] += max(size, 1)
        if least == index:
            mine.add(video.name)
    return [video for video in videos if video.name in mine]


def largest_first(videos: Sequence[Video]) -> list[tuple[Video, int]]:
    """The videos and their sizes in bytes, the largest first; those of the same size by name."""
    return sorted(((video, _bytes(video)) for video in videos), key=lambda pair: (-pair[1], pair[0].name))


def _bytes(video: Video) -> int:
    files = [video.file] if video.file is not None else [frame.image for frame in video.frames]
    return sum(file.stat().st_size for file in files if file.exists())


def write_table(output: Path, videos: Sequence[Video]) -> None:
    """Write ``videos.csv``: what became of each video, those first that should be looked at.

    Columns: ``frames``; ``seconds``; ``foreground``, the mean share of pixels that belong to the object;
    ``confidence``, the mean of `SegmentedFrame.confidence`; ``problem``, why a video failed or what is wrong with it.
    Videos with a problem come first, the others by confidence, the lowest first.

    Args:
        output: Folder of all results.
        videos: All videos, also those that other processes segment.

    Raises:
        UserError: The table cannot be written.
    """
    rows = [_row(output / video.name / MANIFEST, video.name) for video in videos]
    rows.sort(key=lambda row: (not row["problem"], row["confidence"] or 0, row["video"]))
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(row[name]) for name in _COLUMNS} for row in rows)
    write_bytes(output / TABLE, text.getvalue().encode())


def _row(path: Path, name: str) -> dict[str, Any]:
    try:
        made = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError):
        made = {}
    problem = made.get("error", "") or _problem(made)
    return {**{column: made.get(column) for column in _COLUMNS}, "video": name, "problem": problem}


def _problem(made: dict[str, Any]) -> str:
    if made.get("expected"):
        return f"ends after {made['frames']} of about {made['expected']} frames"
    if not made.get("complete"):
        return "not complete"
    return f"{made['damaged']} frames have errors" if made.get("damaged") else ""

"""User videos without masks: a movie file, a folder of frames, or a folder of these."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from maskvos.data.datasets.listing import IMAGES, MOVIES, files_by_name, subfolders
from maskvos.errors import UserError
from maskvos.text import natural
from maskvos.types import Frame, Video

log = logging.getLogger(__name__)

EXPECTED = "expected a movie file, a folder of frames, or a folder of such folders and movie files"


def folder(root: Path | str | None) -> list[Video]:
    """List user videos; what else lies in the folder is logged, with the reason, and ignored.

    Args:
        root: A movie file (with any extension), a folder of images (the frames of one video, in natural order of their
            names), or a folder with movie files and folders of images.

    Returns:
        The videos, in natural order of their names, without masks.

    Raises:
        UserError: No input, missing path, no image or movie in the folder, frames and movies in the same folder, or two
            videos of the same name.
    """
    if root is None or not str(root):
        raise UserError(f"no input given; set input=<path>: {EXPECTED}")
    # The absolute path gives the video a name even for input=.
    root = Path(root).expanduser().absolute()
    if root.name == "..":
        root = root.resolve()
    if root.is_file():
        return [_file(root)]
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is neither a file nor a folder, but a pipe or a device; {EXPECTED}")
    if not root.is_dir():
        raise UserError(f"no file or folder {root}; {EXPECTED}")
    movies = files_by_name(root, MOVIES)
    images = files_by_name(root)
    inside = [name for name in subfolders(root) if files_by_name(root / name)]
    if images:
        if movies or inside:
            other = next(iter(movies.values()), None) or root / inside[0]
            raise UserError(
                f"{root}: it contains both images and {other.name}; give a folder of frames or a folder of videos"
            )
        _log_ignored(root, {path.name for path in images.values()})
        return [_frames(root, images)]
    if not movies and not inside:
        raise UserError(
            f"{root}: neither an image ({', '.join(sorted(IMAGES))}) nor a movie ({', '.join(sorted(MOVIES))}); "
            f"{EXPECTED}"
        )
    twice = sorted(set(movies) & set(inside))
    if twice:
        raise UserError(
            f"{root}: both a folder and a movie are called '{twice[0]}'; video names must be unique, so rename one"
        )
    _log_ignored(root, {*inside, *(path.name for path in movies.values())})
    videos = [_file(path) for path in movies.values()]
    videos += [_frames(root / name, files_by_name(root / name)) for name in inside]
    return sorted(videos, key=lambda video: natural(video.name))


def _file(path: Path) -> Video:
    """Single file: an image becomes a video of one frame, anything else is a movie."""
    name = path.stem if path.stem.strip(".") else path.name  # "...mp4" is not the video ".."
    if path.suffix.lower() in IMAGES:
        return Video(name, (Frame(name, path),), dataset="folder")
    return Video(name, file=path, dataset="folder")


def _frames(path: Path, images: dict[str, Path]) -> Video:
    return Video(path.name, tuple(Frame(name, image) for name, image in images.items()), dataset="folder")


def _log_ignored(root: Path, used: set[str], shown: int = 5) -> None:
    found = [f"{name} ({reason})" for name, reason in _unused(root, used)]
    if found:
        more = f" and {len(found) - shown} more" if len(found) > shown else ""
        log.info("%s: ignored %s%s", root, ", ".join(found[:shown]), more)


def _unused(root: Path, used: set[str]) -> Iterator[tuple[str, str]]:
    """Names in a folder, without hidden ones, that are not used, each with the reason."""
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda entry: natural(entry.name)):
            if entry.name in used or entry.name.startswith("."):
                continue
            kind = "no images in it" if entry.is_dir() else "neither an image nor a movie"
            yield entry.name, kind if entry.is_dir() or entry.is_file() else "not a file"

"""User videos without masks: a movie file, a folder of frames, or a folder of these."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from maskvos.data.datasets.listing import IMAGES, MOVIES, files_by_name, is_kind, subfolders
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
    root = Path(os.path.expanduser(root)).absolute()  # the method refuses a file named "~.mp4"
    if root.name == "..":
        root = root.resolve()
    if root.is_file():
        return [_file(root)]
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is neither a file nor a folder, but a pipe or a device; {EXPECTED}")
    if not root.is_dir():
        raise UserError(f"no file or folder {root}; {EXPECTED}")
    try:
        movies, images = files_by_name(root, MOVIES), files_by_name(root)
    except OSError as error:
        raise UserError(f"the folder {root} cannot be read ({error.strerror}); change its permissions") from error
    inside = {name: found for name in subfolders(root) if (found := _images(root / name))}
    if images:
        if movies or inside:
            other = next(iter(movies.values()), None) or root / next(iter(inside))
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
    videos += [_frames(root / name, found) for name, found in inside.items()]
    return sorted(videos, key=lambda video: natural(video.name))


def _file(path: Path) -> Video:
    """Single file: an image becomes a video of one frame, anything else is a movie."""
    name = path.stem if path.stem.strip(".") else path.name  # "...mp4" is not the video ".."
    if path.suffix.lower() in IMAGES:
        return Video(name, (Frame(name, path),), dataset="folder")
    return Video(name, file=path, dataset="folder")


def _images(path: Path) -> dict[str, Path]:
    """Images of a folder; none if it cannot be read."""
    try:
        return files_by_name(path)
    except OSError:
        return {}


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
            if is_kind(entry.is_dir):
                yield entry.name, "no images in it" if os.access(entry.path, os.R_OK | os.X_OK) else "cannot be read"
            else:
                yield entry.name, "neither an image nor a movie" if is_kind(entry.is_file) else "not a file"

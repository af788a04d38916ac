"""User videos without masks: a movie file, a folder of frames, or a folder of these, nested at will."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from maskvos.data.datasets.listing import IMAGES, MOVIES, files_by_name, is_kind, subfolders
from maskvos.errors import UserError
from maskvos.text import natural
from maskvos.types import Frame, Video

log = logging.getLogger(__name__)

EXPECTED = "expected a movie file, a folder of frames, or a folder of such folders and movie files"
RESULTS = "manifest.json"
"""The file that marks a folder as results of prediction, which are not segmented again."""
# Number of ignored files and folders that are listed one by one.
_LISTED = 5


def folder(root: Path | str | None) -> list[Video]:
    """List user videos; what else lies in the folder is logged, with the reason, and ignored.

    Args:
        root: A movie file (with any extension), a folder of images (the frames of one video, in natural order of their
            names), or a folder with movie files and folders of images, also in folders of folders.

    Returns:
        The videos, in natural order of their names, without masks. Those in nested folders are named by their path from
        ``root``, with slashes: ``holiday/beach``.

    Raises:
        UserError: No input, missing path, no image or movie in the folder, frames and movies in the same folder, or two
            videos of the same name.
    """
    if root is None or not str(root):
        raise UserError(f"no input given; set input=<path>: {EXPECTED}")
    # The absolute path gives the video a name even for input=.
    # A name that exists is taken literally, "~" too. The method of paths refuses a file named "~.mp4".
    root = Path(root if os.path.lexists(root) else os.path.expanduser(root)).absolute()
    if root.name == "..":
        root = root.resolve()
    if root.is_file():
        return [_file(root)]
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is neither a file nor a folder, but a pipe or a device; {EXPECTED}")
    if not root.is_dir():
        raise UserError(f"no file or folder {root}; {EXPECTED}")
    ignored: list[str] = []
    try:
        videos = _collect(root, "", ignored)
    except OSError as error:
        raise UserError(f"the folder {root} cannot be read ({error.strerror}); change its permissions") from error
    if not videos:
        raise UserError(
            f"{root}: neither an image ({', '.join(sorted(IMAGES))}) nor a movie ({', '.join(sorted(MOVIES))}); "
            f"{EXPECTED}"
        )
    if ignored:
        more = f" and {len(ignored) - _LISTED} more" if len(ignored) > _LISTED else ""
        log.info("%s: ignored %s%s", root, ", ".join(ignored[:_LISTED]), more)
    return sorted(videos, key=lambda video: natural(video.name))


def _collect(place: Path, inside: str, ignored: list[str], above: tuple[str, ...] = ()) -> list[Video]:
    """The videos in a folder and in the folders below it.

    Args:
        place: The folder.
        inside: Its path from the folder that the user gave, with a slash at the end; empty for that one.
        ignored: Is extended by what is left out, each with the reason.
        above: Real paths of the folders above, which a link may lead to again.

    Raises:
        OSError: The folder cannot be read.
        UserError: Two files or a file and a folder have the same name, or the first folder holds frames and videos.
    """
    movies, images = files_by_name(place, MOVIES), files_by_name(place)
    above = (*above, os.path.realpath(place))
    deeper = {name: _below(place / name, f"{inside}{name}/", ignored, above) for name in subfolders(place)}
    deeper = {name: found for name, found in deeper.items() if found}
    if images and not movies and not deeper:
        _note_unused(place, inside, {path.name for path in images.values()}, ignored)
        return [_frames(place, images, inside.rstrip("/") or place.name)]
    if images and not inside:
        other = next(iter(movies.values()), None) or place / next(iter(deeper))
        raise UserError(
            f"{place}: it contains both images and {other.name}; give a folder of frames or a folder of videos"
        )
    if images:
        ignored.append(f"{len(images)} image(s) of {inside.rstrip('/')} (beside videos)")
    if twice := sorted(set(movies) & set(deeper)):
        raise UserError(
            f"{place}: both a folder and a movie are called '{twice[0]}'; video names must be unique, so rename one"
        )
    used = {path.name for path in (*movies.values(), *images.values())} | set(subfolders(place))
    if movies or deeper:
        _note_unused(place, inside, used, ignored)
    return [_file(path, inside) for path in movies.values()] + [video for found in deeper.values() for video in found]


def _below(place: Path, inside: str, ignored: list[str], above: tuple[str, ...]) -> list[Video]:
    """The videos of a folder within another, or none, with the reason."""
    if (place / RESULTS).is_file():
        reason = "results of maskvos"
    elif os.path.realpath(place) in above:
        reason = "a link to a folder above"
    else:
        try:
            before = len(ignored)
            if found := _collect(place, inside, ignored, above):
                return found
            if len(ignored) > before:  # it has been said of what is in it
                return []
            reason = "no image or movie in it"
        except OSError:
            reason = "cannot be read"
    ignored.append(f"{inside.rstrip('/')} ({reason})")
    return []


def _file(path: Path, inside: str = "") -> Video:
    """Single file: an image becomes a video of one frame, anything else is a movie."""
    name = inside + (path.stem if path.stem.strip(".") else path.name)  # "...mp4" is not the video ".."
    if path.suffix.lower() in IMAGES:
        return Video(name, (Frame(name, path),), dataset="folder")
    return Video(name, file=path, dataset="folder")


def _frames(path: Path, images: dict[str, Path], name: str) -> Video:
    return Video(name, tuple(Frame(frame, image) for frame, image in images.items()), dataset="folder")


def _note_unused(place: Path, inside: str, used: set[str], ignored: list[str]) -> None:
    """Note what in a folder is not used, without what is hidden, each with the reason."""
    with os.scandir(place) as entries:
        for entry in sorted(entries, key=lambda entry: natural(entry.name)):
            if entry.name in used or entry.name.startswith(".") or is_kind(entry.is_dir):
                continue
            reason = "neither an image nor a movie" if is_kind(entry.is_file) else "not a file"
            ignored.append(f"{inside}{entry.name} ({reason})")

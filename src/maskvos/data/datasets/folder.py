"""User videos without masks: a movie file, a folder of frames, or a folder of these."""

from __future__ import annotations

from pathlib import Path

from maskvos.data.datasets.listing import IMAGES, MOVIES, files_by_name, subfolders
from maskvos.errors import UserError
from maskvos.text import natural
from maskvos.types import Frame, Video

EXPECTED = "expected a movie file, a folder of frames, or a folder of such folders and movie files"


def folder(root: Path | str | None) -> list[Video]:
    """List user videos.

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
    if root.is_file():
        return [_file(root)]
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
    videos = [_file(path) for path in movies.values()]
    videos += [_frames(root / name, files_by_name(root / name)) for name in inside]
    return sorted(videos, key=lambda video: natural(video.name))


def _file(path: Path) -> Video:
    """Single file: an image becomes a video of one frame, anything else is a movie."""
    if path.suffix.lower() in IMAGES:
        return Video(path.stem, (Frame(path.stem, path),), dataset="folder")
    return Video(path.stem, file=path, dataset="folder")


def _frames(path: Path, images: dict[str, Path]) -> Video:
    return Video(path.name, tuple(Frame(name, image) for name, image in images.items()), dataset="folder")

"""Any video of one's own: a movie file, a folder of frames, or a folder of such things; no masks."""

from __future__ import annotations

from pathlib import Path

from maskvos.data.datasets.listing import IMAGES, MOVIES, files_by_name, natural, subfolders
from maskvos.errors import UserError
from maskvos.types import Frame, Video

EXPECTED = "expected a movie file, a folder of frames, or a folder of such folders and movie files"


def folder(root: Path | str | None) -> list[Video]:
    """List whatever videos lie at a place.

    Args:
        root: A movie file (any that the decoder can read, whatever its suffix), a folder of images (the frames of one
            video, in natural order of their names), or a folder that holds movie files and folders of images.

    Returns:
        The videos, in natural order of their names; none has masks.

    Raises:
        UserError: Nothing given, nothing there, no image or movie in the folder, frames and movies mixed in one folder,
            or two videos of one name.
    """
    if root is None or not str(root):
        raise UserError(f"no input given; say input=<path>: {EXPECTED}")
    # An absolute path names a video even where the user says input=. from inside its folder.
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
                f"{root}: images lie beside {other.name}; give either a folder of frames or a folder of videos"
            )
        return [_frames(root, images)]
    if not movies and not inside:
        raise UserError(
            f"{root}: neither an image ({', '.join(sorted(IMAGES))}) nor a movie ({', '.join(sorted(MOVIES))}); "
            f"{EXPECTED}"
        )
    twice = sorted(set(movies) & set(inside))
    if twice:
        raise UserError(f"{root}: both a folder and a movie are called '{twice[0]}'; results go by name, so rename one")
    videos = [_file(path) for path in movies.values()]
    videos += [_frames(root / name, files_by_name(root / name)) for name in inside]
    return sorted(videos, key=lambda video: natural(video.name))


def _file(path: Path) -> Video:
    """A single file: an image is a video of one frame, anything else is taken for a movie."""
    if path.suffix.lower() in IMAGES:
        return Video(path.stem, (Frame(path.stem, path),), dataset="folder")
    return Video(path.stem, file=path, dataset="folder")


def _frames(path: Path, images: dict[str, Path]) -> Video:
    """A folder of images."""
    return Video(path.name, tuple(Frame(name, image) for name, image in images.items()), dataset="folder")

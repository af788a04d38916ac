"""Shared helpers to list datasets: required folders, files by name, and collecting all problems into one error.

Listing reads directories only and opens no image, so 100,000 frames take about a second.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from maskvos.errors import UserError, nearest
from maskvos.text import natural
from maskvos.types import Frame, MaskRule, Video

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
FLOWS = IMAGES | {".flo"}
MOVIES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp"})


class ExtraDataWarning(UserWarning):
    """Files in a dataset folder that no list mentions; they are ignored."""


class ListingError(UserError):
    """A dataset has problems; the message shows the first ones only.

    Attributes:
        problems: All problems.
    """

    problems: tuple[str, ...] = ()


class Problems:
    """Collects the problems of a dataset, to report all of them at once.

    Args:
        dataset: Name of the dataset, with which each message starts.
    """

    SHOWN = 20

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        """Add a problem: the path and what was expected."""
        self.found.append(problem)

    def finish(self, videos: Iterable[Video | None]) -> list[Video]:
        """Return the videos, without None, or raise one error for all problems.

        Raises:
            ListingError: There are problems; the message has one per line, at most `SHOWN`.
        """
        if not self.found:
            return [video for video in videos if video is not None]
        problems = tuple(f"{self.dataset}: {problem}" for problem in self.found)
        shown = list(problems[: self.SHOWN])
        if len(problems) > len(shown):
            shown.append(f"{self.dataset}: ... and {len(problems) - len(shown)} more")
        error = ListingError("\n".join(shown))
        error.problems = problems
        raise error


def require_folder(dataset: str, root: Path | str, *parts: str, expected: str) -> Path:
    """Path of a folder that must exist.

    Args:
        dataset: Name of the dataset, for the error message.
        root: Root folder of the dataset.
        parts: Path components below ``root``.
        expected: Expected layout below ``root``, for the error message, e.g. ``"Testset/<sequence>/*.jpg"``.

    Returns:
        The folder.

    Raises:
        UserError: The folder does not exist.
    """
    root = Path(root)
    folder = root.joinpath(*parts)
    if not os.path.isdir(folder):  # unlike `Path.is_dir`, also False for a name that is too long
        missing = "/".join(parts) or root.name
        where = root if parts else root.parent
        raise UserError(
            f"{dataset}: no folder '{missing}' under {where}; expected {root / expected}; download it "
            "(README#datasets) or give its location: paths.data=<parent folder>, or data.root=<its folder>"
        )
    return folder


def subfolders(folder: Path) -> list[str]:
    """Names of the subfolders in natural order, without hidden ones."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if is_kind(entry.is_dir) and not entry.name.startswith((".", "__"))]
    return sorted(names, key=natural)


def is_kind(check: Callable[[], bool]) -> bool:
    """``check`` of a directory entry, False for a link to itself."""
    try:
        return check()
    except OSError:
        return False


def files_by_name(folder: Path, suffixes: Iterable[str] = IMAGES) -> dict[str, Path]:
    """Files of a folder by stem, in natural order, without hidden files, pipes and devices.

    Args:
        folder: The folder; a missing one has no files.
        suffixes: Lower-case extensions to include.

    Returns:
        Stem to path.

    Raises:
        UserError: Two files have the same stem.
    """
    if not os.path.isdir(folder):  # unlike `Path.is_dir`, also False for a name that is too long
        return {}
    suffixes = frozenset(suffixes)
    found: dict[str, Path] = {}
    with os.scandir(folder) as entries:
        # A link to nowhere is listed, and its reader reports it; reading a pipe or a device might never end.
        names = [
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and (is_kind(entry.is_file) or not os.path.exists(entry.path))
        ]
    for name in sorted(names):
        stem = name.rpartition(".")[0]
        if name[len(stem) :].lower() not in suffixes:
            continue
        if stem in found:
            raise UserError(
                f"{folder}: '{found[stem].name}' and '{name}' are both frame '{stem}'; "
                "frames are matched by name, so remove one of them"
            )
        found[stem] = folder / name
    if all(map(str.isdecimal, found)) and len(set(map(len, found))) <= 1:
        return found  # zero-padded numbers, the common case, are sorted already
    return {stem: found[stem] for stem in sorted(found, key=natural)}


def read_names(file: Path, dataset: str) -> list[str]:
    """Non-empty lines of a text file, stripped.

    Raises:
        UserError: The file is missing, not text, or empty.
    """
    if not os.path.isfile(file):
        raise UserError(f"{dataset}: no list {file}; expected a text file with one name per line, see README#datasets")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{dataset}: the list {file} is not a text file; download it again") from error
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"{dataset}: the list {file} is empty; expected one name per line")
    return lines


def pick(names: Sequence[str], wanted: Sequence[str] | None, dataset: str) -> list[str]:
    """Select sequences by name, in the order of the dataset; None selects all.

    Raises:
        UserError: A sequence does not exist; the message suggests similar names.
    """
    if wanted is None:
        return list(names)
    for name in wanted:
        if name not in names:
            raise UserError(f"{dataset}: no sequence '{name}'; {nearest(name, names)}")
    return [name for name in names if name in set(wanted)]


def build_video(
    name: str,
    images: Mapping[str, Path],
    masks: Mapping[str, Path],
    problems: Problems,
    *,
    dense: bool = True,
    flows: Mapping[str, Path] | None = None,
    masks_folder: Path | None = None,
    category: str | None = None,
    rule: MaskRule | None = None,
    source: str = "",
) -> Video | None:
    """Match the frames, masks and flows of one sequence by name.

    Args:
        name: Name of the sequence.
        images: Frame name to image, in temporal order.
        masks: Frame name to ground-truth mask.
        problems: Collects what does not match.
        dense: Whether each frame must have a mask.
        flows: Frame name to precomputed flow.
        masks_folder: Folder of the masks, for messages.
        category: Class of the main object.
        rule: Which mask values are foreground.
        source: Folder of the frames, for messages.

    Returns:
        The video, or None if it has no frames (which is added to the problems).
    """
    if not images:
        problems.add(f"sequence '{name}': no frame in {source}; expected images, e.g. 00000.jpg")
        return None
    if dense:
        for stem, image in images.items():
            if stem not in masks:
                where = (masks_folder or Path()) / f"{stem}.png"
                problems.add(f"no mask for the frame {image}; expected {where}")
    for stem, mask in masks.items():
        if stem not in images:
            problems.add(f"no frame for the mask {mask}; expected an image '{stem}' in {source}")
    flows = flows or {}
    frames = [Frame(stem, image, masks.get(stem), flows.get(stem)) for stem, image in images.items()]
    return Video(name, tuple(frames), None, problems.dataset, category, rule or MaskRule())


def warn_extra(dataset: str, text: str) -> None:
    """Warn about files that are ignored; ``task=check`` reports them as a problem."""
    warnings.warn(f"{dataset}: {text}", ExtraDataWarning, stacklevel=3)

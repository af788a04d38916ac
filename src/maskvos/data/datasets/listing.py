"""What every disk layout needs: folders that must exist, files found by name, problems collected and told at once.

Listing looks at folders only; no image is opened, so that a list of 100,000 frames takes a second.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from maskvos.errors import UserError, nearest
from maskvos.types import Frame, MaskRule, Video

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
FLOWS = IMAGES | {".flo"}
MOVIES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp"})

_DIGITS = re.compile(r"(\d+)")


class ExtraDataWarning(UserWarning):
    """Something lies in a dataset's folder that no list mentions; training goes on without it."""


class ListingError(UserError):
    """Several things are wrong with a dataset; its text shows the first ones only.

    Attributes:
        problems: All of them.
    """

    problems: tuple[str, ...] = ()


class Problems:
    """Collects what is wrong with a dataset, so that all of it is told at once.

    Args:
        dataset: Name of the dataset, which every message starts with.
    """

    SHOWN = 20

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        """Remember one problem: the path and what was expected of it."""
        self.found.append(problem)

    def raise_any(self) -> None:
        """Tell all problems in one error.

        Raises:
            ListingError: There are problems; its text has one per line, at most `SHOWN` of them.
        """
        if not self.found:
            return
        problems = tuple(f"{self.dataset}: {problem}" for problem in self.found)
        shown = list(problems[: self.SHOWN])
        if len(problems) > len(shown):
            shown.append(f"{self.dataset}: ... and {len(problems) - len(shown)} more")
        error = ListingError("\n".join(shown))
        error.problems = problems
        raise error


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts ``frame2`` before ``frame10``."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in _DIGITS.split(name) if part]


def require_folder(dataset: str, root: Path | str, *parts: str, expected: str) -> Path:
    """A folder of a dataset that must be there.

    Args:
        dataset: Name of the dataset, for the message.
        root: Where the dataset lies.
        parts: The folder below ``root``.
        expected: The layout below ``root``, for the message: ``"Testset/<sequence>/*.jpg"``.

    Returns:
        The folder.

    Raises:
        UserError: It is not there, or is not a folder.
    """
    root = Path(root)
    folder = root.joinpath(*parts)
    if not folder.is_dir():
        missing = "/".join(parts) or root.name
        where = root if parts else root.parent
        raise UserError(
            f"{dataset}: no folder '{missing}' under {where}; expected {root / expected}; get it (README#datasets) or "
            "say where it lies: paths.data=<folder above it>, or data.root=<its folder>"
        )
    return folder


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, in natural order; hidden ones are left out."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__"))]
    return sorted(names, key=natural)


def files_by_name(folder: Path, suffixes: Iterable[str] = IMAGES) -> dict[str, Path]:
    """Files of a folder by their name without suffix, in natural order.

    Args:
        folder: A folder; one that does not exist has no files.
        suffixes: Lower-case suffixes that count; hidden files and other suffixes are left out.

    Returns:
        Stem to path.

    Raises:
        UserError: Two files have one stem, so that a name would not tell which one is meant.
    """
    if not folder.is_dir():
        return {}
    suffixes = frozenset(suffixes)
    found: dict[str, Path] = {}
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    for name in sorted(names):
        stem = name.rpartition(".")[0]
        if name[len(stem) :].lower() not in suffixes:
            continue
        if stem in found:
            raise UserError(
                f"{folder}: '{found[stem].name}' and '{name}' are both frame '{stem}'; "
                "frames are matched by name, so keep one of them"
            )
        found[stem] = folder / name
    if all(map(str.isdecimal, found)) and len(set(map(len, found))) <= 1:
        return found  # numbers with leading zeros, as nearly always: they are in order already
    return {stem: found[stem] for stem in sorted(found, key=natural)}


def read_names(file: Path, dataset: str) -> list[str]:
    """Lines of a text list without blanks; empty lines are left out.

    Raises:
        UserError: The file is missing, is not text, or has no line.
    """
    if not file.is_file():
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
    """The sequences asked for, in the order of the dataset; all of them when nothing is asked for.

    Raises:
        UserError: A wanted sequence does not exist, with the nearest names.
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
        images: Frame name to image, in order of time.
        masks: Frame name to ground truth.
        problems: Takes what does not match.
        dense: Every frame must have a mask.
        flows: Frame name to precomputed flow.
        masks_folder: Where the masks were looked for, for messages.
        category: Class of the main object.
        rule: How the masks are to be understood.
        source: Where the frames were looked for, for messages.

    Returns:
        The video, or None where it has no frames (which is then among the problems).
    """
    if not images:
        problems.add(f"sequence '{name}': no frame in {source}; expected images such as 00000.jpg")
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
    """Tell of something that lies there and is not used; ``task=check`` counts it as a problem."""
    warnings.warn(f"{dataset}: {text}", ExtraDataWarning, stacklevel=3)

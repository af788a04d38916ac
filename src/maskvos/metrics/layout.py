"""Find predicted masks on disk, whatever the folder layout of the program that saved them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maskvos.errors import UserError
from maskvos.metrics.reading import SUFFIXES

if TYPE_CHECKING:
    from maskvos.metrics.protocol import Protocol
    from maskvos.types import Video

MAX_SHOWN = 20
"""Entries that a message lists at most."""
_DEPTH = 4


def find_predictions(
    predictions: Path | str, videos: Sequence[Video], protocol: Protocol
) -> dict[tuple[str, str], Path]:
    """Files that `evaluate_folder` scores, by sequence name and frame name.

    Raises:
        UserError: The folder does not exist, or contains no sequence.
    """
    base = find_base(Path(predictions), videos)
    single = is_sequence(base, videos)
    return {
        (video.name, frame): path
        for video in videos
        for frame, path in prediction_files(base if single else base / video.name, protocol.soft).items()
    }


def find_base(root: Path, videos: Sequence[Video]) -> Path:
    """Find the folder that contains the sequences (or the frames, if there is one sequence only).

    Raises:
        UserError: The folder does not exist, or contains no sequence, or several folders contain sequences.
    """
    if not root.is_dir():
        raise UserError(f"predictions={root}: folder not found; give the one that contains <sequence>/<frame>.png")
    if is_sequence(root, videos):
        return root
    found = {folder: sum((folder / video.name).is_dir() for video in videos) for folder in _walk(root, _DEPTH)}
    best = max(found, key=lambda folder: (found[folder], -len(folder.parts)))
    if not found[best]:
        present = ", ".join(path.name for path in subfolders(root)[:MAX_SHOWN]) or "no folder"
        raise UserError(
            f"predictions={root}: none of the {len(videos)} sequences found (e.g. '{videos[0].name}'); expected"
            f" {root}/<sequence>/<frame>.png, but found: {present}"
        )
    rivals = [
        folder
        for folder, count in found.items()
        if count and folder != best and folder not in best.parents and best not in folder.parents
    ]
    if rivals:
        raise UserError(
            f"predictions={root}: several folders contain sequences, {best} and {rivals[0]}; give the one to score"
        )
    return best


def is_sequence(folder: Path, videos: Sequence[Video]) -> bool:
    """Whether there is one video only and the folder contains its frames directly."""
    return len(videos) == 1 and not {frame.name for frame in videos[0].frames}.isdisjoint(_images(folder))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Yield a folder and its subfolders down to a depth, except folders of images."""
    yield folder
    if depth:
        for inner in subfolders(folder):
            if not _images(inner):
                yield from _walk(inner, depth - 1)


def subfolders(folder: Path) -> list[Path]:
    """Subfolders in order of their names, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> dict[str, Path]:
    """Images of a folder by stem; of two formats with the same stem, the one that comes first in `SUFFIXES`."""
    return {path.stem: path for path in reversed(_all_images(folder))}


def _all_images(folder: Path) -> list[Path]:
    """Images of a folder, preferred formats first."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    return sorted(found, key=lambda path: (SUFFIXES.index(path.suffix.lower()), path))


def duplicates(files: dict[str, Path]) -> list[Path]:
    """Images that have the same stem as one of `files`, in another format."""
    folders = sorted({path.parent for path in files.values()})
    return sorted(path for folder in folders for path in _all_images(folder) if files.get(path.stem) != path)


def prediction_files(folder: Path, soft: bool) -> dict[str, Path]:
    """Predictions of a sequence by frame, in its folder, ``masks`` or ``soft`` below (`soft`: the latter first)."""
    inner = ("soft", "masks") if soft else ("masks", "soft")
    return next((files for files in map(_images, (folder, *(folder / name for name in inner))) if files), {})


def misnamed_hint(name: str, extra: Sequence[str]) -> str:
    """Suggest an extra file that may be the prediction of a missing frame."""
    if name.isdigit():
        similar = [other for other in extra if (digits := re.findall(r"\d+", other)) and int(digits[-1]) == int(name)]
    else:
        similar = [other for other in extra if name in other]
    return f" (is it '{similar[0]}'?)" if similar else ""

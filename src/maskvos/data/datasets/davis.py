"""DAVIS-2016 and DAVIS-2017 in their official layout (https://davischallenge.org).

``ImageSets`` has lists in one of two formats. The 2016 release lists each frame with its mask
(``/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png``, in ``ImageSets/<resolution>``); the 2017 release
lists sequences (``bear``, in ``ImageSets/2016`` and ``ImageSets/2017``). The masks of 2017 have several objects as
palette indices; all indices but 0 are foreground.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskvos.data.datasets.listing import (
    Problems,
    build_video,
    files_by_name,
    pick,
    read_names,
    require_folder,
    warn_extra,
)
from maskvos.errors import UserError, nearest
from maskvos.types import Frame, Video

# Results are reported on the official val split, so checkpoints must not be selected on it. These sequences of the
# train split of both years (an animal, a vehicle, people) are held out for checkpoint selection instead.
HOLD_OUT = ("bus", "dance-jump", "mallard-fly", "scooter-gray")

LAYOUT = "JPEGImages/{resolution}/<sequence>/*.jpg with Annotations/{resolution}/<sequence>/*.png and ImageSets/"
SPLITS = {
    2016: ("train", "val", "trainval"),
    2017: ("train", "val", "trainval", "test-dev", "test-challenge"),
}


def davis(
    root: Path | str,
    split: str = "train",
    year: int = 2016,
    resolution: str = "480p",
    sequences: Sequence[str] | None = None,
    hold_out: Sequence[str] = HOLD_OUT,
    annotations: str = "Annotations",
) -> list[Video]:
    """List DAVIS.

    Args:
        root: Folder with ``JPEGImages``, ``Annotations`` and ``ImageSets``.
        split: ``train`` (the official split without ``hold_out``), ``held_out`` (those sequences only), or an official
            split: ``val``, ``trainval``, and for 2017 ``test-dev`` and ``test-challenge`` (masks are optional).
        year: 2016 or 2017.
        resolution: ``480p``, or ``full`` (``1080p`` in the 2016 release, ``Full-Resolution`` in 2017).
        sequences: Select these sequences; None: all.
        hold_out: Sequences of the official train split to exclude from training; empty: train on all.
        annotations: Folder of the masks; ``Annotations_unsupervised`` for the 2019 unsupervised challenge.

    Returns:
        One video per sequence, with a mask for each frame.

    Raises:
        UserError: Unknown split, year or sequence; missing folder, list, frames or masks (all are listed).
    """
    if year not in SPLITS:
        raise UserError(f"DAVIS: unknown year {year}; choose one of: {', '.join(map(str, SPLITS))}")
    if split != "held_out" and split not in SPLITS[year]:
        raise UserError(f"DAVIS-{year}: unknown split '{split}'; {nearest(split, (*SPLITS[year], 'held_out'))}")
    name = f"DAVIS-{year}"
    root = Path(root)
    folder = _resolution_folder(root, resolution)
    layout = LAYOUT.format(resolution=folder)
    require_folder(name, root, expected=layout)
    require_folder(name, root, "JPEGImages", folder, expected=layout)

    listed = _read_list(root, "train" if split == "held_out" else split, year, folder, name)
    chosen = list(listed)
    if split == "train":
        chosen = [sequence for sequence in chosen if sequence not in set(hold_out)]
    elif split == "held_out":
        chosen = [sequence for sequence in chosen if sequence in set(hold_out)]
    chosen = pick(chosen, sequences, f"{name} {split}")
    if not chosen:
        raise UserError(
            f"{name}: split '{split}' is empty with hold_out={list(hold_out)}; hold out some, but not all, of: "
            f"{', '.join(listed)}"
        )
    problems = Problems(name)
    dense = not split.startswith("test")
    videos = [_sequence(root, sequence, listed[sequence], folder, annotations, dense, problems) for sequence in chosen]
    return problems.finish(videos)


def _resolution_folder(root: Path, resolution: str) -> str:
    """Folder name of a resolution; that of full resolution depends on the release."""
    if resolution != "full":
        return resolution
    return "Full-Resolution" if (root / "JPEGImages" / "Full-Resolution").is_dir() else "1080p"


def _read_list(root: Path, split: str, year: int, folder: str, name: str) -> dict[str, list[tuple[str, str]] | None]:
    """Read the list of a split in either format.

    Returns:
        Sequence to its listed (frame, mask) file names, or to None if the list has no frames.
    """
    places = [root / "ImageSets" / str(year) / f"{split}.txt"]
    if year == 2016:
        # Prefer the list of the 2016 release, which names the required frames.
        places.insert(0, root / "ImageSets" / folder / f"{split}.txt")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        searched = " or ".join(str(place) for place in places)
        raise UserError(f"{name}: no list of split '{split}' under {root}; expected {searched}, see README#datasets")
    listed: dict[str, list[tuple[str, str]] | None] = {}
    for number, line in enumerate(read_names(file, name), start=1):
        parts = line.split()
        if "/" not in parts[0]:
            listed[parts[0]] = None
            continue
        if len(parts) < 2:
            raise UserError(
                f"{name}: {file}, line {number}: '{line}' has no mask; expected '/JPEGImages/... /Annotations/...'"
            )
        *_, sequence, image = parts[0].split("/")
        frames = listed.setdefault(sequence, [])
        if frames is not None:
            frames.append((image, parts[1].rpartition("/")[2]))
    return listed


def _sequence(
    root: Path,
    name: str,
    listed: list[tuple[str, str]] | None,
    folder: str,
    annotations: str,
    dense: bool,
    problems: Problems,
) -> Video | None:
    """Build a sequence from its list of frames, or from its folders if there is no list."""
    image_folder = root / "JPEGImages" / folder / name
    mask_folder = root / annotations / folder / name
    images, masks = files_by_name(image_folder), files_by_name(mask_folder)
    if listed is None:
        return build_video(
            name, images, masks, problems, dense=dense, masks_folder=mask_folder, source=str(image_folder)
        )
    frames, stems = [], set()
    for image, mask in listed:
        stem = image.rpartition(".")[0]
        stems.add(stem)
        if mask.rpartition(".")[0] != stem:
            problems.add(f"the list pairs the frame {name}/{image} with the mask {mask}; expected one of the same name")
            continue
        # Use the directory listings instead of one disk access per file.
        if stem in images and stem in masks:
            frames.append(Frame(stem, images[stem], masks[stem]))
            continue
        for path, present in ((image_folder / image, images), (mask_folder / mask, masks)):
            if stem not in present:
                problems.add(f"the list names {path}, which does not exist; download the dataset again or fix the list")
    unlisted = sorted((images.keys() | masks.keys()) - stems)
    if unlisted:
        text = f"sequence '{name}': {len(unlisted)} frames are in its folder but not in the list: {unlisted[:5]}"
        warn_extra(problems.dataset, text)
    return Video(name, tuple(frames), dataset=problems.dataset) if frames else None

"""DAVIS-2016 and DAVIS-2017 as their owners publish them (https://davischallenge.org).

Two forms of list exist, and either may lie under ``ImageSets``: the 2016 release names every frame with its mask
(``/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png``, in ``ImageSets/<resolution>``), the 2017 release
names sequences (``bear``, in ``ImageSets/2016`` and ``ImageSets/2017``). The many objects of the 2017 masks are palette
indices; whatever is not index 0 is foreground.
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

# Training must not choose its checkpoint on the official validation split, which is where the field reports its
# results. These sequences of the train split (an animal, a vehicle, people; both years have them) are kept out of
# training and serve that choice instead.
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
        root: The folder that holds ``JPEGImages``, ``Annotations`` and ``ImageSets``.
        split: ``train`` (the official one without ``hold_out``), ``held_out`` (the other part of it), or an official
            split as it is: ``val``, ``trainval``, and for 2017 ``test-dev`` and ``test-challenge`` (no masks needed).
        year: 2016 or 2017.
        resolution: ``480p``, or ``full`` (the folder ``1080p`` of 2016 or ``Full-Resolution`` of 2017).
        sequences: Only these; None: all of the split.
        hold_out: Sequences of the official train split that training does not see; empty: train on all of it.
        annotations: Folder of the masks; ``Annotations_unsupervised`` for the 2019 unsupervised challenge.

    Returns:
        One video per sequence, every frame with its mask.

    Raises:
        UserError: An unknown split, year or sequence; a missing folder, list, frame or mask (all of them at once).
    """
    if year not in SPLITS:
        raise UserError(f"DAVIS: no year {year}; choose one of: {', '.join(map(str, SPLITS))}")
    if split != "held_out" and split not in SPLITS[year]:
        raise UserError(f"DAVIS-{year}: no split '{split}'; {nearest(split, (*SPLITS[year], 'held_out'))}")
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
            f"{name}: split '{split}' has no sequence left: its list names {', '.join(listed)}, "
            f"and hold_out is {list(hold_out)}"
        )
    problems = Problems(name)
    dense = not split.startswith("test")
    videos = [_sequence(root, sequence, listed[sequence], folder, annotations, dense, problems) for sequence in chosen]
    problems.raise_any()
    return [video for video in videos if video is not None]


def _resolution_folder(root: Path, resolution: str) -> str:
    """The folder's name of a resolution: full resolution has another one in each release."""
    if resolution != "full":
        return resolution
    return "Full-Resolution" if (root / "JPEGImages" / "Full-Resolution").is_dir() else "1080p"


def _read_list(root: Path, split: str, year: int, folder: str, name: str) -> dict[str, list[tuple[str, str]] | None]:
    """Read the list of a split in either form.

    Returns:
        Sequence to its listed (frame, mask) file names, or to None where the list names no frames.
    """
    places = [root / "ImageSets" / str(year) / f"{split}.txt"]
    if year == 2016:
        # The 2016 release's own list comes first: it says which frames there must be.
        places.insert(0, root / "ImageSets" / folder / f"{split}.txt")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        looked = " or ".join(str(place) for place in places)
        raise UserError(f"{name}: no list of split '{split}' under {root}; expected {looked}, see README#datasets")
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
    """One sequence: by its list of frames, or by what lies in its folders."""
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
        # The folders' listings stand for one look-up per file on disk.
        if stem in images and stem in masks:
            frames.append(Frame(stem, images[stem], masks[stem]))
            continue
        for path, there in ((image_folder / image, images), (mask_folder / mask, masks)):
            if stem not in there:
                problems.add(f"the list names {path}, which is not there; download the data set again or correct it")
    unlisted = sorted((images.keys() | masks.keys()) - stems)
    if unlisted:
        text = f"sequence '{name}': {len(unlisted)} frames are in its folder but not in the list: {unlisted[:5]}"
        warn_extra(problems.dataset, text)
    return Video(name, tuple(frames), dataset=problems.dataset) if frames else None

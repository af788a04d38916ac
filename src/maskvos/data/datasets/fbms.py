"""FBMS-59, the Freiburg-Berkeley motion segmentation dataset (Ochs, Malik and Brox, PAMI 2014).

Official layout: ``Trainingset`` and ``Testset`` have a folder per sequence with ``.jpg`` frames (``bear01_0001.jpg``)
and a folder ``GroundTruth`` with masks of a few frames: ``.ppm`` with colours on white, ``.pgm`` with grey levels on
black, or ``.png`` of the 2016 revision on black. ``<sequence>Def.dat`` lists the regions (region 0 is the background)
with their mask values, and the frame of each mask.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from maskvos.data.datasets.listing import (
    Problems,
    build_video,
    files_by_name,
    pick,
    require_folder,
    subfolders,
)
from maskvos.errors import UserError, nearest
from maskvos.media.files import read_file
from maskvos.types import MaskRule, Video

NAME = "FBMS-59"
SPLITS = {"train": "Trainingset", "test": "Testset"}
WHITE = 0xFFFFFF

# Regions other than 0 that are counted as background in the literature: objects that do not move.
STILL_REGIONS = {"marple2": (2, 4), "marple7": (2,), "marple10": (2,), "marple13": (2,)}

_NUMBER = re.compile(r"\d+")


def fbms(root: Path | str, split: str = "train", sequences: Sequence[str] | None = None) -> list[Video]:
    """List FBMS-59.

    Args:
        root: Folder with ``Trainingset`` and ``Testset``.
        split: ``train`` (29 sequences) or ``test`` (30).
        sequences: Select these sequences; None: all.

    Returns:
        One video per sequence with all frames; only a few have masks.

    Raises:
        UserError: Missing folder, sequence without frames or masks, or mask without a frame.
    """
    if split not in SPLITS:
        raise UserError(f"{NAME}: unknown split '{split}'; {nearest(split, SPLITS)}")
    folder = require_folder(
        NAME, root, SPLITS[split], expected=f"{SPLITS[split]}/<sequence>/*.jpg with <sequence>/GroundTruth"
    )
    problems = Problems(NAME)
    names = pick(subfolders(folder), sequences, f"{NAME} {split}")
    videos = [_sequence(folder / name, problems) for name in names]
    if not names:
        problems.add(f"no sequence in {folder}; expected one folder per sequence, with frames and GroundTruth")
    return problems.finish(videos)


def _sequence(folder: Path, problems: Problems) -> Video | None:
    truth = folder / "GroundTruth"
    if not truth.is_dir():
        problems.add(f"sequence '{folder.name}': no folder {truth}; expected masks, e.g. {folder.name}_0001_gt.ppm")
        return None
    images = files_by_name(folder, {".jpg", ".jpeg", ".png"})
    masks, suffix = _masks(truth)
    if not masks:
        problems.add(f"sequence '{folder.name}': no mask in {truth}; expected {folder.name}_0001_gt.ppm, .pgm or .png")
    definition = next(iter(sorted(truth.glob("*Def.dat"))), None)
    values, pairs = _read_definition(definition) if definition is not None else ([], {})
    matched: dict[str, Path] = {}
    for stem, mask in masks.items():
        frame = _frame_of(stem, pairs, images)
        if frame is None:
            problems.add(f"no frame for the mask {mask}; expected an image of the same name in {folder}")
        else:
            matched[frame] = mask
    rule = _rule(folder.name, suffix, values)
    return build_video(folder.name, images, matched, problems, dense=False, rule=rule, source=str(folder))


def _masks(truth: Path) -> tuple[dict[str, Path], str]:
    """Masks of a sequence by stem, in the first format that exists, and its extension.

    The original release is preferred; ``PROB`` files are confidences, not masks.
    """
    for suffix in (".ppm", ".pgm", ".png"):
        found = files_by_name(truth, {suffix})
        found = {stem: path for stem, path in found.items() if "PROB" not in stem}
        if found:
            return found, suffix
    return {}, ""


def _frame_of(stem: str, pairs: Mapping[str, str], images: Mapping[str, Path]) -> str | None:
    """Name of the frame that a mask belongs to.

    In order of preference: the pair in the definition, the same name, the same frame number with different zero padding
    (``001_gt.png`` for ``bear01_0001.jpg``).
    """
    named = pairs.get(stem, "")
    if named in images:
        return named
    bare = stem.removesuffix("_gt")
    if bare in images:
        return bare
    number = _last_number(bare)
    same = [image for image in images if _last_number(image) == number]
    return same[0] if number is not None and len(same) == 1 else None


def _last_number(name: str) -> int | None:
    found = _NUMBER.findall(name)
    return int(found[-1]) if found else None


def _read_definition(file: Path) -> tuple[list[int], dict[str, str]]:
    """Read ``<sequence>Def.dat``: titles that end with a colon, followed by a line with the value.

    Returns:
        Mask value of each region (grey level, or 65536 R + 256 G + B), and mask name to frame name.
    """
    lines = [line.strip() for line in read_file(file).decode("latin-1").splitlines()]
    lines = [line for line in lines if line]
    values: list[int] = []
    pairs: dict[str, str] = {}
    mask = ""
    for title, value in itertools.pairwise(lines):
        title = title.lower()
        if title.startswith("scale of region") and value.isdigit():
            values.append(int(value))
        elif title.startswith("file name"):
            mask = Path(value).stem
        elif title.startswith("input file name") and mask:
            pairs[mask] = Path(value).stem
    return values, pairs


def _rule(name: str, suffix: str, values: Sequence[int]) -> MaskRule:
    """Background values of the masks of a sequence."""
    if suffix == ".png":
        return MaskRule()
    regions = (0, *STILL_REGIONS.get(name, ()))
    background = tuple(values[region] for region in regions if region < len(values))
    if not background:
        return MaskRule(background=(WHITE,)) if suffix == ".ppm" else MaskRule()
    return MaskRule(background=background)

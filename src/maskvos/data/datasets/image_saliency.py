"""Image saliency datasets, for samples without motion: DUTS (Wang et al., CVPR 2017) and similar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskvos.data.datasets.listing import Problems, build_video, files_by_name, require_folder
from maskvos.types import MaskRule, Video

# Greyscale masks with soft edges are binarised at one half.
RULE = MaskRule(above=127)


def image_saliency(
    root: Path | str,
    images: str = "DUTS-TR/DUTS-TR-Image",
    masks: str = "DUTS-TR/DUTS-TR-Mask",
    name: str = "DUTS",
) -> list[Video]:
    """List an image saliency dataset.

    Args:
        root: Root folder of the dataset.
        images: Folder of the images, below ``root``.
        masks: Folder of the masks, below ``root``; files are matched by name.
        name: Name of the dataset.

    Returns:
        One video of a single frame per image.

    Raises:
        UserError: Missing folder, image without a mask, or mask without an image.
    """
    layout = f"{images}/*.jpg with {masks}/*.png"
    image_folder = require_folder(name, root, *images.split("/"), expected=layout)
    mask_folder = require_folder(name, root, *masks.split("/"), expected=layout)
    problems = Problems(name)
    found_images, found_masks = files_by_name(image_folder), files_by_name(mask_folder)
    if not found_images:
        problems.add(f"no image in {image_folder}; expected {layout}")
    videos = [
        build_video(
            stem,
            {stem: image},
            {stem: found_masks[stem]} if stem in found_masks else {},
            problems,
            masks_folder=mask_folder,
            rule=RULE,
        )
        for stem, image in found_images.items()
    ]
    for stem in found_masks.keys() - found_images.keys():
        problems.add(f"no image for the mask {found_masks[stem]}; expected one of the same name in {image_folder}")
    return problems.finish(videos)


def image_sets(root: Path | str, sets: Sequence[str], images: str = "images", masks: str = "masks") -> list[Video]:
    """List several image saliency datasets below one folder, each named after its own: ``<root>/<set>/<images>``.

    Args:
        root: Parent folder of the datasets.
        sets: Folders of the datasets, which are also their names.
        images: See `image_saliency`.
        masks: See `image_saliency`.

    Returns:
        One video of a single frame per image, dataset by dataset.

    Raises:
        UserError: See `image_saliency`.
    """
    return [video for name in sets for video in image_saliency(Path(root) / name, images, masks, name)]
